"""CBAM: a gate of channels, then a gate of pixels (Woo, Park, Lee, Kweon 2018)."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import channel_gate
from core_attention.parts.map_checks import feature_map, odd, positive
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed


def largest(x: Tensor, dim: int) -> Tensor:
    """The maximum along `dim`; its gradient goes to the first of equal values, as published (amax would share it out).

    Returns:
        the maxima, without `dim`.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return x.max(dim).values
    return x.amax(dim)


class ChannelGate(nn.Module):
    """``y = x · σ(MLP(mean(x)) + MLP(max(x)))``, one gate per channel, the MLP shared (Woo et al. 2018, eq. 2).

    Args:
        channels: channels of the map.
        reduction: the MLP has ``max(1, channels // reduction)`` hidden units, ReLU, no biases.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(self, channels: int, *, reduction: int = 16, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        positive("CBAM", channels=channels, reduction=reduction)
        hidden = max(1, channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def gate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """The gates in (0, 1) of the channels."""
        pooled = torch.stack([x.mean((2, 3)), largest(x.flatten(2), 2)])  # (2, b, c): the MLP sees both at once
        return torch.sigmoid(self.fc(pooled).sum(0))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map."""
        return channel_gate(x, self.gate(x))


class SpatialGate(nn.Module):
    """``y = x · σ(conv([mean over channels, max over channels]))``, one gate per pixel, no bias (Woo et al. 2018, eq. 3).

    Args:
        kernel_size: odd; the map keeps its size.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(self, kernel_size: int = 7, *, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        odd("CBAM", kernel_size=kernel_size)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        """The gates in (0, 1) of the pixels."""
        pooled = torch.stack([x.mean(1), largest(x, 1)], 1)  # (b, 2, h, w)
        return torch.sigmoid(self.conv(pooled))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map."""
        gate = self.gate(x)
        recorded("gates", gate)
        return x * gate.to(x.dtype)


class CBAM(nn.Module):
    """Convolutional block attention module: `ChannelGate`, then `SpatialGate`.

    Args:
        channels: channels of the map.
        reduction: of the channel gate's MLP.
        kernel_size: of the spatial gate's convolution, odd.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.channel_attention = ChannelGate(channels, reduction=reduction)
        self.spatial_attention = SpatialGate(kernel_size)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The gated map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "CBAM")
        return self.spatial_attention(self.channel_attention(x))


def definition(layer: CBAM, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The layer step by step, as published: the MLP once for the mean and once for the maximum."""
    fc, conv = layer.channel_attention.fc, layer.spatial_attention.conv
    channels = torch.sigmoid(fc(x.mean((2, 3))) + fc(x.flatten(2).max(2).values))
    x = x * channels[..., None, None]
    pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
    return x * torch.sigmoid(conv(pooled))


def example(tokens: int) -> Example:
    """The layer on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    layer = CBAM(64)
    x = torch.randn(1, layer.channels, side, side)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer))
