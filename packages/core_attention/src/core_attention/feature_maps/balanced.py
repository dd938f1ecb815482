"""Balanced multi-task attention: coordinate attention and squeeze-excitation blended by one learnt scalar (Vir 2025)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.feature_maps.checks import feature_map
from core_attention.feature_maps.coordinate import CoordinateAttention
from core_attention.feature_maps.squeeze_excitation import SqueezeExcitation
from core_attention.feature_maps.strips import strip_attention, strip_gate


def balanced_fusion(
    x: Float[Tensor, "b c h w"],
    rows: Float[Tensor, "b c h"],
    columns: Float[Tensor, "b c w"],
    channels: Float[Tensor, "b c"],
    alpha: Float[Tensor, ""],
) -> Float[Tensor, "b c h w"]:
    """``α · (x ⊙ rows ⊙ columns) + (1 − α) · (x ⊙ channels)`` with α in [0, 1], as one product with the map."""
    return strip_gate(x, alpha * rows, columns, (1 - alpha) * channels)


def three_steps(
    x: Float[Tensor, "b c h w"],
    rows: Float[Tensor, "b c h"],
    columns: Float[Tensor, "b c w"],
    channels: Float[Tensor, "b c"],
    alpha: Float[Tensor, ""],
) -> Float[Tensor, "b c h w"]:
    """`balanced_fusion` by its definition: two gated maps and their blend, as published."""
    coordinate = x * rows[..., None] * columns[:, :, None, :]
    spectral = x * channels[..., None, None]
    return alpha * coordinate + (1 - alpha) * spectral


class BalancedMultiTaskAttention(nn.Module):
    """``σ(a) · CA(x) + (1 − σ(a)) · SE(x)``: a spatial and a spectral branch and one scalar between them (Vir 2025).

    The scalar `alpha` is the published parameter a, initially 0.5, so that the blend starts at σ(0.5) ≈ 0.622; `balance` is the blend.

    Args:
        channels: channels of the map.
        coord_reduction: reduction of the coordinate attention (ReLU, no biases), at least one hidden channel.
        se_reduction: reduction of the squeeze-excitation (no biases), at least one hidden unit.
    """

    def __init__(self, channels: int, *, coord_reduction: int = 8, se_reduction: int = 16):
        super().__init__()
        self.channels = channels
        self.coord_attention = CoordinateAttention(
            channels, reduction=coord_reduction, min_hidden=1, activation="relu", bias=False
        )
        self.se_attention = SqueezeExcitation(channels, reduction=se_reduction)
        self.alpha = nn.Parameter(torch.tensor(0.5))

    @property
    def balance(self) -> Tensor:
        """The weight of the spatial branch, in (0, 1)."""
        return torch.sigmoid(self.alpha)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "BalancedMultiTaskAttention")
        return strip_attention(x, self._gates)

    def _gates(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a_h, a_w = self.coord_attention.gates(rows, columns)
        alpha = self.balance
        return alpha * a_h, a_w, (1 - alpha) * self.se_attention.gate(rows.mean(2))
