"""What a network adds to the loss of its classes: MoH's balance, and the two phases of a Sparsifiner.

Sparsifiner starts from a trained dense network. In the first phase its mask predictors alone learn to predict that network's attention. In the second
everything else learns: the classes, and by distillation to answer and to see as the dense network does.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core_attention.mechanisms.sparsifiner.losses import logit_distillation, reconstruction, token_distillation
from core_runtime.errors import UserError
from vision_models.classify.model.classifier import Classifier
from vision_models.classify.training.recipe import Recipe

RECONSTRUCTION, LOGITS, TOKENS = 0.01, 0.5, 0.5  # weights of Sparsifiner's losses, as published
BALANCE = 0.01  # of MoH's, as published


def check_phases(model: Classifier, recipe: Recipe, weights: Path | None) -> None:
    """Makes sure that a phase of mask predictors is asked only of a network that has them, and that something is there to predict.

    Raises:
        UserError: it has none, or starts from random weights.
    """
    if not recipe.predictor_epochs:
        return
    if not hasattr(model.network, "predictor_parameters"):
        raise UserError(
            "--predictor-epochs is for Sparsifiner's mask predictors, which this network has not",
            "leave it out, or --network sparsifiner_s",
        )
    if weights is None:
        raise UserError(
            "--predictor-epochs trains predictors of a trained network's attention, but no --weights are given",
            "start from DeiT's or LV-ViT's ('vision-models classify models'), or leave it out",
        )


class NetworkLosses:
    """The logits of a network in training, and what it adds to the loss.

    Args:
        model: the network; where the recipe has a phase of predictors, with the weights that it starts from.
    """

    def __init__(self, model: Classifier, recipe: Recipe) -> None:
        self.network: Any = model.network
        self.predictor_epochs = recipe.predictor_epochs
        self.teacher: Any = None
        if recipe.predictor_epochs:
            self.teacher = copy.deepcopy(model.network).requires_grad_(False).eval()

    def begin_epoch(self, epoch: int) -> None:
        """Freezes the predictors, or everything but them, by the phase."""
        if not self.predictor_epochs:
            return
        predictors = {id(parameter) for parameter in self.network.predictor_parameters()}
        for parameter in self.network.parameters():
            parameter.requires_grad_((id(parameter) in predictors) == (epoch < self.predictor_epochs))

    def __call__(self, x: Tensor, epoch: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Logits, and further losses by name, weighted; no logits in the phase of predictors, which learn from no class."""
        if hasattr(self.network, "forward_with_balance"):
            logits, balances = self.network.forward_with_balance(x)
            if not balances:
                return logits, {}
            # the mean over the layers that route
            return logits, {"balance_loss": BALANCE * torch.stack(balances).mean()}
        if not self.predictor_epochs:
            return self.network(x), {}
        if epoch < self.predictor_epochs:
            # The rest is frozen at the start's weights: its own dense attention is the teacher's.
            student = self.network.detailed(x, warm_up=True)
            scores = [layer.connectivity.scores for layer in student.layers]
            weights = [layer.weights.detach() for layer in student.layers]
            return None, {"reconstruction_loss": RECONSTRUCTION * reconstruction(scores, weights)}
        student = self.network.detailed(x)
        with torch.no_grad():
            dense = self.teacher.to(x.device).detailed(x, warm_up=True)
        return student.logits, {
            "logit_distillation": LOGITS * logit_distillation(student.logits, dense.logits),
            "token_distillation": TOKENS
            * token_distillation(student.features, dense.features, token_mask=student.layers[-1].token_mask),
        }
