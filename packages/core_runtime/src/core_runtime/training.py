"""Training with Lightning such that a killed run continues as if it had not been interrupted: state, history and the best epoch in a run folder.

The one module here that needs Lightning (``attention-suite-core-runtime[training]``); nothing else of this package imports it.
"""

import csv
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from core_runtime.errors import UserError
from core_runtime.folders import abandon_run, write_text, writing
from core_runtime.options import RunOptions, resolve_device
from core_runtime.terminal import progress

Row = Mapping[str, float]
Score = str | Callable[[Row], float]


class Training(lightning.LightningModule):
    """What `fit` trains: the network as `model`, and the means that its steps `count`.

    Random draws in a step (dropout, masks, augmentation) are a function of the seed, the step's number and the process, so that a resumed
    run draws the same.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self._counted: dict[str, list[float]] = {}

    def count(self, **values: float) -> None:
        """Adds to the means of this epoch."""
        for name, value in values.items():
            self._counted.setdefault(name, []).append(float(value))

    def finite(self, loss: Tensor, of: str = "") -> Tensor:
        """The loss.

        Raises:
            UserError: it is NaN or infinite; `of` names what it is the loss of.
        """
        if not math.isfinite(loss.item()):
            whose = ""
            if of:
                whose = f" of {of}"
            raise UserError(f"the training loss{whose} is {loss.item()}, not a finite number", "try a lower --lr")
        return loss

    def on_train_epoch_start(self) -> None:
        self._counted = {}

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        step = self.current_epoch * int(self.trainer.num_training_batches) + index
        # one seed per (seed, step, process): disjoint for up to 4,096 processes and a million steps
        torch.manual_seed((self.seed * 1_000_003 + step) * 4096 + self.global_rank)

    def close_epoch(self) -> dict[str, float]:
        """What the history records of this epoch besides its number and learning rate."""
        return {name: sum(values) / len(values) for name, values in self._counted.items()}


class EpochOrder(Sampler[Any]):
    """A shuffled order that is a function of the seed and the epoch (which Lightning tells it): a resumed run sees the same one.

    Args:
        size: number of items.
        seed: of the order.
        epoch: the first one; `first_epoch` tells it.
        with_epoch: yield (epoch, number) instead of numbers, for data sets that draw by epoch.
    """

    def __init__(self, size: int, seed: int, *, epoch: int = 0, with_epoch: bool = False) -> None:
        self.size, self.seed, self.epoch, self.with_epoch = size, seed, epoch, with_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for number in torch.randperm(self.size, generator=generator).tolist():
            if self.with_epoch:
                yield (self.epoch, number)
            else:
                yield number


class Left(NamedTuple):
    """The result of `fit`: one row per epoch, and the row of the best epoch with its "score"."""

    history: list[dict[str, float]]
    best: dict[str, float]


class RunFiles(lightning.Callback):
    """After every epoch: ``checkpoints/best.ckpt`` where the score rose, then ``checkpoints/last.ckpt``, then ``metrics.csv``.

    Each is renamed into place whole. The history is inside the checkpoint, so a resumed run continues it.
    """

    def __init__(self, folder: Path, *, epochs: int, score: Score, patience: int, show: bool) -> None:
        self.folder, self.epochs, self.score, self.patience, self.show = folder, epochs, score, patience, show
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.bar: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best = state_dict["history"], state_dict["best"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.show and trainer.is_global_zero:
            batches = int(trainer.num_training_batches)
            self.bar = progress("Training", self.epochs * batches)
            self.bar.start()
            self.bar.advance(self.bar.task_ids[0], trainer.current_epoch * batches)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.bar:
            self.bar.advance(self.bar.task_ids[0])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        epoch, lr = trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": float(epoch), "lr": lr, **pl_module.close_epoch()}
        self.history.append(row)
        if isinstance(self.score, str):
            score = row[self.score]
        else:
            score = self.score(row)
        # comparisons with NaN are false: without this, a NaN in the first epoch would stay the best
        if math.isnan(score):
            score = -math.inf
        if not self.best or score > self.best["score"]:
            self.best = {**row, "score": score}
            self._save(trainer, "best.ckpt", weights_only=True)
        if self.patience and epoch - self.best["epoch"] >= self.patience:
            trainer.should_stop = True
        # `last` after `best`: a kill between the two leaves an older `last`, which then repeats the epoch and writes `best` again
        self._save(trainer, "last.ckpt")
        if trainer.is_global_zero:
            write_text(self.folder / "metrics.csv", _table(self.history))

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.bar:
            self.bar.stop()

    def _save(self, trainer: lightning.Trainer, name: str, weights_only: bool = False) -> None:
        path = self.folder / "checkpoints" / name
        part = path.with_name(f".{name}.part")  # the same on every process: the strategy writes once
        trainer.save_checkpoint(part, weights_only)
        if trainer.is_global_zero:
            os.replace(part, path)


def _table(history: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()


def first_epoch(data: lightning.LightningDataModule) -> int:
    """The epoch at which `fit` begins or resumes, for the data module while it makes its loaders.

    Loaders fetch their first batches before Lightning tells samplers the epoch of a resumed run.
    """
    if data.trainer is None:
        return 0
    for callback in data.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, RunFiles):
            return len(callback.history)
    return 0


def fit(
    training: Training,
    data: lightning.LightningDataModule,
    run: RunOptions,
    *,
    epochs: int,
    score: Score = "epoch",
    patience: int = 0,
    show: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> Left:
    """Trains in place (the model ends with the weights of the best epoch, in eval mode), resuming from ``checkpoints/last.ckpt`` if there is one.

    Args:
        data: its training loader takes its order from a sampler that knows the epoch: `EpochOrder`, made with `first_epoch`.
        run: its folder gets ``checkpoints/`` and ``metrics.csv``; device, devices, nodes and precision are its own.
        score: a column of the history, or a function of a row; the epoch with the greatest is the best (NaN counts as the least): "epoch"
            takes the last.
        patience: epochs without a better score after which training ends; 0: never.
        trainer: further arguments of Lightning's Trainer.

    Several devices train in spawned processes (`ddp_spawn`), so that the code before and after runs once; validation items are then shared
    out, and a few count twice where they do not divide evenly.

    Raises:
        UserError: a loss that is not finite, what a loader raises of an input that cannot be used, or a process that ran out of memory;
            before the first checkpoint the run is taken away again.
    """
    folder, device = run.out, resolve_device(run.device)
    files = RunFiles(folder, epochs=epochs, score=score, patience=patience, show=show)
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "accelerator": {"cuda": "gpu"}.get(device, device),
        "devices": run.devices,
        "num_nodes": run.nodes,
        "precision": run.precision,
        "max_epochs": epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **(trainer or {}),
    }
    options["callbacks"] = [files, *options.get("callbacks", ())]
    if options["devices"] != 1:
        # plain ddp would start the whole command again in every process
        options.setdefault("strategy", "ddp_spawn")
    with quiet_lightning():
        runner = lightning.Trainer(**options)
        try:
            resume_from = last if last.exists() else None
            runner.fit(training, data, ckpt_path=resume_from, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        except (UserError, MemoryError, RuntimeError) as error:
            reason = error if isinstance(error, UserError) else out_of_memory(error)
            if reason is None:
                raise
            if not last.exists():
                abandon_run(folder)
            raise reason from None
    # From files, not from `training`: under ddp_spawn the training happened in other processes.
    best = torch.load(last.with_name("best.ckpt"), map_location="cpu", weights_only=True)
    weights = {}
    for name, weight in best["state_dict"].items():
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = weight
    training.model.load_state_dict(weights)
    training.model.eval()
    state = torch.load(last, map_location="cpu", weights_only=True)["callbacks"][files.state_key]
    return Left(state["history"], state["best"])


def out_of_memory(error: MemoryError | RuntimeError) -> UserError | None:
    """The plain line of a training that the lack of memory ended; None of any other error."""
    hint = "a smaller --batch or fewer --workers need less; --resume goes on after the last whole epoch, where there is one"
    text = str(error)
    if "DataLoader worker" in text and ("killed" in text or "exited unexpectedly" in text):
        # the system ends the largest process, which says nothing any more
        return UserError("a worker that loads the data was ended from outside, most likely for want of memory", hint)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return UserError("the training ran out of memory", hint)
    return None


def draw_history(history: Sequence[Row], path: Path, panels: Sequence[Sequence[str]]) -> None:
    """Draws the history: one panel for each group of columns, as far as the history has them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, columns in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for column in columns:
            if column in history[0]:
                axes.plot(epochs, [row[column] for row in history], marker=".", label=column.replace("_", " "))
        axes.set(xlabel="epoch")
        if axes.lines:
            axes.legend(frameon=False)
    with writing(path) as picture:
        figure.savefig(picture, format="png", dpi=110)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning's hardware listing, tips and advice on loaders while a `Trainer` is created and runs; our own warnings stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        for module in (r"lightning\.", r"lightning_utilities\.", r"torch\.utils\.data"):
            warnings.filterwarnings("ignore", module=module)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)
