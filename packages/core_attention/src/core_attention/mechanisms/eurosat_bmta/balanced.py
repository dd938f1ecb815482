"""Balanced multi-task attention: coordinate attention and squeeze-excitation blended by one learnt scalar (Vir 2025)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.mechanisms.eurosat_bmta.coordinate import CoordinateAttention
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import SqueezeExcitation
from core_attention.parts.map_checks import feature_map
from core_attention.parts.placing import Device, placed
from core_attention.parts.strips import strip_attention, strip_gate


def balanced_fusion(
    x: Float[Tensor, "b c h w"],
    rows: Float[Tensor, "b c h"],
    columns: Float[Tensor, "b c w"],
    channels: Float[Tensor, "b c"],
    alpha: Float[Tensor, "..."],
) -> Float[Tensor, "b c h w"]:
    """``α · (x ⊙ rows ⊙ columns) + (1 − α) · (x ⊙ channels)`` with α in [0, 1], as one product with the map."""
    return strip_gate(x, alpha * rows, columns, (1 - alpha) * channels)


class BalancedMultiTaskAttention(nn.Module):
    """``σ(a) · CA(x) + (1 − σ(a)) · SE(x)``: a spatial and a spectral branch and one scalar between them (Vir 2025).

    The scalar `alpha` is the published parameter a, initially 0.5, so that the blend starts at σ(0.5) ≈ 0.622; `balance` is the blend.
    State dicts that hold it without an axis, as published ones do, load too.

    Args:
        channels: channels of the map.
        coord_reduction: reduction of the coordinate attention (ReLU, no biases), at least one hidden channel.
        se_reduction: reduction of the squeeze-excitation (no biases), at least one hidden unit.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        channels: int,
        *,
        coord_reduction: int = 8,
        se_reduction: int = 16,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.coord_attention = CoordinateAttention(
            channels, reduction=coord_reduction, min_hidden=1, activation="relu", bias=False
        )
        self.se_attention = SqueezeExcitation(channels, reduction=se_reduction)
        # one element, but with an axis: FSDP cannot shard a parameter without axes
        self.alpha = nn.Parameter(torch.tensor([0.5]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        alpha = state_dict.get(f"{prefix}alpha")
        if alpha is not None and alpha.ndim == 0:
            state_dict[f"{prefix}alpha"] = alpha.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

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
        means = rows.mean(2)  # the mean of the row means is the global mean: no third pass over the map
        return alpha * a_h, a_w, (1 - alpha) * self.se_attention.gate(means)


def definition(layer: BalancedMultiTaskAttention, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The layer in three steps, as published: the map gated by either branch, and the blend of both."""
    a_h, a_w = layer.coord_attention.gates(x.mean(3), x.mean(2))
    coordinate = x * a_h[..., None] * a_w[:, :, None]
    spectral = x * layer.se_attention.gate(x.mean((2, 3)))[..., None, None]
    return layer.balance * coordinate + (1 - layer.balance) * spectral


def example(tokens: int) -> Example:
    """The layer on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    layer = BalancedMultiTaskAttention(64)
    x = torch.randn(1, layer.channels, side, side)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer))
