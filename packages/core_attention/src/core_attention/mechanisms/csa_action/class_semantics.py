"""Class semantics-based attention over time: what a recogniser saw gates the channels and steps of a localiser (Sridhar et al. 2021).

No code and no full text of this block are public: it is a reconstruction from what the paper's abstract and captions fix. The weights
come from the class-semantic features R, one set for the channels and one for the time points of F; gate functions, widths and fusion
are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import odd, positive
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed


def _sum(f: Tensor, a_c: Tensor, a_t: Tensor) -> Tensor:
    return f * (a_c + a_t)


def _max(f: Tensor, a_c: Tensor, a_t: Tensor) -> Tensor:
    return torch.maximum(f * a_c, f * a_t)


def _product(f: Tensor, a_c: Tensor, a_t: Tensor) -> Tensor:
    return f * (a_c * a_t)


FUSIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"sum": _sum, "max": _max, "product": _product}


class _ChannelBranch(nn.Module):
    """``a_c = σ(W₂ ReLU(W₁ mean_t ReLU(conv(R)) + b₁) + b₂)``, (batch, feat_channels, 1)."""

    def __init__(self, in_channels: int, feat_channels: int, hidden: int, squeezed: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, hidden, kernel_size, padding=kernel_size // 2)
        self.fc1 = nn.Linear(hidden, squeezed)
        self.fc2 = nn.Linear(squeezed, feat_channels)

    def forward(self, r: Tensor, mask: Tensor | None) -> Tensor:
        u = torch.relu(self.conv(r))
        if mask is None:
            z = u.mean(2)
        else:
            z = (u * mask).sum(2) / mask.sum(2).clamp(min=1)  # a sample without a valid step has the mean 0
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(z))))[..., None]


class _TemporalBranch(nn.Module):
    """``a_t = σ(conv₂(ReLU(conv₁(R))))``, (batch, 1, time)."""

    def __init__(self, in_channels: int, hidden: int, kernel_size: int):
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, hidden, kernel_size, padding=kernel_size // 2)
        self.conv2 = nn.Conv1d(hidden, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, r: Tensor, mask: Tensor | None) -> Tensor:
        a = torch.sigmoid(self.conv2(torch.relu(self.conv1(r))))
        return a if mask is None else a * mask


class CSABlock(nn.Module):
    """Class semantics-based attention: F attended along channels and along time by weights learnt from R, and both results fused.

    Args:
        in_channels: channels of R.
        feat_channels: channels of F.
        hidden: width M of both branches.
        reduction: the channel branch narrows to ``max(1, M // reduction)``.
        kernel_size: of all convolutions over time, odd.
        fuse: ``"sum"`` of a_c ⊙ F and a_t ⊙ F, their ``"max"``, or the ``"product"`` a_c a_t ⊙ F.
        self_se: squeeze-and-excitation of F by its own time mean before the block (the complementary use of both).
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: a size below 1, an even kernel, or an unknown fusion.
    """

    @placed
    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        *,
        hidden: int = 256,
        reduction: int = 16,
        kernel_size: int = 3,
        fuse: str = "sum",
        self_se: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        positive("CSABlock", in_channels=in_channels, feat_channels=feat_channels, hidden=hidden, reduction=reduction)
        odd("CSABlock", kernel_size=kernel_size)
        if fuse not in FUSIONS:
            raise ValueError(f"unknown fusion {fuse!r}: one of {', '.join(FUSIONS)}")
        self.in_channels, self.feat_channels, self.fuse = in_channels, feat_channels, fuse
        self.channel = _ChannelBranch(in_channels, feat_channels, hidden, max(1, hidden // reduction), kernel_size)
        self.temporal = _TemporalBranch(in_channels, hidden, kernel_size)
        self.se: nn.Module | None = None
        if self_se:
            narrow = max(1, feat_channels // reduction)
            self.se = nn.Sequential(
                nn.Linear(feat_channels, narrow), nn.ReLU(), nn.Linear(narrow, feat_channels), nn.Sigmoid()
            )

    def gates(
        self, r: Float[Tensor, "b c_r t_r"], length: int, mask: Bool[Tensor, "b t"] | None = None
    ) -> tuple[Float[Tensor, "b c_f 1"], Float[Tensor, "b 1 t"]]:
        """The channel weights and time weights in [0, 1]; R is resized linearly to `length` if it has another."""
        if r.shape[2] != length:
            r = F.interpolate(r, size=length, mode="linear", align_corners=False)
        steps = None if mask is None else mask[:, None].to(r.dtype)  # (batch, 1, time), 1 at valid steps
        return self.channel(r, steps), self.temporal(r, steps)

    def forward(
        self,
        r: Float[Tensor, "b c_r t_r"],
        f: Float[Tensor, "b c_f t"],
        *,
        mask: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b c_f t"]:
        """The attended features.

        Args:
            r: class-semantic features (the recogniser's outputs over time).
            f: features of the localisation encoder.
            mask: True at valid steps of F; padded steps count in no mean and get the time weight 0.

        Returns:
            the attended features.

        Raises:
            ValueError: shapes that do not fit; they are quoted.
        """
        if r.ndim != 3 or r.shape[1] != self.in_channels or r.shape[2] == 0:
            raise ValueError(f"CSABlock needs R (batch, {self.in_channels}, time), got {tuple(r.shape)}")
        if f.ndim != 3 or f.shape[1] != self.feat_channels or f.shape[2] == 0 or f.shape[0] != r.shape[0]:
            raise ValueError(
                f"CSABlock needs F ({r.shape[0]}, {self.feat_channels}, time) beside R {tuple(r.shape)}, got {tuple(f.shape)}"
            )
        if mask is not None and (mask.shape != (f.shape[0], f.shape[2]) or mask.dtype != torch.bool):
            raise ValueError(
                f"CSABlock needs a bool mask {(f.shape[0], f.shape[2])} for F {tuple(f.shape)}, "
                f"got {tuple(mask.shape)} of {mask.dtype}"
            )
        if self.se is not None:
            steps = torch.ones_like(f[:, :1]) if mask is None else mask[:, None].to(f.dtype)
            means = (f * steps).sum(2) / steps.sum(2).clamp(min=1)
            f = f * self.se(means)[..., None]
        a_c, a_t = self.gates(r, f.shape[2], mask)
        recorded("gates.channel", a_c[..., None])
        recorded("gates.time", a_t[:, None])
        return FUSIONS[self.fuse](f, a_c.to(f.dtype), a_t.to(f.dtype))


def definition(layer: CSABlock, r: Float[Tensor, "b c_r t"], f: Float[Tensor, "b c_f t"]) -> Float[Tensor, "b c_f t"]:
    """The block step by step: two attended features, and their fusion (no mask, R and F of one length, no `self_se`)."""
    channel, temporal = layer.channel, layer.temporal
    z = torch.relu(channel.conv(r)).mean(2)
    attended_c = torch.sigmoid(channel.fc2(torch.relu(channel.fc1(z))))[..., None]
    attended_t = torch.sigmoid(temporal.conv2(torch.relu(temporal.conv1(r))))
    if layer.fuse == "product":
        return f * attended_c * attended_t
    by_channel, by_time = f * attended_c, f * attended_t
    if layer.fuse == "max":
        return torch.maximum(by_channel, by_time)
    return by_channel + by_time


def example(tokens: int) -> Example:
    """The block after BMN's base module on ActivityNet features, for `core_attention.registry.catalogue`; its tokens are time steps."""
    layer = CSABlock(400, 256)
    inputs = torch.randn(1, 400, tokens), torch.randn(1, 256, tokens)
    return Example(layer, inputs, tokens=tokens, reference=partial(definition, layer))
