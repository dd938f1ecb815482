"""Training that leaves its state in the run folder after every epoch, so that a killed run goes on; shared by both groups."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import Sampler

from core_runtime.cli import progress as progress_bar
from core_runtime.folders import write_text
from core_runtime.quiet import quiet_lightning


class Training(lightning.LightningModule):
    """What `fit` asks of a training: the network as `model`, and after every epoch a row of means in `epoch_row`."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self.epoch_row: dict[str, float] = {}
        self._sums: dict[str, list[float]] = {}

    def count(self, **values: float) -> None:
        """Adds to the means of this epoch."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(float(value))

    def on_train_epoch_start(self) -> None:
        self._sums = {}

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        # every random number of a step is a function of the seed and the step: a resumed run draws the same ones
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def close_epoch(self) -> dict[str, float]:
        """The row of this epoch."""
        return {name: sum(v) / len(v) for name, v in self._sums.items()}


class EpochOrder(Sampler):
    """A shuffled order that is a function of the seed and the epoch (which Lightning tells it): a resumed run sees the same one.

    Args:
        size: how many items.
        seed: of the order.
        with_epoch: yield (epoch, number) instead of numbers, for datasets that draw by epoch.
    """

    def __init__(self, size: int, seed: int, *, with_epoch: bool = False) -> None:
        self.size, self.seed, self.with_epoch, self.epoch = size, seed, with_epoch, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        for number in torch.randperm(self.size, generator=generator).tolist():
            yield (self.epoch, number) if self.with_epoch else number


class RunFiles(lightning.Callback):
    """After every epoch: ``checkpoints/best.ckpt`` where `best` rose, ``checkpoints/last.ckpt``, ``metrics.csv``; ends after `patience` epochs.

    Args:
        folder: the run folder.
        epochs: how many there will be, for the progress bar.
        best: the column whose highest value is kept; None keeps the last epoch.
        patience: epochs without a higher value after which training ends; 0: never.
        show: whether a progress bar is drawn.
    """

    def __init__(self, folder: Path, *, epochs: int, best: str | None, patience: int = 0, show: bool = True) -> None:
        self.folder, self.epochs, self.rule, self.patience, self.show = folder, epochs, best, patience, show
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.bar = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best = state_dict["history"], state_dict["best"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.show and trainer.is_global_zero:
            self.bar = progress_bar("Training", self.epochs)
            self.bar.start()
            self.bar.advance(self.bar.task_ids[0], trainer.current_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        epoch = float(trainer.current_epoch)
        row = {"epoch": epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"], **pl_module.close_epoch()}
        self.history.append(row)
        score = epoch if self.rule is None else row[self.rule]
        if not self.best or score > self.best["score"]:
            self.best = {**row, "score": score}
            self._save(trainer, "best.ckpt", weights_only=True)
        if self.patience and epoch - self.best["epoch"] >= self.patience:
            trainer.should_stop = True
        self._save(trainer, "last.ckpt")
        if trainer.is_global_zero:
            write_text(self.folder / "metrics.csv", table(self.history))
        if self.bar:
            self.bar.advance(self.bar.task_ids[0])

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.bar:
            self.bar.stop()

    def _save(self, trainer: lightning.Trainer, name: str, weights_only: bool = False) -> None:
        path = self.folder / "checkpoints" / name
        part = path.with_name(f".{name}.part")
        trainer.save_checkpoint(part, weights_only)
        if trainer.is_global_zero:
            os.replace(part, path)


def table(history: list[dict[str, float]]) -> str:
    """The history as CSV, a line an epoch."""
    out = io.StringIO()
    writer = csv.DictWriter(out, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()


def fit(
    training: Training,
    data: Any,
    folder: Path,
    *,
    epochs: int,
    best: str | None,
    patience: int = 0,
    device: str = "cpu",
    precision: str = "32-true",
    show: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains (the network ends as the kept epoch left it), going on from ``checkpoints/last.ckpt`` where there is one.

    Args:
        data: a data module; its training loader takes its order from an `EpochOrder`.
        trainer: further arguments of Lightning's Trainer.

    Returns:
        The history, and its row of the kept epoch.

    Raises:
        FloatingPointError: a loss that is not finite.
    """
    files = RunFiles(folder, epochs=epochs, best=best, patience=patience, show=show)
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "accelerator": {"cuda": "gpu"}.get(device, device),
        "devices": 1,
        "precision": precision,
        "max_epochs": epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **(trainer or {}),
    }
    options["callbacks"] = [files, *options.get("callbacks", ())]
    with quiet_lightning():
        try:
            lightning.Trainer(**options).fit(
                training, data, ckpt_path=last if last.exists() else None, weights_only=True
            )
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    kept = torch.load(last.with_name("best.ckpt"), map_location="cpu", weights_only=True)["state_dict"]
    training.model.load_state_dict({k.removeprefix("model."): v for k, v in kept.items() if k.startswith("model.")})
    left = torch.load(last, map_location="cpu", weights_only=True)["callbacks"][files.state_key]
    return left["history"], left["best"]


def finite(loss: torch.Tensor) -> torch.Tensor:
    """The loss, unless it is NaN or infinite.

    Raises:
        FloatingPointError: it is.
    """
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the training loss is {loss.item()}; a lower --lr may help")
    return loss
