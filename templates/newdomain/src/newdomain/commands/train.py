"""``newdomain train``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import RunOptions, flat, use_threads
from newdomain.training.recipe import Recipe


@dataclass(frozen=True)
class Trained(Outcome):
    """A run that ended.

    Attributes:
        model: its model folder.
        loss: of the kept epoch.
    """

    model: Path
    loss: float

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "loss": self.loss}

    def lines(self) -> Iterable[str]:
        yield f"Training loss {self.loss:.3f}"
        yield f"Model folder: {self.model}"
        yield f"Next: newdomain predict SIGNAL.csv --model {self.model}"


def train(folder: Path, /, *, recipe: Recipe = Recipe(), run: RunOptions = RunOptions()) -> Trained:
    """Trains a model on labelled signals. An interrupted run goes on with --resume.

    Example: newdomain train data --out run

    Args:
        folder: signals with a labels.csv.
    """
    import torch

    from core_runtime.folders import open_run
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import fit
    from newdomain.cohort import load_data
    from newdomain.model.burst import BurstClassifier, BurstConfig
    from newdomain.model.folder import save_model
    from newdomain.signals.formats import find_signals
    from newdomain.training.data import BurstData
    from newdomain.training.module import BurstTraining

    use_threads(run.threads)
    data, digests = load_data(folder)
    recorded = open_run(
        run,
        flat(folder=folder, recipe=recipe),
        packages=["torch", "lightning"],
        data=data_fingerprint(find_signals(folder)),
    )
    torch.manual_seed(run.seed)
    network = BurstClassifier(BurstConfig())
    module = BurstTraining(network, recipe.lr, run.seed)
    left = fit(
        module,
        BurstData(data, run.workers, run.seed),
        run,
        epochs=recipe.epochs,
    )
    provenance = {"trained_on": digests, "arguments": recorded, "epoch": int(left.best["epoch"])}
    model = save_model(network, run.out / "model", provenance=provenance)
    return Trained(model, left.best["train_loss"])
