"""A learnt map of where an embedding looks, and the pooling under it (Adiga, Dolz, Lombaert 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.map_checks import feature_map, positive
from core_attention.parts.map_recording import recorded
from core_attention.parts.placing import Device, placed


class AttentionLayer(nn.Module):
    """``A = σ(conv₃(ReLU(conv₂(ReLU(conv₁ F)))))`` in (0, 1): one map for all channels, C → C/8 → C/32 → 1 with biases.

    Args:
        channels: channels C of the features; the hidden layers have ``max(1, C // 8)`` and ``max(1, C // 32)``.
        kernel_size: of all three convolutions. As published they pad by 1 whatever the kernel, so only 3 keeps the size of the map.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(self, channels: int, *, kernel_size: int = 3, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        positive("AttentionLayer", channels=channels, kernel_size=kernel_size)
        self.channels = channels
        eighth, thirty_second = max(1, channels // 8), max(1, channels // 32)
        self.layer1 = nn.Conv2d(channels, eighth, kernel_size, padding=1)
        self.layer2 = nn.Conv2d(eighth, thirty_second, kernel_size, padding=1)
        self.layer3 = nn.Conv2d(thirty_second, 1, kernel_size, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """The attention map.

        Raises:
            ValueError: not a map (batch, `channels`, height, width) with at least one pixel.
        """
        feature_map(x, self.channels, "AttentionLayer")
        hidden = torch.relu(self.layer2(torch.relu(self.layer1(x))))
        a = torch.sigmoid(self.layer3(hidden))
        recorded("gates", a)
        return a


def attention_pool(
    x: Float[Tensor, "b c h w"], attention: Float[Tensor, "b 1 h w"], *, normalise: bool = False
) -> Float[Tensor, "b c"]:
    """``mean over pixels of F ⊙ A`` as one product of matrices, without the map F ⊙ A.

    Args:
        x: the features F.
        attention: the map A.
        normalise: divide by the sum of A instead of by the number of pixels (a weighted mean).

    Returns:
        one vector per picture.

    Raises:
        ValueError: the map does not fit the features.
    """
    feature_map(x, None, "attention_pool")
    if attention.shape != (x.shape[0], 1, *x.shape[2:]):
        raise ValueError(
            f"attention_pool needs one map of the features' size: {tuple(x.shape)} and {tuple(attention.shape)}"
        )
    a = attention.flatten(1)  # (b, pixels)
    total = a.sum(1, keepdim=True) if normalise else a.shape[1]
    weights = a / total
    return torch.einsum("bcn,bn->bc", x.flatten(2), weights.to(x.dtype))


def example(tokens: int) -> Example:
    """The layer on the features of ResNet-50's third stage, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    return Example(AttentionLayer(1024), (torch.randn(1, 1024, side, side),), tokens=side * side)
