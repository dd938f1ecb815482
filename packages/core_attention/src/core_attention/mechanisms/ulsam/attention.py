"""Ultra-lightweight subspace attention: one softmax map over the pixels for each group of channels (Saini et al. 2020)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import divides, feature_map
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed

# The published names within one subspace. Ours are the same, but each tensor is joined over the subspaces along its first axis.
PARTS = [
    "conv_dws.weight",
    "conv_dws.bias",
    "conv_point.weight",
    "conv_point.bias",
    "bn_dws.weight",
    "bn_dws.bias",
    "bn_dws.running_mean",
    "bn_dws.running_var",
    "bn_point.weight",
    "bn_point.bias",
    "bn_point.running_mean",
    "bn_point.running_var",
]
# Scalars, equal in all subspaces: one of them serves for all.
COUNTERS = ["bn_dws.num_batches_tracked", "bn_point.num_batches_tracked"]


def subspace_gate(x: Float[Tensor, "b c h w"], attention: Float[Tensor, "b g h w"]) -> Float[Tensor, "b c h w"]:
    """``y = (1 + A_n) · x`` for the channels of each subspace n, which follow one another."""
    b, c, h, w = x.shape
    g = attention.shape[1]
    gate = (1 + attention).to(x.dtype)[:, :, None]  # (b, g, 1, h, w): one map for the c / g channels of a subspace
    return (x.reshape(b, g, c // g, h, w) * gate).reshape(b, c, h, w)


class ULSAM(nn.Module):
    """Subspace attention ``F̂_n = (1 + A_n) ⊙ F_n``, ``A_n = softmax over pixels of PW(maxpool₃ₓ₃(DW(F_n)))`` (arXiv 2006.15102).

    DW scales (and shifts) each channel, PW is a 1×1 convolution of a subspace's channels to one score. The published code has batch
    norm and ReLU after both, which the paper's equations lack (``norm=False``: 2·channels parameters, no bias). All subspaces are
    computed together, and their parameters joined; state dicts with the published names ``subspaces.N.…`` load too, and
    `published_state` writes one.

    Args:
        channels: channels of the map, m.
        num_splits: subspaces, g; must divide the channels. The paper finds 4 the usual best.
        norm: batch norm, ReLU and biases as in the published code; False: the paper's equations.
        official_momentum: batch norm with momentum 0.9 in torch's sense, as published (running statistics are then almost those of
            the last batch); False: 0.1. It concerns training only.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: `num_splits` does not divide `channels`.
    """

    @placed
    def __init__(
        self,
        channels: int,
        *,
        num_splits: int = 4,
        norm: bool = True,
        official_momentum: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        divides("ULSAM", channels=channels, num_splits=num_splits)
        self.channels, self.num_splits, self.norm = channels, num_splits, norm
        self.conv_dws = nn.Conv2d(channels, channels, 1, groups=channels, bias=norm)
        self.conv_point = nn.Conv2d(channels, num_splits, 1, groups=num_splits, bias=norm)
        self.bn_dws = self.bn_point = nn.Identity()
        if norm:
            momentum = 0.9 if official_momentum else 0.1
            self.bn_dws = nn.BatchNorm2d(channels, momentum=momentum)
            self.bn_point = nn.BatchNorm2d(num_splits, momentum=momentum)

    def attention(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g h w"]:
        """The attention map of each subspace; each sums to 1 over the pixels. The softmax is in float32 at least."""
        b, c, h, w = x.shape
        # DW is one product per channel; as a convolution it takes ten times as long on CPUs
        scale, shift = self.conv_dws.weight.view(1, c, 1, 1), self.conv_dws.bias
        d = x * scale.to(x.dtype)
        if shift is not None:
            d = d + shift.to(x.dtype).view(1, c, 1, 1)
        if self.norm:
            d = F.relu(self.bn_dws(d))
        # torch vectorises pooling over channels that lie side by side: 5 to 13 times faster on CPUs
        if not torch._C._are_functorch_transforms_active():  # under vmap there are no memory formats
            d = d.contiguous(memory_format=torch.channels_last)
        s = self.conv_point(F.max_pool2d(d, 3, stride=1, padding=1))
        if self.norm:
            s = F.relu(self.bn_point(s))
        wide = torch.promote_types(s.dtype, torch.float32)
        return s.flatten(2).softmax(2, dtype=wide).view(b, self.num_splits, h, w)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map; ``|x| ≤ |y| ≤ 2 |x|``.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "ULSAM")
        a = self.attention(x)
        recorded("gates", a)
        return subspace_gate(x, a)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stacked(state_dict, prefix, self.num_splits)
        super()._load_from_state_dict(state_dict, prefix, *args)


def stacked(state_dict: dict[str, Tensor], prefix: str, num_splits: int) -> None:
    """Replaces the published keys ``subspaces.N.…`` under `prefix`, as far as they are there, by ours, joined over the subspaces."""
    for part in PARTS + COUNTERS:
        keys = [f"{prefix}subspaces.{n}.{part}" for n in range(num_splits)]
        if all(key in state_dict for key in keys):
            parts = [state_dict.pop(key) for key in keys]
            if part in COUNTERS:
                state_dict[prefix + part] = parts[0]
            else:
                state_dict[prefix + part] = torch.cat(parts)


def published_state(layer: ULSAM) -> dict[str, Tensor]:
    """The layer's state under the published names ``subspaces.N.…``, as views: the inverse of `stacked`."""
    state, g = layer.state_dict(keep_vars=True), layer.num_splits
    published: dict[str, Tensor] = {}
    for part in PARTS + COUNTERS:
        if part not in state:  # without norm there are neither biases nor batch norms
            continue
        joined = state[part]
        subspaces = [joined] * g if part in COUNTERS else joined.chunk(g)
        for n, tensor in enumerate(subspaces):
            published[f"subspaces.{n}.{part}"] = tensor
    return published


def definition(layer: ULSAM, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The layer as published, one subspace after the other; leaves running statistics as they are."""
    state, out = published_state(layer), []

    def normed(t: Tensor, name: str) -> Tensor:
        if not layer.norm:
            return t
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        # clones, because batch_norm updates what it is given
        return F.relu(F.batch_norm(t, mean.clone(), var.clone(), weight, bias, layer.training))

    def convolved(t: Tensor, name: str, groups: int) -> Tensor:
        return F.conv2d(t, state[f"{name}.weight"], state.get(f"{name}.bias"), groups=groups)

    for n, part in enumerate(x.chunk(layer.num_splits, 1)):
        name = f"subspaces.{n}"
        d = normed(convolved(part, f"{name}.conv_dws", part.shape[1]), f"{name}.bn_dws")
        pooled = F.max_pool2d(d, 3, stride=1, padding=1)
        s = normed(convolved(pooled, f"{name}.conv_point", 1), f"{name}.bn_point")
        a = s.flatten(2).softmax(2).view_as(s)
        out.append(part * a + part)
    return torch.cat(out, 1)


def example(tokens: int) -> Example:
    """The layer on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    layer = ULSAM(64)
    x = torch.randn(1, layer.channels, side, side)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer))
