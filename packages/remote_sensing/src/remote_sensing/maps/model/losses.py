"""The losses of MapSAM."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def focal_loss(
    logits: Float[Tensor, "b k h w"], target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, ""]:
    """``α_t (1 − p_t)^γ BCE``, the mean over pixels, then over images."""
    y = target.to(logits.dtype)
    cross = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    p = logits.sigmoid()
    p_t = p * y + (1 - p) * (1 - y)  # probability of the true class
    a_t = alpha * y + (1 - alpha) * (1 - y)
    return (a_t * (1 - p_t) ** gamma * cross).flatten(1).mean(1).mean()


def dice_loss(logits: Float[Tensor, "b k h w"], target: Tensor, *, smooth: float = 1e-6) -> Float[Tensor, ""]:
    """``1 − (2 Σ p y + s) / (Σ p + Σ y + s)`` over the pixels of an image, the mean over images."""
    p, y = logits.sigmoid().flatten(1), target.to(logits.dtype).flatten(1)
    overlap = (2 * (p * y).sum(1) + smooth) / (p.sum(1) + y.sum(1) + smooth)
    return (1 - overlap).mean()


def mask_loss(
    logits: Float[Tensor, "b k h w"], target: Tensor, *, focal_weight: float = 0.2, dice_weight: float = 0.8
) -> Float[Tensor, ""]:
    """``0.2 focal + 0.8 dice``, as published."""
    return focal_weight * focal_loss(logits, target) + dice_weight * dice_loss(logits, target)
