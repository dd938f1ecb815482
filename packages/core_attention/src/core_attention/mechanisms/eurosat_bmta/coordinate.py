"""Coordinate attention: gates of rows and columns from both strips at once (Hou, Zhou, Feng 2021)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import feature_map, positive
from core_attention.parts.placing import Device, placed
from core_attention.parts.strips import strip_attention

ACTIVATIONS: dict[str, type[nn.Module]] = {"hardswish": nn.Hardswish, "relu": nn.ReLU}


class CoordinateAttention(nn.Module):
    """Coordinate attention ``y = x · σ(F_h u_h) ⊗ σ(F_w u_w)`` with ``[u_h, u_w] = δ(BN(F₁ [mean_w x, mean_h x]))``.

    All F are 1×1 convolutions. The defaults are those of the paper (h-swish, biases, at least 8 hidden channels); the EuroSAT
    networks use ``reduction=8, min_hidden=1, activation="relu", bias=False``.

    Args:
        channels: channels of the map.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` channels.
        min_hidden: lower bound of the hidden channels.
        activation: δ, ``"hardswish"`` or ``"relu"``.
        bias: biases of the convolutions.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: a size below 1 or an unknown activation.
    """

    @placed
    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 32,
        min_hidden: int = 8,
        activation: str = "hardswish",
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        positive("CoordinateAttention", channels=channels, reduction=reduction, min_hidden=min_hidden)
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: one of {', '.join(ACTIVATIONS)}")
        hidden = max(min_hidden, channels // reduction)
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.act = ACTIVATIONS[activation]()
        self.conv_h = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.conv_w = nn.Conv2d(hidden, channels, 1, bias=bias)

    def gates(
        self, rows: Float[Tensor, "b c h"], columns: Float[Tensor, "b c w"]
    ) -> tuple[Float[Tensor, "b c h"], Float[Tensor, "b c w"]]:
        """The row gates and column gates in (0, 1) that belong to the row means and column means."""
        # the 1×1 convolutions as linear maps of the strips' positions: one product of matrices per batch, not per sample
        strip = torch.cat([rows.mT, columns.mT], 1)  # (b, h + w, c)
        u = F.linear(strip, self.conv1.weight.flatten(1), self.conv1.bias)
        # BatchNorm2d wants a map: every position as a sample of one pixel gives the same statistics
        u = self.act(self.bn1(u.flatten(0, 1)[..., None, None])).view(u.shape)
        u_h, u_w = u.split([rows.shape[2], columns.shape[2]], 1)
        a_h = torch.sigmoid(F.linear(u_h, self.conv_h.weight.flatten(1), self.conv_h.bias))
        a_w = torch.sigmoid(F.linear(u_w, self.conv_w.weight.flatten(1), self.conv_w.bias))
        return a_h.mT, a_w.mT

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "CoordinateAttention")
        return strip_attention(x, self.gates)


def definition(layer: CoordinateAttention, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The layer step by step: two means, the gates, and one product after the other."""
    a_h, a_w = layer.gates(x.mean(3), x.mean(2))
    return x * a_h[..., None] * a_w[:, :, None]


def example(tokens: int) -> Example:
    """The layer on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    layer = CoordinateAttention(64)
    x = torch.randn(1, layer.channels, side, side)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer))
