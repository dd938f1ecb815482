"""The training step of DeiT's recipe: Mixup, erasing, soft labels, and the phases of a Sparsifiner."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core_runtime.training import Training
from vision_models.classify.model.classifier import Classifier
from vision_models.classify.model.preparing import Preprocessing
from vision_models.classify.training.data import seeded
from vision_models.classify.training.phases import NetworkLosses
from vision_models.classify.training.recipe import BASE_BATCH, FIRST_LR, Recipe, learning_rate

_MIXED = 0x4D495855  # one more number of the seed, so that Mixup's draws are not the images'


class ClassificationTraining(Training):
    """Cross entropy with smoothed and mixed labels, AdamW without decay of biases and norms, one cosine."""

    def __init__(self, model: Classifier, prepare: Preprocessing, recipe: Recipe, seed: int) -> None:
        super().__init__(model, seed)
        self.prepare, self.recipe = prepare, recipe
        self.classes = model.config.num_classes
        self.mixup: Mixup | None = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=self.classes)
        self.erase = RandomErasing(recipe.erasing, mode="pixel", device="cpu")
        self.loss = SoftTargetCrossEntropy()
        self.losses = NetworkLosses(model, recipe)
        self.ema: AveragedModel | None = None
        if recipe.ema:
            self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.losses.begin_epoch(self.current_epoch)
        if self.recipe.frozen_norms:
            self.model.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, labels = self.augmented(*batch, index)
        logits, more = self.losses(x, self.current_epoch)
        losses = dict(more)
        if logits is not None:
            losses["class_loss"] = self.loss(logits, labels)
        total = self.finite(torch.stack(list(losses.values())).sum())
        self.count(train_loss=total.item(), **{name: loss.item() for name, loss in more.items()})
        return total

    def augmented(self, images: Tensor, labels: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Normalised, mixed and erased images with soft labels (images, classes)."""
        x = self.prepare(images)
        with seeded(self.seed, self.current_epoch, index, _MIXED):
            if self.mixup is not None and len(x) % 2 == 0:
                x, targets = self.mixup(x, labels)
            else:
                smooth = self.recipe.smoothing
                targets = F.one_hot(labels, self.classes).float() * (1 - smooth) + smooth / self.classes
            x = self.erase(x.cpu()).to(images.device)
        return x, targets.to(images.device)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(4)  # right, loss, images, right by the mean weights

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, labels = self.prepare(batch[0]), batch[1]
        logits = self.model(x)
        right = (logits.argmax(1) == labels).sum().item()
        loss = F.cross_entropy(logits, labels, reduction="sum").item()
        by_mean = 0.0
        if self.ema is not None:
            by_mean = (self.ema(x).argmax(1) == labels).sum().item()
        # sums, not means: the last batch is smaller
        self.sums += torch.tensor([right, loss, len(labels), by_mean])

    def on_validation_epoch_end(self) -> None:
        right, loss, images, by_mean = self.sums.tolist()
        self.count(val_loss=loss / images, val_accuracy=right / images)
        if self.ema is not None:
            self.count(val_accuracy_ema=by_mean / images)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        peak = recipe.lr * recipe.batch / BASE_BATCH
        network = self.model.network
        assert isinstance(network, nn.Module)
        undecayed = getattr(network, "no_weight_decay", set)()
        groups = param_groups_weight_decay(network, recipe.weight_decay, no_weight_decay_list=undecayed)
        optimizer = torch.optim.AdamW(groups, peak, eps=1e-8)
        steps = max(1, int(self.trainer.estimated_stepping_batches) // recipe.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(FIRST_LR, learning_rate(step / steps, recipe, peak)) / peak
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
