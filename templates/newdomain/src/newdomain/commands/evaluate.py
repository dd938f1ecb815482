"""``newdomain evaluate``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core_runtime.cli import Outcome
from core_runtime.errors import UserError, counted
from core_runtime.options import Device, Model, Out, Overwrite, resolve_device


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on labelled signals.

    Attributes:
        metrics: by name.
        known: how many of the signals the model was trained on.
        table: where they stand.
    """

    metrics: Mapping[str, float]
    known: int
    table: Path

    def facts(self) -> Mapping[str, float]:
        return {**self.metrics, "trained_on": self.known}

    def lines(self) -> Iterable[str]:
        if self.known:
            yield f"The model was trained on {counted(self.known, 'signal')} of these: the figures are too good"
        for name, value in self.metrics.items():
            yield f"{name:10} {value:.3f}"
        yield f"Table: {self.table}"


def evaluate(
    folder: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("newdomain-evaluation"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model on labelled signals.

    Example: newdomain evaluate data --model run/model

    Args:
        folder: signals with a labels.csv.
    """
    import torch

    from core_runtime.folders import write_text
    from core_runtime.models import choose_model
    from newdomain.cohort import load_data
    from newdomain.metrics import measure
    from newdomain.model.folder import ADVICE, load_model, trained_on

    table = out / "metrics.json"
    if table.exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    chosen = choose_model(model, advice=ADVICE)
    network = load_model(chosen, resolve_device(device))
    data, digests = load_data(folder)
    windows, labels = data.tensors
    with torch.inference_mode():
        probabilities = network(windows.to(next(network.parameters()).device)).sigmoid().cpu()
    metrics = measure(probabilities, labels)
    write_text(table, json.dumps(metrics) + "\n")
    return Evaluation(metrics, len(trained_on(Path(chosen)).intersection(digests)), table)
