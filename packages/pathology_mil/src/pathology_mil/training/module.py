"""Training: models by name, ACMIL's losses, AdamW and its schedule, measures on the validation slides."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.training import Row, Training
from pathology_mil.metrics import auroc, confusion, f1_macro
from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA, ACMILConfig, MeanMIL
from pathology_mil.model.losses import LossWeights, acmil_loss
from pathology_mil.training.data import Batch
from pathology_mil.training.recipe import ModelName, Recipe


def build_model(name: ModelName, config: Mapping[str, Any]) -> nn.Module:
    """A fresh model by its name in `recipe.ModelName`; ABMIL is one gated branch without masking."""
    if name == "abmil":
        config = {**config, "branches": 1, "top_k": 0}
    form = {"acmil": ACMIL_GA, "abmil": ACMIL_GA, "acmil-mha": ACMIL_MHA, "mean": MeanMIL}[name]
    return form(ACMILConfig(**config))


def forward(model: nn.Module, batch: Batch) -> Any:
    """A model's output for packed bags."""
    if len(batch.lengths) == 1:
        return model(batch.features)
    return model(batch.features, segments=batch.segments, bags=len(batch.lengths))


class MILTraining(Training):
    """ACMIL's losses, AdamW, a cosine schedule updated every step."""

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe = recipe
        self.weights = LossWeights(
            slide=recipe.slide_weight,
            branch=recipe.branch_weight,
            diversity=recipe.diversity_weight,
            aem=recipe.aem_weight,
        )
        self.validated: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = acmil_loss(forward(self.model, batch), batch.labels, lengths=batch.lengths, weights=self.weights)
        self.count(**{f"train_{name}": loss.item() for name, loss in losses._asdict().items()})
        return self.finite(losses.total, ", ".join(batch.slides))

    def validation_step(self, batch: Batch, index: int) -> None:
        logits = forward(self.model, batch).slide_logits
        self.validated.append((logits.float().softmax(1), batch.labels))

    def on_validation_epoch_end(self) -> None:
        # Measures are of all slides together; a mean of AUROCs of batches, or of processes, would be another figure.
        own_probabilities = torch.cat([probabilities for probabilities, _ in self.validated])
        own_labels = torch.cat([labels for _, labels in self.validated])
        self.validated.clear()
        probabilities, labels = self.all_gather((own_probabilities, own_labels))  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType]
        if self.trainer.world_size > 1:  # then there is an axis of processes in front
            probabilities, labels = probabilities.flatten(0, 1), labels.flatten(0, 1)
        scores, truth = probabilities.double().cpu().numpy(), labels.cpu().numpy()
        counts = confusion(scores.argmax(1), truth, scores.shape[1])
        accuracy = float(counts.trace() / counts.sum())
        self.count(
            val_loss=nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
            val_auc=auroc(scores, truth),
            val_acc=accuracy,
            val_f1_macro=f1_macro(counts),
            val_f1_micro=accuracy,
        )

    def configure_optimizers(self) -> Any:
        recipe, steps = self.recipe, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(self.parameters(), recipe.lr, weight_decay=recipe.weight_decay)

        def factor(step: int) -> float:
            """Of the initial rate, which LambdaLR multiplies by it."""
            return rate(step / steps * recipe.epochs, recipe) / recipe.lr

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(epoch: float, recipe: Recipe) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then half a cosine down to `min_lr`."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def f1_and_auc(row: Row) -> float:
    """The score of the selection rule ``val_f1+val_auc``; without an AUROC (validation slides of one class), F1 alone."""
    auc = row["val_auc"]
    if math.isnan(auc):
        auc = 0.0
    return row["val_f1_macro"] + auc
