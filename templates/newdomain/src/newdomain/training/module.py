"""What a training step does."""

import torch
from torch import Tensor, nn

from core_runtime.training import Training
from newdomain.model.burst import BurstClassifier


class BurstTraining(Training):
    """Binary cross-entropy, AdamW."""

    def __init__(self, model: BurstClassifier, lr: float, seed: int) -> None:
        super().__init__(model, seed)
        self.lr = lr

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        windows, labels = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(windows), labels.float())
        self.count(train_loss=loss.item())
        return self.finite(loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr)
