"""The training step: BMN's loss, and the labels of true, shifted and wrong segments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core_runtime.training import Training
from vision_models.actions.model.detector import ActionDetector
from vision_models.actions.model.loss import LossWeights, bmn_loss
from vision_models.actions.training.data import IGNORED, Batch
from vision_models.actions.training.recipe import Recipe

JITTER = 0.15  # of a segment's length, by which shifted copies of it move
SAME, OTHER = 0.7, 0.3  # IoU from which a segment has an action's label, and up to which it is no action


class DetectionTraining(Training):
    """Adam on BMN's loss and, with a classifier, cross entropy of segment labels."""

    def __init__(self, model: ActionDetector, recipe: Recipe, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe = recipe
        self.weights = LossWeights(reg=recipe.reg)

    def losses(self, batch: Batch, draws: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """The losses by name; "loss" is their weighted sum."""
        model = self.model
        assert isinstance(model, ActionDetector)
        x = model.scaled(batch.values)
        out = model(x)
        cells = model.config.bmn.cells
        parts = bmn_loss(out.confidence, out.start, out.end, batch.targets, cells, weights=self.weights, draws=draws)
        total, named = parts.total, {"tem": parts.tem, "reg": parts.reg, "cls": parts.cls}
        if model.classifier is not None:
            segments, labels = labelled_segments(batch.segments, batch.labels, model.config.labels)
            logits = model.classifier(x, segments)
            named["label"] = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            total = total + self.recipe.classifier * named["label"]
        return {"loss": total, **named}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = self.losses(batch)
        self.count(**{f"train_{name}": value.item() for name, value in losses.items()})
        return self.finite(losses["loss"])

    def validation_step(self, batch: Batch, index: int) -> None:
        # the same cells and segments in every epoch, so that epochs can be compared
        generator = torch.Generator().manual_seed(index)
        shape = (len(batch.values), *batch.targets.iou.shape[1:])
        draws = [torch.rand(shape, generator=generator).to(batch.values) for _ in range(2)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            losses = self.losses(batch, (draws[0], draws[1]))
        self.count(**{f"val_{name}": value.item() for name, value in losses.items()})

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = torch.optim.Adam(self.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        # the published code steps its schedule at the start of an epoch, so the drop comes one epoch early
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.1 ** ((epoch + 1) // recipe.drop))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def labelled_segments(segments: Tensor, labels: Tensor, none: int) -> tuple[Tensor, Tensor]:
    """True segments, shifted copies that still fit them, and random ones that are no action (class `none`).

    Args:
        segments: (batch, n, 2) true ones, filled up.
        labels: (batch, n).
        none: number of the class "no action".
    """
    lengths = (segments[..., 1] - segments[..., 0])[..., None]
    shifted = segments + (torch.rand_like(segments) * 2 - 1) * JITTER * lengths
    count = max(4, segments.shape[1])
    centres = torch.rand(len(segments), count, device=segments.device)
    # as long as true segments are
    pick = torch.randint(segments.shape[1], (len(segments), count), device=segments.device)
    real = lengths[..., 0].gather(1, pick).clamp(min=0.02) * (0.5 + torch.rand_like(centres))
    drawn = torch.stack([centres - real / 2, centres + real / 2], -1).clamp(0, 1)
    overlap = _iou(drawn, segments, labels != IGNORED)
    wrong = torch.where(overlap.max(2).values < OTHER, none, IGNORED)
    fits = _iou(shifted, segments, labels != IGNORED).diagonal(dim1=1, dim2=2) >= SAME
    shifted_labels = torch.where(fits, labels, IGNORED)
    return torch.cat([segments, shifted, drawn], 1), torch.cat([labels, shifted_labels, wrong], 1)


def _iou(first: Tensor, second: Tensor, real: Tensor) -> Tensor:
    """(batch, n, m); 0 with rows that only fill up."""
    left = torch.maximum(first[:, :, None, 0], second[:, None, :, 0])
    right = torch.minimum(first[:, :, None, 1], second[:, None, :, 1])
    common = (right - left).clamp(min=0)
    union = (first[..., 1] - first[..., 0])[:, :, None] + (second[..., 1] - second[..., 0])[:, None] - common
    return common / union.clamp(min=1e-6) * real[:, None]
