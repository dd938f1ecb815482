"""The training step of a detector: the sum of its own losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core_runtime.boxes import BoxedImage
from core_runtime.training import Training
from vision_models.detect.metrics import Judge
from vision_models.detect.model.detectors import Detector
from vision_models.detect.model.inference import ReadyDetector
from vision_models.detect.results import FoundBox
from vision_models.detect.training.recipe import Recipe, learning_rate_factor


class DetectionTraining(Training):
    """The detector's losses, unweighted; AP50 of the validation pictures after every epoch."""

    def __init__(
        self, model: Detector, recipe: Recipe, classes: Sequence[str], val: Sequence[BoxedImage], seed: int
    ) -> None:
        super().__init__(model, seed)
        self.recipe, self.classes, self.val_images = recipe, tuple(classes), val
        self.found: list[list[FoundBox]] = []

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], index: int) -> Tensor:
        losses = self.model(*batch)
        total = torch.stack([loss.mean() for loss in losses.values()]).sum()
        self.count(train_loss=self.finite(total).item(), **{name: loss.mean().item() for name, loss in losses.items()})
        return total

    def on_validation_epoch_start(self) -> None:
        self.found = []

    def validation_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], index: int) -> None:
        detector = self.model
        assert isinstance(detector, Detector)
        self.found += ReadyDetector(detector, self.classes, {})(batch[0])

    def on_validation_epoch_end(self) -> None:
        import numpy as np

        judge = Judge(self.val_images, self.found, self.classes)
        self.count(val_ap50=judge.measures(np.arange(len(self.val_images)))["ap50"])

    def configure_optimizers(self) -> Any:
        recipe, total = self.recipe, max(1, int(self.trainer.estimated_stepping_batches))
        optimizer = torch.optim.AdamW(self.model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor((step + 1) / total, recipe.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
