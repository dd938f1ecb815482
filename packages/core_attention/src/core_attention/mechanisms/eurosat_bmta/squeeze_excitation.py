"""Channel gates from the global mean: squeeze-and-excitation (Hu et al. 2018) and efficient channel attention (Wang et al. 2020)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import feature_map, odd, positive
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed


def channel_gate(x: Float[Tensor, "b c h w"], gate: Float[Tensor, "b c"]) -> Float[Tensor, "b c h w"]:
    """``y[b,c] = x[b,c] · gate[b,c]``, in the dtype of `x`; offers the gate to `core_attention.capture`."""
    gate = gate[..., None, None]
    recorded("gates", gate)
    return x * gate.to(x.dtype)


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: ``y = x · σ(W₂ ReLU(W₁ mean(x)))``, one gate per channel (Hu, Shen, Sun 2018, eq. 2-4).

    Args:
        channels: channels of the map.
        reduction: the hidden layer has ``max(1, channels // reduction)`` units.
        bias: biases of the two linear layers (the EuroSAT networks have none).
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        bias: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        positive("SqueezeExcitation", channels=channels, reduction=reduction)
        self.channels = channels
        hidden = max(1, channels // reduction)
        self.excitation = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias), nn.Sigmoid()
        )

    def gate(self, means: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """The gates in (0, 1) that belong to the global means of the channels."""
        return self.excitation(means)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "SqueezeExcitation")
        return channel_gate(x, self.gate(x.mean((2, 3))))


class EfficientChannelAttention(nn.Module):
    """Efficient channel attention: ``y = x · σ(conv1d_k(mean(x)))``, a convolution over neighbouring channels (Wang et al. 2020).

    Args:
        channels: channels of the map.
        kernel_size: odd; None: the odd number at or above ``|log₂(channels) / 2 + 1/2|`` after truncation, as published.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self, channels: int, *, kernel_size: int | None = None, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        positive("EfficientChannelAttention", channels=channels)
        if kernel_size is None:
            kernel_size = int(abs((math.log2(channels) + 1) / 2))
            if kernel_size % 2 == 0:
                kernel_size += 1
        odd("EfficientChannelAttention", kernel_size=kernel_size)
        self.channels = channels
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, means: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """The gates in (0, 1) that belong to the global means of the channels."""
        return torch.sigmoid(self.conv(means[:, None])[:, 0])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "EfficientChannelAttention")
        return channel_gate(x, self.gate(x.mean((2, 3))))


def example(tokens: int) -> Example:
    """Squeeze-and-excitation of 64 channels, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    return Example(SqueezeExcitation(64), (torch.randn(1, 64, side, side),), tokens=side * side)
