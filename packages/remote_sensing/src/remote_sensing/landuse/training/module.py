"""The training step: loss, schedule, and the record of every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.errors import UserError
from core_runtime.training import Training
from remote_sensing.landuse.cohort import Split
from remote_sensing.landuse.scenes.bands import Preprocessing
from remote_sensing.landuse.scenes.classes import CLASSES
from remote_sensing.landuse.scenes.layouts import TileSet
from remote_sensing.landuse.training.augment import augmented
from remote_sensing.landuse.training.recipe import PUBLISHED_WEIGHTS, Recipe, effective_weights


class LandUseTraining(Training):
    """Weighted cross entropy, AdamW, one of the published schedules."""

    def __init__(
        self, model: nn.Module, prepare: Preprocessing, recipe: Recipe, weights: list[float] | None, seed: int
    ) -> None:
        super().__init__(model, seed)
        self.prepare, self.recipe = prepare, recipe
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        class_weights = None
        if weights is not None:
            class_weights = torch.tensor(weights)
        self.loss = nn.CrossEntropyLoss(class_weights)

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> Tensor:
        image = batch["image"]
        if self.recipe.augment:
            rgb = self.prepare.is_rgb
            limit = 255.0 if rgb else 10_000.0
            image = augmented(image, limit=limit, rgb=rgb)
        logits = self.model(self.prepare(image))
        loss = self.finite(self.loss(logits, batch["label"]))
        is_right = logits.argmax(1) == batch["label"]
        self.count(train_loss=loss.item(), train_accuracy=is_right.float().mean().item())
        return loss

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(3)  # correct, loss, tiles

    def validation_step(self, batch: Mapping[str, Tensor], index: int) -> None:
        logits, labels = self.model(self.prepare(batch["image"])), batch["label"]
        right = (logits.argmax(1) == labels).sum().cpu()
        # sums, not means: the last batch is smaller
        self.sums += torch.stack([right, self.loss(logits, labels).cpu() * len(labels), torch.tensor(len(labels))])

    def on_validation_epoch_end(self) -> None:
        right, loss, tiles = self.sums.tolist()
        if self.plateau is not None and not self.trainer.sanity_checking:
            self.plateau.step(loss / tiles)
        self.count(val_loss=loss / tiles, val_accuracy=right / tiles)

    def close_epoch(self) -> dict[str, float]:
        row = super().close_epoch()
        alphas = getattr(self.model, "attention_weights", list)()  # only the balanced network has them
        for number, alpha in enumerate(alphas, 1):
            row[f"alpha_{number:02}"] = alpha
        return row

    def configure_optimizers(self) -> Any:
        recipe, total = self.recipe, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(self.model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        if recipe.schedule == "plateau":
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
            return optimizer
        # The published schedules change once an epoch; Lightning counts steps.
        each = max(1, total // recipe.epochs)
        with_restarts = recipe.schedule == "warm-restarts"
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(step // each, recipe.epochs, with_restarts)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning does not know this schedule, since it is stepped by hand
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.plateau is not None and "plateau" in checkpoint:
            self.plateau.load_state_dict(checkpoint["plateau"])


def cosine(epoch: int, epochs: int, restarts: bool, first: int = 15) -> float:
    """Factor on the learning rate: half a cosine over all epochs, or over periods of 15, 30, 60 … epochs that each start from the top."""
    if not restarts:
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    while epoch >= first:
        epoch, first = epoch - first, 2 * first
    return 0.5 * (1 + math.cos(math.pi * epoch / first))


def class_weights(kind: str, tiles: TileSet, split: Split) -> list[float] | None:
    """The weights of the loss.

    Raises:
        UserError: the published ones are requested, but the classes are not EuroSAT's.
    """
    if kind == "paper":
        if tiles.classes != CLASSES:
            raise UserError(
                "the published class weights are those of EuroSAT's ten classes, these tiles have "
                f"{len(tiles.classes)} others",
                "--class-weights effective or none",
            )
        return list(PUBLISHED_WEIGHTS)
    if kind == "effective":
        labels = [tiles.labels[number] for number in split.train]
        counts = [labels.count(number) for number in range(len(tiles.classes))]
        return effective_weights(counts)
    return None
