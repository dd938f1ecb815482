"""Training: the LightningModule, and what it leaves in a run folder after every epoch so that a killed run goes on as if it had not been."""

import csv
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from core_runtime.cli import progress as progress_bar
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.quiet import quiet_lightning
from pathology_mil.acmil import ACMIL_GA, ACMIL_MHA, ACMILConfig, MeanMIL
from pathology_mil.data import Batch
from pathology_mil.losses import LossWeights, acmil_loss
from pathology_mil.measures import auroc, f1
from pathology_mil.recipes import ModelName, Recipe


def build_model(name: ModelName, config: Mapping[str, Any]) -> nn.Module:
    """A fresh model by its name in `recipes.ModelName`; ABMIL is one gated branch without masking."""
    if name == "abmil":
        config = {**config, "branches": 1, "top_k": 0}
    form = {"acmil": ACMIL_GA, "abmil": ACMIL_GA, "acmil-mha": ACMIL_MHA, "mean": MeanMIL}[name]
    return form(ACMILConfig(**config))


def forward(model: nn.Module, batch: Batch) -> Any:
    """A model's output for packed bags."""
    packed = {} if len(batch.lengths) == 1 else {"segments": batch.segments, "bags": len(batch.lengths)}
    return model(batch.features, **packed)


class MILTraining(lightning.LightningModule):
    """ACMIL's losses, AdamW, a cosine set every step.

    Every random number of a step (masking, dropout) is a function of the seed and the step's number, so that a resumed run draws the
    same ones.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.model, self.recipe, self.seed = model, recipe, seed
        self.weights = LossWeights(slide=recipe.slide, branch=recipe.branch, diversity=recipe.diversity, aem=recipe.aem)
        self.epoch_losses: list[dict[str, float]] = []
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.validated: dict[str, float] = {}

    def on_train_epoch_start(self) -> None:
        self.epoch_losses.clear()
        self.validated = {}

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 4096 + self.global_rank)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = acmil_loss(forward(self.model, batch), batch.labels, lengths=batch.lengths, weights=self.weights)
        self.epoch_losses.append({k: v.item() for k, v in losses._asdict().items()})
        if not math.isfinite(self.epoch_losses[-1]["total"]):
            raise UserError(f"the loss of {', '.join(batch.slides)} is no longer a finite number", "try a lower --lr")
        return losses.total

    def validation_step(self, batch: Batch, index: int) -> None:
        logits = forward(self.model, batch).slide_logits
        self.seen.append((logits.float().softmax(1), batch.labels))

    def on_validation_epoch_end(self) -> None:
        gathered = self.all_gather((torch.cat([p for p, _ in self.seen]), torch.cat([y for _, y in self.seen])))
        self.seen.clear()
        probabilities, labels = (t.flatten(0, 1) if self.trainer.world_size > 1 else t for t in gathered)  # pyright: ignore[reportAttributeAccessIssue]
        n = probabilities.shape[1]
        predicted = probabilities.argmax(1)
        self.validated = {
            "val_loss": nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
            "val_auc": auroc(probabilities, labels),
            "val_acc": (predicted == labels).double().mean().item(),
            "val_f1_macro": f1(predicted, labels, n, "macro"),
            "val_f1_micro": f1(predicted, labels, n, "micro"),
        }

    def configure_optimizers(self) -> Any:
        recipe, steps = self.recipe, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(self.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(step / steps * recipe.epochs, recipe) / recipe.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(epoch: float, recipe: Recipe) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then half a cosine down to `min_lr`."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class RunFiles(lightning.Callback):
    """After every epoch: ``checkpoints/best.ckpt`` where the selection rule asks, then ``checkpoints/last.ckpt``, then ``metrics.csv``.

    Each is renamed into place whole. The history and the rule are inside the checkpoint, so a resumed run continues both.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, validated: bool, show: bool) -> None:
        self.folder, self.show = folder, show
        self.rule = recipe.selection if validated else "last"
        self.epochs = recipe.epochs
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best, "selection": self.rule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best = state_dict["history"], state_dict["best"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.bar = progress_bar("Training", self.epochs) if self.show and trainer.is_global_zero else None
        if self.bar:
            self.bar.start()
            self.bar.advance(self.bar.task_ids[0], trainer.current_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, MILTraining)
        losses = pl_module.epoch_losses
        means = {f"train_{k}": sum(row[k] for row in losses) / len(losses) for k in losses[0]}
        row = {
            "epoch": float(trainer.current_epoch),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **means,
            **pl_module.validated,
        }
        self.history.append(row)
        score = float(trainer.current_epoch)
        if self.rule != "last":
            auc = row["val_auc"]
            score = row["val_f1_macro"] + (0.0 if math.isnan(auc) else auc)
        if not self.best or score > self.best["score"]:
            self.best = {**row, "score": score}
            self._save(trainer, "best.ckpt", weights_only=True)
        self._save(trainer, "last.ckpt")
        if trainer.is_global_zero:
            write_text(self.folder / "metrics.csv", table(self.history))
        if self.bar:
            self.bar.advance(self.bar.task_ids[0])

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if getattr(self, "bar", None):
            self.bar.stop()  # pyright: ignore[reportOptionalMemberAccess]

    def _save(self, trainer: lightning.Trainer, name: str, weights_only: bool = False) -> None:
        path = self.folder / "checkpoints" / name
        part = path.with_name(f".{name}.part")  # the same on every process: the strategy writes once
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
    model: nn.Module,
    data: lightning.LightningDataModule,
    folder: Path,
    recipe: Recipe,
    *,
    validated: bool,
    seed: int,
    device: str = "cpu",
    precision: str = "32-true",
    show: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, float]]:
    """Trains `model` in place (it ends as the selected epoch left it), going on from ``checkpoints/last.ckpt`` where there is one.

    Args:
        validated: whether there are validation slides.
        trainer: further arguments of Lightning's Trainer. Several `devices` train in spawned processes (`ddp_spawn`), so that what
            comes before and after runs once; then validation slides are shared out, and a few count twice where they do not divide.

    Returns:
        The selection rule, and the history's row of the selected epoch.
    """
    module, files = MILTraining(model, recipe, seed), RunFiles(folder, recipe, validated=validated, show=show)
    options: dict[str, Any] = {
        "accelerator": {"cuda": "gpu"}.get(device, device),
        "devices": 1,
        "precision": precision,
        "max_epochs": recipe.epochs,
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
    with quiet_lightning():
        runner = lightning.Trainer(**options)
        try:
            runner.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    best = torch.load(last.with_name("best.ckpt"), map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in best.items()})
    left = torch.load(last, map_location="cpu", weights_only=True)["callbacks"][files.state_key]
    return left["selection"], left["best"]
