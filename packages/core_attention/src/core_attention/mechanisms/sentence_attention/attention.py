"""Sentence attention: channel gates of a feature map from a sentence embedding (Khoshsirat and Kambhamettu 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import channel_gate
from core_attention.parts.map_checks import feature_map, positive
from core_attention.parts.placing import Device, placed


class SentenceAttention(nn.Module):
    """``SAB(F, t)_c = g_c · F_c`` with ``g = softmax over channels of W₂ ReLU(LN(W₁ t + b₁)) + b₂``, hidden size 4E.

    Differs from squeeze-and-excitation by the sentence in place of pooled features, expansion instead of reduction, layer norm,
    and a softmax. The gate of the published code sees the sentence only, though the paper speaks of the image too.

    Args:
        sentence_dim: size E of the sentence embedding (384 for all-MiniLM-L6-v2).
        channels: channels C of the map.
        use_image: the gate also sees the global means of the map, joined to the sentence before W₁ (off in the published code).
        rescale: multiply the gate by C, so that a uniform gate changes nothing (off in the published code, which shrinks every channel
            to about 1/C).
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        sentence_dim: int,
        channels: int,
        *,
        use_image: bool = False,
        rescale: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        positive("SentenceAttention", sentence_dim=sentence_dim, channels=channels)
        self.sentence_dim, self.channels = sentence_dim, channels
        self.use_image, self.rescale = use_image, rescale
        width = sentence_dim + channels if use_image else sentence_dim
        hidden = 4 * sentence_dim
        self.attention = nn.Sequential(
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.Softmax(1),
        )

    def gate(self, text: Float[Tensor, "b e"], image: Float[Tensor, "b c h w"] | None = None) -> Float[Tensor, "b c"]:
        """The gate of each channel; positive, sums to 1 (to C with `rescale`). It can be folded into a following 1×1 convolution.

        Args:
            text: sentence embeddings.
            image: the map, needed with `use_image` only.

        Raises:
            ValueError: not (batch, `sentence_dim`), or no map although `use_image`.
        """
        if text.ndim != 2 or text.shape[1] != self.sentence_dim:
            raise ValueError(f"SentenceAttention needs sentences (batch, {self.sentence_dim}), got {tuple(text.shape)}")
        if self.use_image:
            if image is None:
                raise ValueError("SentenceAttention(use_image=True) needs the map for its gate")
            text = torch.cat([text, image.mean((2, 3)).to(text.dtype)], 1)
        g = self.attention(text)
        if self.rescale:
            g = g * self.channels
        return g

    def forward(self, image: Float[Tensor, "b c h w"], text: Float[Tensor, "b e"]) -> Float[Tensor, "b c h w"]:
        """The gated map.

        Raises:
            ValueError: shapes that do not fit; both are quoted.
        """
        feature_map(image, self.channels, "SentenceAttention")
        if image.shape[0] != text.shape[0]:
            raise ValueError(
                f"SentenceAttention needs one sentence per map, got maps {tuple(image.shape)}, sentences {tuple(text.shape)}"
            )
        return channel_gate(image, self.gate(text, image))


def example(tokens: int) -> Example:
    """The block of the finest level of EfficientNet-B7, for `core_attention.registry.catalogue`; its tokens are pixels."""
    side = max(1, round(tokens**0.5))
    inputs = torch.randn(1, 32, side, side), torch.randn(1, 384)
    return Example(SentenceAttention(384, 32), inputs, tokens=side * side)
