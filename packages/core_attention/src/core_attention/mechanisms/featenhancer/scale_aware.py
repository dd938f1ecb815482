"""Scale-aware feature aggregation: a per-pixel, per-head blend of two scales, added to the finer one (Hashmi et al. 2023)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import divides, feature_map
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed


def scale_blend(
    q: Float[Tensor, "b c h w"], k: Float[Tensor, "b c h w"], heads: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b m h w"]]:
    """``w_Q Q + w_K K``, the weights a softmax over the two at each pixel and head; also returns w_K.

    With d channels per head the logits are ``Q_m · K_m / √d`` and ``|K_m|² / √d``. A softmax over two is a sigmoid of their difference,
    ``w_K = σ((K_m − Q_m) · K_m / √d)``, and the blend is ``Q + w_K (K − Q)``: nothing is stacked.

    Returns:
        the blend, and w_K at each pixel and head.
    """
    b, c, h, w = q.shape
    d = c // heads
    split = (b, heads, d, h, w)
    # float32 at least: in half precision the difference of two close maps loses its digits
    wide = torch.promote_types(q.dtype, torch.float32)
    difference = (k.to(wide) - q.to(wide)).reshape(split)
    w_k = torch.sigmoid((difference * k.reshape(split)).sum(2) * d**-0.5)  # (b, heads, h, w)
    blended = q + (difference * w_k[:, :, None]).reshape(b, c, h, w)
    return blended.to(q.dtype), w_k


class ScaleAwareFeatureAggregation(nn.Module):
    """``F' = F + upsample(w_Q Q + w_K K)`` with Q from the full scale and K from the quarter scale, both at an eighth.

    Q is a 7×7 convolution of stride 4 and a 3×3 one of stride 2 of F, K a 3×3 one of stride 2 of the quarter-scale map, none padded;
    the upsampling is bilinear with aligned corners.

    Args:
        channels: channels of both maps (24 as published).
        num_heads: heads of the blend (8 as published); must divide the channels.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self, channels: int = 24, *, num_heads: int = 8, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        divides("ScaleAwareFeatureAggregation", channels=channels, num_heads=num_heads)
        self.channels, self.num_heads = channels, num_heads
        self.query_conv1 = nn.Conv2d(channels, channels, 7, stride=4)
        self.query_conv2 = nn.Conv2d(channels, channels, 3, stride=2)
        self.key_conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"], quarter: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b c h w"]:
        """The aggregated map, of the size of `x`.

        Args:
            x: the full-scale map, at least 15×15.
            quarter: the quarter-scale map, ``⌊(H − 7) / 4⌋ + 1`` by ``⌊(W − 7) / 4⌋ + 1``.

        Returns:
            the aggregated map, of the shape of `x`.

        Raises:
            ValueError: a map that is too small, or maps that do not fit together; both shapes are quoted.
        """
        what = "ScaleAwareFeatureAggregation"
        feature_map(x, self.channels, what)
        feature_map(quarter, self.channels, what)
        if min(x.shape[2:]) < 15:
            raise ValueError(f"{what} needs a map of at least 15×15, got {tuple(x.shape)}")
        # what `query_conv1` leaves of x: only then do both scales end on the same grid
        height, width = (x.shape[2] - 7) // 4 + 1, (x.shape[3] - 7) // 4 + 1
        expected = (x.shape[0], self.channels, height, width)
        if tuple(quarter.shape) != expected:
            raise ValueError(
                f"{what} needs a quarter-scale map {expected} beside {tuple(x.shape)}, got {tuple(quarter.shape)}"
            )
        q, k = self.query_conv2(self.query_conv1(x)), self.key_conv(quarter)
        blended, w_k = scale_blend(q, k, self.num_heads)
        recorded("weights.key", w_k)
        return x + F.interpolate(blended, size=x.shape[2:], mode="bilinear", align_corners=True)


def definition(
    layer: ScaleAwareFeatureAggregation, x: Float[Tensor, "b c h w"], quarter: Float[Tensor, "b c h4 w4"]
) -> Float[Tensor, "b c h w"]:
    """The layer step by step: both scales in one stack, and a softmax over it."""
    q, k = layer.query_conv2(layer.query_conv1(x)), layer.key_conv(quarter)
    b, c, h, w = q.shape
    m, d = layer.num_heads, c // layer.num_heads
    stack = torch.stack([q, k], 1).view(b, 2, m, d, h, w)
    logits = (stack * k.view(b, 1, m, d, h, w)).sum(3) / d**0.5
    weights = torch.softmax(logits, 1)  # (b, 2, m, h, w)
    blended = (weights[:, :, :, None] * stack).sum(1).view(b, c, h, w)
    return x + F.interpolate(blended, size=x.shape[2:], mode="bilinear", align_corners=True)


def example(tokens: int) -> Example:
    """The published layer, for `core_attention.registry.catalogue`; its tokens are the pixels at an eighth, where it blends."""
    side = max(1, round(tokens**0.5))
    layer = ScaleAwareFeatureAggregation()
    x = torch.randn(1, 24, 8 * side + 7, 8 * side + 7)
    quarter = torch.randn(1, 24, 2 * side + 1, 2 * side + 1)
    return Example(layer, (x, quarter), tokens=side * side, reference=partial(definition, layer))
