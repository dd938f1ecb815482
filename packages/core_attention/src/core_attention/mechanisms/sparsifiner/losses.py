"""What Sparsifiner learns from: the losses of its two phases, each one function, each unweighted.

Warm-up: `reconstruction` of the dense teacher's attention (weight 0.01). Fine-tuning: soft-target cross entropy (1), `logit_distillation`
(0.5) and `token_distillation` (0.5); `reconstruction` of the model's own unmasked attention (0.002) if wanted.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def reconstruction(
    scores: Sequence[Float[Tensor, "batch heads patches tokens"]],
    weights: Sequence[Float[Tensor, "batch heads tokens tokens"]],
    *,
    criterion: Literal["MSE", "CE", "KL"] = "MSE",
) -> Float[Tensor, ""]:
    """Connectivity scores against softmax attention without its class row, averaged over layers.

    "MSE" is the *sum* of squared errors over batch, heads, rows and columns, so it grows with the batch, as published.

    Args:
        scores: of each layer, see `Connectivity`.
        weights: softmax attention of each layer: the teacher's, or the model's own unmasked one (self-distillation; the published
            code lets the gradient through both).
        criterion: which distance.

    Returns:
        the loss, a scalar.

    Raises:
        ValueError: no layer, or numbers of layers that differ.
    """
    if not scores or len(scores) != len(weights):
        raise ValueError(f"scores of {len(scores)} layers against attention of {len(weights)}")
    total = scores[0].new_zeros(())
    for ours, theirs in zip(scores, weights, strict=True):
        theirs = theirs[..., 1:, :]
        if criterion == "MSE":
            total = total + F.mse_loss(ours, theirs, reduction="sum")
        elif criterion == "KL":
            total = total + F.kl_div(ours.log_softmax(-1), theirs, reduction="batchmean")
        else:
            total = total + F.cross_entropy(ours, theirs)
    return total / len(scores)


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """``−mean_b Σ_c labels · log softmax(logits)``: cross entropy with mixed-up labels."""
    return -(labels * logits.log_softmax(-1)).sum(-1).mean()


def logit_distillation(
    logits: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """``KL(teacher ‖ student)`` of the class probabilities, averaged over the batch."""
    return F.kl_div(logits.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def token_distillation(
    tokens: Float[Tensor, "batch patches dim"],
    teacher: Float[Tensor, "batch patches dim"],
    *,
    token_mask: Bool[Tensor, "batch patches"] | None = None,
    criterion: Literal["MSE", "KL"] = "MSE",
) -> Float[Tensor, ""]:
    """The last layer's normalised patch tokens against the teacher's; only those alive."""
    ours, theirs = tokens.flatten(0, 1), teacher.flatten(0, 1)
    if token_mask is not None:
        alive = token_mask.flatten()
        ours, theirs = ours[alive], theirs[alive]
    if criterion == "MSE":
        return F.mse_loss(ours, theirs)
    return F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True)


def mask_ratio(masks: Sequence[Tensor], target: float) -> Float[Tensor, ""]:
    """``mean (mean_j mask_ij − target)²`` over rows, averaged over layers. A hard mask gives it no gradient."""
    return torch.stack([((mask.float().mean(-1) - target) ** 2).mean() for mask in masks]).mean()


def least_k(masks: Sequence[Tensor], budget: int) -> Float[Tensor, ""]:
    """Mean size of all but the `budget` largest entries of each row (class row excluded), averaged over layers."""
    parts = []
    for mask in masks:
        rows = mask[..., 1:, :].float()
        parts.append(rows.topk(rows.shape[-1] - budget, dim=-1, largest=False).values.abs().mean())
    return torch.stack(parts).mean()


def basis_size(basis: Sequence[Tensor]) -> Float[Tensor, ""]:
    """L1 norm of the basis W, averaged over layers: what makes it sparse."""
    return torch.stack([part.abs().sum() for part in basis]).mean()
