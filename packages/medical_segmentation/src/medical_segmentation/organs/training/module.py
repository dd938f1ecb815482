"""The training step of an organ network: losses, schedule, and the validation Dice of every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core_runtime.training import Training
from medical_segmentation.organs.metrics.overlap import dice
from medical_segmentation.organs.model.guided import Supervised
from medical_segmentation.organs.model.inference import OrganModel
from medical_segmentation.organs.model.losses import GUIDED, RECONSTRUCTION, guided_losses
from medical_segmentation.organs.model.networks import quiet_monai
from medical_segmentation.organs.model.preparation import Preparation
from medical_segmentation.organs.model.streaming import answer, window_scores
from medical_segmentation.organs.options import InferenceOptions
from medical_segmentation.organs.training.data import Patches, PreparedCase
from medical_segmentation.organs.training.recipe import Recipe


class OrganTraining(Training):
    """Adam, the chosen loss, and the learning rate halved when the validation Dice no longer rises."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        preparation: Preparation,
        classes: Sequence[str],
        channels: Sequence[str],
        patches: Patches,
        val: Sequence[PreparedCase],
        seed: int,
    ) -> None:
        super().__init__(model, seed)
        self.recipe, self.preparation = recipe, preparation
        self.patches, self.val_cases = patches, val
        self.classes, self.channels = tuple(classes), tuple(channels)
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.last_dice = 0.0
        self.head_loss = _head_loss(recipe.loss)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        outputs = self.model(batch["image"])
        loss = self.loss(outputs, batch["label"])
        self.finite(loss)
        self.count(train_loss=loss.item())
        return loss

    def loss(self, outputs: Tensor | Supervised, target: Tensor) -> Tensor:
        """The loss of a batch."""
        if isinstance(outputs, Tensor):
            if self.recipe.loss == "published":
                return torch.nn.functional.cross_entropy(outputs, target)
            return self.head_loss(outputs, target[:, None])
        if self.recipe.loss == "published":
            return guided_losses(outputs, target).total
        heads = [*outputs.first, *outputs.second]
        terms = guided_losses(outputs, target)
        segmentation = torch.stack([self.head_loss(head, target[:, None]) for head in heads]).sum()
        return segmentation + GUIDED * terms.guided.sum() + RECONSTRUCTION * terms.reconstruction.sum()

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(self.model.parameters(), lr=self.recipe.lr, betas=(0.9, 0.99))
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, mode="max", factor=0.5, patience=self.recipe.patience
        )
        return optimiser

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.plateau is not None
        checkpoint["plateau"] = {"best": float(self.plateau.best), "bad": self.plateau.num_bad_epochs}
        checkpoint["last_dice"] = self.last_dice

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restored = checkpoint["plateau"]
        self.last_dice = checkpoint["last_dice"]

    def on_train_start(self) -> None:
        restored = getattr(self, "restored", None)
        if restored is not None and self.plateau is not None:
            self.plateau.best, self.plateau.num_bad_epochs = restored["best"], restored["bad"]

    def close_epoch(self) -> dict[str, float]:
        """Training loss, and the mean Dice of the validation volumes on the network's grid."""
        row = super().close_epoch()
        last = self.current_epoch + 1 == self.recipe.epochs
        if last or (self.current_epoch + 1) % self.recipe.validate_every == 0:
            if self.recipe.norms == "settled":
                settle_norms(self.model, self.settling_images())
            self.last_dice = self.validation_dice()
            assert self.plateau is not None
            self.plateau.step(self.last_dice)
        return row | {"val_dice": self.last_dice}

    def settling_images(self) -> Iterator[Tensor]:
        """Batches of training patches, always those of epoch 0: a resumed run settles alike."""
        device = next(self.model.parameters()).device
        for numbers in settling_batches(len(self.patches), self.recipe.batch):
            yield torch.stack([self.patches[0, number]["image"] for number in numbers]).to(device)

    @torch.no_grad()
    def validation_dice(self) -> float:
        """Mean over classes and volumes; a class that a volume does not hold, and of which nothing is predicted, is left out."""
        was = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        model = OrganModel([self.model], self.preparation, self.classes, self.channels, {})
        scores = []
        for case in self.val_cases:
            image = np.array(case.image)  # a copy in memory: torch takes no read-only maps
            if self.preparation.dims == 2:
                slabs = model.slice_scores(image, InferenceOptions(batch=self.recipe.batch))
            else:
                slabs = window_scores(model.probabilities, image, self.preparation.window, device=str(device))
            predicted = answer(slabs, image.shape[1:], image.shape[3], probabilities=True).labels
            for number in range(1, len(self.classes)):
                ours, truth = predicted == number, np.asarray(case.labels) == number
                if ours.any() or truth.any():
                    scores.append(dice(ours, truth))
        self.model.train(was)
        return float(np.mean(scores)) if scores else math.nan


@torch.no_grad()
def settle_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Takes the statistics of the batch norms anew (Wu and Johnson 2021), as the plain mean over batches; leaves the model in training.

    The running means lag behind the weights, the more so in the semantic modules, which see four scales in turn: after few steps the
    network in evaluation is then another one than in training.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    model.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def settling_batches(patches: int, batch: int, most: int = 32) -> list[list[int]]:
    """Batches of patch numbers spread evenly over all: enough for stable means, and never one patch alone."""
    count = max(1, min(most, patches // batch))
    wanted = max(2, min(batch, patches))
    places = [round(i * (patches - 1) / max(1, count * wanted - 1)) for i in range(count * wanted)]
    # dealt out like cards, so that every batch mixes volumes
    return [places[first::count] for first in range(count)]


def _head_loss(name: str) -> Any:
    if name == "published":
        return None
    with quiet_monai():
        from monai.losses.dice import DiceCELoss, DiceFocalLoss

        kind = DiceCELoss if name == "dice-ce" else DiceFocalLoss
        return kind(to_onehot_y=True, softmax=True, include_background=False)
