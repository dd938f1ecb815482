"""``newdomain evaluate``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, resolve_device


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on labelled signals."""

    metrics: Mapping[str, float]
    table: Path

    def facts(self) -> Mapping[str, float]:
        return self.metrics

    def lines(self) -> Iterable[str]:
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
    from newdomain.metrics import measure
    from newdomain.model.folder import load_model
    from newdomain.training.data import load_data

    table = out / "metrics.json"
    if table.exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    network = load_model(model, resolve_device(device))
    windows, labels = load_data(folder).tensors
    with torch.inference_mode():
        probabilities = network(windows.to(next(network.parameters()).device)).sigmoid().cpu()
    metrics = measure(probabilities, labels)
    write_text(table, json.dumps(metrics) + "\n")
    return Evaluation(metrics, table)
