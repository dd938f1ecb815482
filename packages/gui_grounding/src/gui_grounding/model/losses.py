"""What the attention over the cells is trained towards: KL to the labels, and V2P's suppression of everything outside the target."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-8  # of the published normalisation


class PointerLoss(NamedTuple):
    """The parts of the pointer loss of one screenshot.

    Attributes:
        total: what is minimised: `kl`, and `suppression` where the model suppresses.
        kl: ``Σ_j p_j log(p_j / A_j)``, the mean over targets.
        suppression: attention outside the targets, the mean over targets, 0 to 1.
    """

    total: Tensor
    kl: Tensor
    suppression: Tensor


def pointer_loss(
    logits: Float[Tensor, "targets cells"], labels: Float[Tensor, "targets cells"], *, suppress: bool = True
) -> PointerLoss:
    """``KL(p ‖ A) + Σ_j A_j [y_j = 0]`` with A the softmax of the logits and p the labels y divided by their sum.

    Args:
        logits: of the pointer head.
        labels: y of each target; not negative.
        suppress: V2P's loss; False: GUI-Actor's, which is the KL alone.
    """
    labels = labels.to(logits.dtype)
    log_scores = torch.log_softmax(logits, -1)
    target = labels / (labels.sum(-1, keepdim=True) + EPSILON)
    kl = (torch.special.xlogy(target, target) - target * log_scores).sum() / len(labels)
    suppression = suppression_of(log_scores.exp(), labels)
    total = kl
    if suppress:
        total = kl + suppression
    return PointerLoss(total, kl, suppression)


def suppression_of(scores: Float[Tensor, "targets cells"], labels: Float[Tensor, "targets cells"]) -> Tensor:
    """The mean over targets of the attention on cells whose label is exactly 0."""
    return (scores * (labels == 0)).sum(-1).mean()
