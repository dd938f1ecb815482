"""What a training step does."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_runtime.training import Training
from vision_language.model.contrastive import contrastive_loss
from vision_language.model.focallens_clip import FocalLensCLIP
from vision_language.training.recipe import Recipe


class _Scheduled(Training):
    """AdamW, a rise over 3 % of the steps, then a cosine to 0."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, steps: int, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe, self.steps = recipe, max(1, steps)

    def groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad], "lr": self.recipe.lr}]

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.groups(), self.recipe.lr, weight_decay=self.recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int) -> float:
        """Share of the learning rate at a step."""
        rise = 0.03 * self.steps
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, self.steps - rise))))


class GroundingTraining(_Scheduled):
    """Binary cross-entropy of pixels and Dice; a pretrained backbone learns at a tenth of the rate."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, steps: int, seed: int, pretrained: bool) -> None:
        super().__init__(model, recipe, steps=steps, seed=seed)
        self.pretrained = pretrained

    def groups(self) -> list[dict[str, Any]]:
        trunk, rest = [], []
        for name, parameter in self.model.named_parameters():
            (trunk if name.startswith("backbone.") else rest).append(parameter)
        slower = 0.1 if self.pretrained else 1.0
        return [{"params": rest, "lr": self.recipe.lr}, {"params": trunk, "lr": slower * self.recipe.lr}]

    def training_step(self, batch: Any, index: int) -> Tensor:
        pixels, sentences, masks = batch
        logits = self.model(pixels, sentences)[:, 0]
        loss = grounding_loss(logits, masks, self.recipe.dice)
        self.count(train_loss=loss.item())
        return self.finite(loss)

    def validation_step(self, batch: Any, index: int) -> None:
        pixels, sentences, masks = batch
        logits = self.model(pixels, sentences)[:, 0]
        predicted, truth = logits > 0, masks > 0.5
        both, either = (predicted & truth).sum((1, 2)), (predicted | truth).sum((1, 2))
        for value in torch.where(either > 0, both / either.clamp_min(1), 1.0).tolist():
            self.count(val_iou=value)


def grounding_loss(logits: Tensor, masks: Tensor, dice: float) -> Tensor:
    """Cross-entropy of pixels and, weighted, one minus the soft Dice of each item."""
    entropy = F.binary_cross_entropy_with_logits(logits, masks)
    probabilities = logits.sigmoid()
    both = (probabilities * masks).sum((1, 2))
    total = probabilities.sum((1, 2)) + masks.sum((1, 2))
    return entropy + dice * (1 - (2 * both + 1) / (total + 1)).mean()


class FocalTraining(_Scheduled):
    """Contrast of conditioned pictures with their answers; what the frozen text encoder says is computed once, before."""

    model: FocalLensCLIP

    def training_step(self, batch: Any, index: int) -> Tensor:
        pixels, instructions, answers, ids = batch
        image = self.model.embed_image(pixels, None if self.recipe.blind else instructions)
        output_id = ids if self.recipe.mask_duplicates else None
        loss = contrastive_loss(image, answers, self.model.scale, output_id=output_id).total
        self.count(train_loss=loss.item())
        return self.finite(loss)
