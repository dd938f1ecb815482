"""Training: the LightningModule for both objectives, and what it leaves after every epoch so that a killed run goes on as if it had not been."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F

from core_runtime.cli import progress as progress_bar
from core_runtime.folders import write_text
from core_runtime.quiet import quiet_lightning
from ieeg.data import Batch, FixedWindows, Source, WindowData, WindowModule
from ieeg.lora import freeze_base
from ieeg.mvpformer import MVPFormer
from ieeg.objective import contrastive_logits, contrastive_loss, sample_negatives
from ieeg.recipes import Recipe
from ieeg.scoring import cohen_kappa


class MVPFormerTraining(lightning.LightningModule):
    """Loss, AdamW, a cosine after a warm-up, set every step.

    What is drawn in a step (dropout, negatives) is a function of the seed and the step's number, so that a resumed run draws the same.
    """

    def __init__(self, model: MVPFormer, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.model, self.recipe, self.seed = model, recipe, seed
        weights = torch.tensor(recipe.class_weights) if recipe.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.losses: list[float] = []
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.validated: dict[str, float] = {}

    def on_train_epoch_start(self) -> None:
        self.losses.clear()
        self.validated = {}

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        step = self.current_epoch * self.recipe.batches + index
        torch.manual_seed((self.seed * 1_000_003 + step) * 4096 + self.global_rank)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if self.recipe.task == "pretrain":
            loss = contrastive_loss(self._generative(batch, self.recipe.law))
        else:
            loss = F.cross_entropy(self.model(batch.x), batch.y, weight=self.class_weights)  # pyright: ignore[reportArgumentType]
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise FloatingPointError(f"the loss of patient {batch.patient} is {self.losses[-1]}")
        return loss

    def _generative(self, batch: Batch, law: Any, generator: torch.Generator | None = None) -> Tensor:
        encoded = self.model.encode(batch.x)
        predicted = self.model.predict_next(encoded)
        batch_, time, channels = encoded.shape[:3]
        negatives = sample_negatives(batch_, time, channels, self.recipe.negatives, law=law, generator=generator)
        return contrastive_logits(predicted, encoded, negatives.to(encoded.device), temperature=self.recipe.temperature)

    def validation_step(self, batch: Batch, index: int) -> None:
        if self.recipe.task == "detect":
            self.seen.append((self.model(batch.x).float(), batch.y))
            return
        logits = self._generative(batch, "uniform", torch.Generator().manual_seed(index)).float()
        self.seen.append((logits[:, 0] - logits.logsumexp(1), logits.argmax(1) == 0))

    def on_validation_epoch_end(self) -> None:
        first, second = (torch.cat(parts) for parts in zip(*self.seen, strict=True))  # every process judges all
        self.seen.clear()
        if self.recipe.task == "pretrain":
            self.validated = {"val_loss": -first.mean().item(), "val_accuracy": second.float().mean().item()}
        else:
            self.validated = judged(first, second)

    def configure_optimizers(self) -> Any:
        recipe, steps = self.recipe, int(self.trainer.estimated_stepping_batches)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, recipe.lr, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps, recipe.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def judged(logits: Tensor, truth: Tensor) -> dict[str, float]:
    """Window-level measures at the threshold 0.5: loss, kappa, F1, and the area under the ROC curve (NaN with one class)."""
    from torchmetrics.functional.classification import binary_auroc

    odds = logits[:, 1] - logits[:, 0]
    found, true = odds > 0, truth.bool()
    tp, fp, fn, tn = (int(t.sum()) for t in (found & true, found & ~true, ~found & true, ~found & ~true))
    both = 0 < int(true.sum()) < len(true)
    return {
        "val_loss": F.cross_entropy(logits, truth).item(),
        "val_kappa": cohen_kappa(tp, fp, tn, fn),
        "val_f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan"),
        "val_auroc": float(binary_auroc(odds.sigmoid(), truth)) if both else float("nan"),
    }


def rate(done: float, warmup: float) -> float:
    """The learning rate's factor after a share of all steps: linear from 0 over the warm-up, then half a cosine to 0."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


class RunFiles(lightning.Callback):
    """After every epoch: ``checkpoints/best.ckpt`` where the selection asks, then ``checkpoints/last.ckpt``, then ``metrics.csv``.

    Each is renamed into place whole. The history and the choice are inside the checkpoint, so a resumed run continues both.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, validated: bool, show: bool) -> None:
        self.folder, self.show, self.epochs = folder, show, recipe.epochs
        self.measure = "last"
        if validated and recipe.selection == "best":
            self.measure = "val_kappa" if recipe.task == "detect" else "val_loss"
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.bar: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best, "measure": self.measure}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best = state_dict["history"], state_dict["best"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.show and trainer.is_global_zero:
            self.bar = progress_bar("Training", self.epochs * int(trainer.num_training_batches))
            self.bar.start()
            self.bar.advance(self.bar.task_ids[0], trainer.current_epoch * int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.bar:
            self.bar.advance(self.bar.task_ids[0])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, MVPFormerTraining)
        row = {
            "epoch": float(trainer.current_epoch),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": sum(pl_module.losses) / len(pl_module.losses),
            **pl_module.validated,
        }
        self.history.append(row)
        score = self._score(row)
        if not self.best or score > self.best["score"]:
            self.best = {**row, "score": score}
            self._save(trainer, "best.ckpt", weights_only=True)
        self._save(trainer, "last.ckpt")
        if trainer.is_global_zero:
            write_text(self.folder / "metrics.csv", _table(self.history))

    def _score(self, row: Mapping[str, float]) -> float:
        if self.measure == "last":
            return row["epoch"]
        value = row[self.measure]
        if math.isnan(value):
            return -math.inf
        return -value if self.measure == "val_loss" else value

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.bar:
            self.bar.stop()

    def _save(self, trainer: lightning.Trainer, name: str, weights_only: bool = False) -> None:
        path = self.folder / "checkpoints" / name
        part = path.with_name(f".{name}.part")  # the same on every process: the strategy writes once
        trainer.save_checkpoint(part, weights_only)
        if trainer.is_global_zero:
            os.replace(part, path)


def _table(history: Sequence[Mapping[str, float]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()


def fit(
    model: MVPFormer,
    train: Sequence[Source],
    validation: Sequence[Source],
    folder: Path,
    recipe: Recipe,
    *,
    window: int,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "32-true",
    workers: int = 0,
    show: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains `model` in place (it ends as the selected epoch left it), going on from ``checkpoints/last.ckpt`` where there is one.

    Args:
        model: with LoRA already where the recipe tunes it (`ieeg.lora.with_lora`), and the head that the task needs.
        train, validation: recordings of different patients; validation may be empty.
        folder: gets ``checkpoints/`` and ``metrics.csv``.
        window: segments T.
        trainer: further arguments of Lightning's Trainer (devices, strategy, num_nodes …).

    Returns:
        The history's row of the selected epoch.

    Raises:
        UserError: no recording holds a window.
        ValueError: the model's head is not the task's, or LoRA is wanted and not there.
    """
    if (recipe.task == "detect") != (model.config.classes > 0):
        raise ValueError(f"a model with {model.config.classes} classes cannot be trained to {recipe.task}")
    if recipe.task == "detect" and recipe.tune != "all":
        if recipe.tune == "lora" and not model.config.lora_rank:
            raise ValueError("tune = 'lora' needs a model with LoRA: with_lora(model)")
        freeze_base(model)
    channels = min(recipe.max_channels, model.config.channels)
    data = WindowData(
        train,
        window=window,
        batch=recipe.batch,
        balanced=recipe.balanced and recipe.task == "detect",
        slow_down=recipe.slow_down and recipe.task == "detect",
        max_channels=channels,
        seed=seed,
    )
    judge = FixedWindows(validation, window=window, batch=recipe.batch, max_channels=channels) if validation else None
    module = MVPFormerTraining(model, recipe, seed)
    files = RunFiles(folder, recipe, validated=judge is not None, show=show)
    options: dict[str, Any] = {
        "accelerator": {"cuda": "gpu"}.get(device, device),
        "devices": 1,
        "precision": precision,
        "max_epochs": recipe.epochs,
        "accumulate_grad_batches": recipe.accumulate,
        "gradient_clip_val": recipe.clip or None,
        "use_distributed_sampler": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **(trainer or {}),
    }
    options["callbacks"] = [files, *options.get("callbacks", ())]
    if options["devices"] != 1 and "strategy" not in options:
        options["strategy"] = "ddp_spawn"
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True, exist_ok=True)
    done = len(_left(last, files)["history"]) if last.exists() else 0
    with quiet_lightning():
        runner = lightning.Trainer(**options)
        loaders = WindowModule(data, judge, batches=recipe.batches, first_epoch=done, workers=workers)
        try:
            runner.fit(module, loaders, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    best = torch.load(last.with_name("best.ckpt"), map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in best.items()})
    model.eval()
    return _left(last, files)["best"]


def _left(checkpoint: Path, files: RunFiles) -> dict[str, Any]:
    """What `files` left in a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"][files.state_key]
