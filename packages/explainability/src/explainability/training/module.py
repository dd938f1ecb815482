"""What a training step does."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.training import Training
from explainability.models.network import Network
from explainability.sat_wsol.model import SAT
from explainability.tcpa.model import TCPA
from explainability.training.recipe import Recipe


class NetworkTraining(Training):
    """Cross-entropy and what a paper adds to it; AdamW on what is not frozen."""

    def __init__(self, model: Network, recipe: Recipe, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe = recipe
        self.right: list[bool] = []

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        network = self.model.model
        if isinstance(network, SAT):
            return network.losses(network.locate(images), labels, area=self.recipe.area).total
        if isinstance(network, TCPA):
            result = network.coordinate(images, random=self.current_epoch < self.recipe.random_epochs)
            return nn.functional.cross_entropy(result.logits, labels) + self.recipe.pool_weight * result.distance
        return nn.functional.cross_entropy(self.model(images), labels)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = self.loss(images, labels)
        self.count(train_loss=loss.item())
        return self.finite(loss)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        images, labels = batch
        self.right += (self.model(images).argmax(-1) == labels).tolist()

    def close_epoch(self) -> dict[str, float]:
        row = super().close_epoch()
        if self.right:
            row["accuracy"] = sum(self.right) / len(self.right)
        self.right = []
        return row

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if recipe.optimiser == "sgd":
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                trained, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay
            )
        else:
            optimiser = torch.optim.AdamW(trained, recipe.lr, weight_decay=recipe.weight_decay)
        if recipe.schedule == "constant" and not recipe.warmup:
            return optimiser
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: rate(recipe, epoch))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


def rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate of an epoch as a share of ``--lr``: a linear warm-up, then constant or half a cosine."""
    if epoch < recipe.warmup:
        return (epoch + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return 1.0
    done = (epoch - recipe.warmup) / max(1, recipe.epochs - recipe.warmup)
    least = min(1.0, recipe.lr_min / recipe.lr)
    return least + (1 - least) * (1 + math.cos(math.pi * min(1.0, done))) / 2
