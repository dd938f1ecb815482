"""Efficient local attention: gates of rows and columns from 1-D convolutions of the two strips (Xu and Wan 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import feature_map, odd, positive
from core_attention.parts.placing import Device, placed
from core_attention.parts.strips import strip_attention, strip_conv


@dataclass(frozen=True)
class Variant:
    """One published size: kernel, channels that a convolution group mixes (1: depthwise), groups of the normalisation."""

    kernel_size: int
    channels_a_group: int
    num_groups: int


VARIANTS = {"T": Variant(5, 1, 32), "B": Variant(7, 1, 16), "S": Variant(5, 8, 16), "L": Variant(7, 8, 16)}

# names in the two circulating copies (conv.*, gn.* is the first) → ours
COMMUNITY = {"con1.weight": "conv.weight", "GN.weight": "gn.weight", "GN.bias": "gn.bias"}


def strip_gates(
    strip: Float[Tensor, "b c l"],
    conv: Float[Tensor, "c c_a_group k"],
    scale: Float[Tensor, " c"],
    shift: Float[Tensor, " c"],
    *,
    groups: int,
    num_groups: int,
) -> Float[Tensor, "b c l"]:
    """``σ(GroupNorm(conv1d(strip)))``, the gates of one axis; normalised in float32 at least (short strips are noisy in half)."""
    z = strip_conv(strip, conv, groups=groups)
    wide = torch.promote_types(z.dtype, torch.float32)
    # torch.group_norm, not functional.group_norm: the latter refuses one value per group (a 1×1 map), whose norm is 0
    return torch.sigmoid(torch.group_norm(z.to(wide), num_groups, scale.to(wide), shift.to(wide), 1e-5))


class ELA(nn.Module):
    """Efficient local attention ``y[c,i,j] = x[c,i,j] · a_h[c,i] · a_w[c,j]``, ``a = σ(GN(F(strip means)))`` (arXiv 2403.01123).

    No channel is reduced: F is a grouped 1-D convolution from C to C channels without bias. One F and one normalisation serve both
    axes by default, as in the circulating code, whose weights load under either of its namings; ``shared=False`` is the paper's
    pair of each.

    Args:
        channels: channels of the map, C.
        variant: ``"T"`` (kernel 5, depthwise, 32 norm groups: 7C parameters), ``"B"`` (7, depthwise, 16: 9C), ``"S"`` (5, C/8 groups,
            16: 42C), ``"L"`` (7, C/8 groups, 16: 58C).
        kernel_size: instead of the variant's; odd.
        groups: convolution groups, instead of the variant's.
        num_groups: normalisation groups, instead of the variant's.
        shared: one convolution and one normalisation for both axes; False: one each, twice the parameters.
        strict: False: groups that do not divide C become the largest divisor of C below them, so that any width works.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: an unknown variant, an even kernel, or (strict) groups that do not divide the channels.
    """

    @placed
    def __init__(
        self,
        channels: int,
        *,
        variant: str = "T",
        kernel_size: int | None = None,
        groups: int | None = None,
        num_groups: int | None = None,
        shared: bool = True,
        strict: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r} of ELA: one of {', '.join(VARIANTS)}")
        nominal = VARIANTS[variant]
        name = f"ELA-{variant}"
        positive(name, channels=channels)
        mixed = 1 if groups is not None else nominal.channels_a_group
        kernel_size = nominal.kernel_size if kernel_size is None else kernel_size
        groups = max(1, channels // mixed) if groups is None else groups
        num_groups = nominal.num_groups if num_groups is None else num_groups
        odd(name, kernel_size=kernel_size)
        positive(name, groups=groups, num_groups=num_groups)
        if strict and (channels % mixed or channels % groups or channels % num_groups):
            raise ValueError(
                f"{name} cannot take {channels} channels: its {groups} convolution groups of {channels / groups:g} and "
                f"{num_groups} norm groups must divide them; strict=False takes the largest divisors below"
            )
        groups, num_groups = _largest_divisor(channels, groups), _largest_divisor(channels, num_groups)
        self.channels, self.groups, self.num_groups, self.shared = channels, groups, num_groups, shared
        suffixes = ("",) if shared else ("_h", "_w")
        for suffix in suffixes:
            self.add_module(f"conv{suffix}", nn.Conv1d(channels, channels, kernel_size, groups=groups, bias=False))
            self.add_module(f"gn{suffix}", nn.GroupNorm(num_groups, channels))

    def gates(
        self, rows: Float[Tensor, "b c h"], columns: Float[Tensor, "b c w"]
    ) -> tuple[Float[Tensor, "b c h"], Float[Tensor, "b c w"]]:
        """The row gates a_h and column gates a_w in (0, 1) that belong to the row means and column means."""
        if self.shared and rows.shape == columns.shape:
            # a square map: both strips in one call, side by side along the batch
            a_h, a_w = self._gate_axis(torch.cat([rows, columns]), "").chunk(2)
            return a_h, a_w
        if self.shared:
            return self._gate_axis(rows, ""), self._gate_axis(columns, "")
        return self._gate_axis(rows, "_h"), self._gate_axis(columns, "_w")

    def _gate_axis(self, strip: Tensor, suffix: str) -> Tensor:
        """The gates of one strip, by the convolution and the norm whose names end so."""
        conv, gn = getattr(self, f"conv{suffix}"), getattr(self, f"gn{suffix}")
        return strip_gates(strip, conv.weight, gn.weight, gn.bias, groups=self.groups, num_groups=self.num_groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map, in the memory format of `x`.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "ELA")
        return strip_attention(x, self.gates)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for theirs, ours in COMMUNITY.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _largest_divisor(whole: int, bound: int) -> int:
    """The largest divisor of `whole` not above `bound`."""
    return next(n for n in range(min(bound, whole), 0, -1) if whole % n == 0)


def definition(layer: ELA, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The layer step by step: each axis by itself, and one product after the other."""

    def gate(strip: Tensor, suffix: str) -> Tensor:
        if layer.shared:
            suffix = ""
        conv, gn = getattr(layer, f"conv{suffix}"), getattr(layer, f"gn{suffix}")
        z = F.conv1d(strip, conv.weight, padding=conv.weight.shape[2] // 2, groups=layer.groups)
        return torch.sigmoid(gn(z))

    return x * gate(x.mean(3), "_h")[..., None] * gate(x.mean(2), "_w")[:, :, None]


def example(tokens: int) -> Example:
    """The layer on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    layer = ELA(64)
    x = torch.randn(1, layer.channels, side, side)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer))
