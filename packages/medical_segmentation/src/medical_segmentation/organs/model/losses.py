"""The published losses of the self-guided network (Sinha and Dolz 2020, equation 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from medical_segmentation.organs.model.guided import Supervised

GUIDED, RECONSTRUCTION = 0.25, 0.1  # β and γ of the paper; α is 1


class GuidedLosses(NamedTuple):
    """Terms of the loss.

    Attributes:
        segmentation: cross entropy of the first stage at scales 1 to 4 (finest first), then of the second.
        guided: squared distance of the codes, coarsest scale first.
        reconstruction: squared error of stage 1 at scales 1 to 4, then of stage 2.
        total: their weighted sum.
    """

    segmentation: Float[Tensor, " heads"]
    guided: Float[Tensor, " scales"]
    reconstruction: Float[Tensor, " heads"]
    total: Float[Tensor, ""]


def guided_losses(outputs: Supervised, target: Int[Tensor, " b *space"]) -> GuidedLosses:
    """``Σ CE + 0.25 · Σ MSE(e¹, e²) + 0.1 · Σ MSE(I, r)``; both sides of each distance carry gradients, as published.

    Args:
        outputs: of the network in training.
        target: class numbers.
    """
    segmentation = [F.cross_entropy(logits, target) for logits in (*outputs.first, *outputs.second)]
    guided = [F.mse_loss(first, second) for first, second in reversed(outputs.codes)]
    reconstruction = []
    for stage in (0, 1):
        for inputs, reconstructions in zip(outputs.inputs, outputs.reconstructions, strict=True):
            reconstruction.append(F.mse_loss(inputs[stage], reconstructions[stage]))
    of_heads, of_codes, of_maps = map(torch.stack, (segmentation, guided, reconstruction))
    total = of_heads.sum() + GUIDED * of_codes.sum() + RECONSTRUCTION * of_maps.sum()
    return GuidedLosses(of_heads, of_codes, of_maps, total)
