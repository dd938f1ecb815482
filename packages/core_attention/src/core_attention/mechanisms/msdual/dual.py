"""Position and channel attention over feature maps: each pixel looks at all pixels, each channel at all channels (Fu et al. 2019).

As used by the multi-scale self-guided segmentation network (Sinha and Dolz 2020).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import feature_map, positive
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed

SMALL = 1024  # pixels up to which the score array (4 MB per sample) is cheaper than avoiding it


def position_attention(
    q: Float[Tensor, "b d h w"], k: Float[Tensor, "b d h w"], v: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """``v softmax(qᵀ k)ᵀ`` over the pixels, without a scale; no N×N array above 1024 pixels, nor in half precision.

    Queries and keys are then filled up with zeros to the width of the values, which torch's fused kernels ask for (the scores stay the
    same); up to 1024 pixels the array costs less than that.
    """
    pixels = v.shape[2] * v.shape[3]
    if pixels <= SMALL and v.dtype in (torch.float32, torch.float64):
        a = torch.softmax(q.flatten(2).mT @ k.flatten(2), 2)
        recorded("weights", a[:, None])
        return (v.flatten(2) @ a.mT).view(v.shape)
    width = max(q.shape[1], v.shape[1])
    queries, keys, values = _as_one_head(q, width), _as_one_head(k, width), _as_one_head(v, width)
    y = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return y[:, 0, :, : v.shape[1]].mT.reshape(v.shape)


def _as_one_head(x: Float[Tensor, "b d h w"], width: int) -> Float[Tensor, "b 1 pixels width"]:
    """The pixels of a map as the tokens of one head, filled up with zeros to `width` channels."""
    return F.pad(x.flatten(2).mT[:, None], (0, width - x.shape[1])).contiguous()


def channel_attention(x: Float[Tensor, "b c h w"], gamma: Float[Tensor, "1"] | None = None) -> Float[Tensor, "b c h w"]:
    """``A x`` with ``A = softmax(rowmax(E) − E)``, ``E = x xᵀ`` over the pixels: *dissimilar* channels get the weight; with γ, ``γ A x + x``.

    The softmax is computed as that of −E, which is the same (a shift does not change it), and like E in float32 at least, whatever autocast
    says: E sums over all pixels and overflows float16.
    """
    with torch.autocast(x.device.type, enabled=False):
        flat = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2)  # (b, c, pixels)
        a = torch.softmax(-(flat @ flat.transpose(1, 2)), 2)
        recorded("weights", a[:, None])
        if gamma is None:
            y = a @ flat
        else:
            # γ goes to the small map, and the sum into the product: two passes over x less
            y = torch.baddbmm(flat, gamma.to(a.dtype) * a, flat)
        return y.to(x.dtype).reshape(x.shape)


class PAM(nn.Module):
    """Position attention ``y = γ · v softmax(qᵀ k)ᵀ + x``, γ initially 0; q, k, v are 1×1 convolutions with bias.

    Args:
        channels: channels of the map; queries and keys have ``max(1, channels // 8)``.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(self, channels: int, *, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        positive("PAM", channels=channels)
        self.channels = channels
        narrow = max(1, channels // 8)
        self.query_conv = nn.Conv2d(channels, narrow, 1)
        self.key_conv = nn.Conv2d(channels, narrow, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The attended map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "PAM")
        attended = position_attention(self.query_conv(x), self.key_conv(x), self.value_conv(x))
        return torch.addcmul(x, self.gamma.to(x.dtype), attended.to(x.dtype))


class CAM(nn.Module):
    """Channel attention ``y = γ · A x + x``, γ initially 0 (see `channel_attention`).

    Args:
        channels: channels of the map.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(self, channels: int, *, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        positive("CAM", channels=channels)
        self.channels = channels
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The attended map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "CAM")
        return channel_attention(x, self.gamma)


class PAMCAMLayer(nn.Module):
    """``Conv3×3(2C→C)–BN–PReLU – PAM or CAM – Conv3×3(C→C)–BN–PReLU``, one slope each (Sinha and Dolz 2020).

    Args:
        channels: output channels C (64 as published); the input has 2C.
        use_pam: position attention; False: channel attention.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self, channels: int = 64, *, use_pam: bool = True, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        positive("PAMCAMLayer", channels=channels)
        self.channels = channels
        attention = PAM(channels) if use_pam else CAM(channels)
        self.attn = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.PReLU(),
            attention,
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.PReLU(),
        )

    def forward(self, x: Float[Tensor, "b c2 h w"]) -> Float[Tensor, "b c h w"]:
        """The attended map, with half the channels.

        Raises:
            ValueError: not a map (batch, 2 · `channels`, height, width) with at least one pixel.
        """
        feature_map(x, 2 * self.channels, "PAMCAMLayer")
        return self.attn(x)


def definition(layer: PAM | CAM, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Either layer step by step, with its whole array of weights."""
    flat = x.flatten(2)
    if isinstance(layer, PAM):
        q, k, v = layer.query_conv(x).flatten(2), layer.key_conv(x).flatten(2), layer.value_conv(x).flatten(2)
        attended = v @ torch.softmax(q.mT @ k, 2).mT
    else:
        scores = flat @ flat.mT
        attended = torch.softmax(scores.amax(2, keepdim=True) - scores, 2) @ flat
    return layer.gamma * attended.view_as(x) + x


def _example(layer: PAM | CAM, tokens: int) -> Example:
    torch.nn.init.constant_(layer.gamma, 0.5)
    side = max(1, round(tokens**0.5))
    x = 0.3 * torch.randn(1, layer.channels, side, side)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer))


def position_example(tokens: int) -> Example:
    """Position attention on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    return _example(PAM(64), tokens)


def channel_example(tokens: int) -> Example:
    """Channel attention on a square map, for `core_attention.registry.catalogue`; its tokens are pixels."""
    return _example(CAM(64), tokens)
