"""DropBlock as the EuroSAT networks use it: one mask for all channels, rescaled over the whole batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def drop_block(
    x: Float[Tensor, "b c h w"], uniform: Float[Tensor, "b 1 h w"], *, drop_prob: float, block_size: int
) -> Float[Tensor, "b c h w"]:
    """``x ⊙ m · numel(m) / (Σ m + 1e-7)`` with ``m = 1 − maxpool_k(uniform < p / k²)`` (Vir 2025; simplified from Ghiasi et al. 2018).

    The pooling has stride 1 and pads k // 2, so that blocks at the border are cut off; γ is not corrected for them.

    Args:
        x: the feature map.
        uniform: noise in [0, 1), shared by the channels.
        drop_prob: p, the share of pixels to drop, in [0, 1].
        block_size: k, odd.
    """
    seeds = (uniform < drop_prob / block_size**2).to(x.dtype)
    mask = 1 - F.max_pool2d(seeds, block_size, stride=1, padding=block_size // 2)
    return x * (mask * (mask.numel() / (mask.sum() + 1e-7)))  # keeps the expected sum


class DropBlock2D(nn.Module):
    """`drop_block` in training; the identity in evaluation and at ``drop_prob=0``.

    Args:
        drop_prob: share of pixels to drop, in [0, 1].
        block_size: side of a block, odd.

    Raises:
        ValueError: a probability outside [0, 1] or an even block.
    """

    def __init__(self, drop_prob: float = 0.1, *, block_size: int = 7):
        super().__init__()
        if not 0 <= drop_prob <= 1:
            raise ValueError(f"DropBlock2D needs drop_prob in [0, 1], got {drop_prob}")
        if block_size < 1 or block_size % 2 == 0:
            raise ValueError(f"DropBlock2D needs an odd block_size of at least 1, got {block_size}")
        self.drop_prob, self.block_size = drop_prob, block_size

    def forward(
        self, x: Float[Tensor, "b c h w"], uniform: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The map with blocks dropped; `uniform` is drawn if it is not given."""
        if not self.training or self.drop_prob == 0:
            return x
        if uniform is None:
            b, _, h, w = x.shape
            uniform = torch.rand(b, 1, h, w, dtype=x.dtype, device=x.device)
        return drop_block(x, uniform, drop_prob=self.drop_prob, block_size=self.block_size)
