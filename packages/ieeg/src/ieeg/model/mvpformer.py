"""MVPFormer: a decoder over segments and channels of a recording, pre-trained to predict the next segment, fine-tuned to detect seizures.

Source: Carzaniga et al., "A foundation model with multi-variate parallel attention to generate neuronal activity" (arXiv 2506.20354).
Its attention is `core_attention.mechanisms.mvpformer.mvpa`, its signal encoder `ieeg.model.wavelets`. For research, not for diagnosis.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention.mechanisms.mvpformer.mvpa import LoRALinear, MVPFormerGQAAttention, RelativeIndex
from ieeg.model.wavelets import WaveEncoder


@dataclass(frozen=True, kw_only=True)
class MVPFormerConfig:
    """Sizes and rates of an MVPFormer; the defaults are MVPFormer-S.

    Attributes:
        segment: samples L of a segment; 2560 is 5 s at 512 Hz.
        width, layers, heads, kv_heads, inner: E, blocks, query heads, key/value heads, inner width of the MLP.
        positions, channels: rows of the two position tables: the greatest number of segments and of channels.
        classes: of the classification head; 0: the generative head, E to E.
        content, window, last_row_full, relative_index: as in `core_attention.mechanisms.mvpformer.mvpa.mvpa`.
        scale_by_layer: scores are divided by the layer's number, counted from 1, once more.
        embedding_dropout, residual_dropout, attention_dropout: rates in training (published: 0.1 each).
        structured_dropout: attention drops whole key segments and channels, as the published kernel does, instead of single weights.
        lora_rank, lora_alpha: low-rank updates of the query map and of the value half of `c_attn`; rank 0: none.
        eps: of every RMSNorm.
    """

    segment: int = 2560
    width: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 4
    inner: int = 1728
    positions: int = 110
    channels: int = 128
    classes: int = 0
    content: bool = True
    window: int | None = 10
    last_row_full: bool | None = None
    relative_index: RelativeIndex = "official"
    scale_by_layer: bool = False
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0
    structured_dropout: bool = False
    lora_rank: int = 0
    lora_alpha: float = 16.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.segment, self.width, self.layers, self.inner, self.positions, self.channels)
        if min(sizes) < 1 or min(self.classes, self.lora_rank) < 0:
            raise ValueError(f"sizes are positive, classes and lora_rank not negative; got {self}")
        if self.window is not None and self.window < 0:
            raise ValueError(f"window is not negative, or None; got {self.window}")
        rates = (self.embedding_dropout, self.residual_dropout, self.attention_dropout)
        if not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"dropout rates lie in [0, 1); got {rates}")
        if not 0 < self.eps < 0.1 or not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"eps lies in (0, 0.1) and lora_alpha is positive; got {self.eps} and {self.lora_alpha}")


# The published sizes, and one that trains on a laptop in minutes.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "s": {},
    "m": {"width": 2048, "layers": 24, "heads": 16, "kv_heads": 8, "inner": 5632},
    "tiny": {"segment": 256, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 64, "positions": 32},
}


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) · up(x))``, without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        # In place where no gradient is needed: this is the widest activation of the model.
        gate = nn.functional.silu(self.gate_proj(x), inplace=not torch.is_grad_enabled())
        if torch.is_grad_enabled():
            return self.down_proj(gate * self.up_proj(x))
        return self.down_proj(gate.mul_(self.up_proj(x)))


class Block(nn.Module):
    """``x + MVPA(y) + MLP(y)`` with ``y = RMSNorm(x)``: attention and MLP side by side behind one norm.

    `ln_2` is in every checkpoint but never used.
    """

    def __init__(self, config: MVPFormerConfig, number: int) -> None:
        super().__init__()
        self.ln_1 = nn.RMSNorm(config.width, eps=config.eps)
        self.ln_2 = nn.RMSNorm(config.width, eps=config.eps)
        self.attn = MVPFormerGQAAttention(
            config.width,
            num_heads=config.heads,
            num_kv_heads=config.kv_heads,
            window=config.window,
            last_row_full=config.last_row_full,
            content=config.content,
            relative_index=config.relative_index,
            divisor=number + 1 if config.scale_by_layer else 1,  # layers count from 1
            lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha,
            attention_dropout=config.attention_dropout,
            structured_dropout=config.structured_dropout,
            residual_dropout=config.residual_dropout,
        )
        self.mlp = SwiGLU(config.width, config.inner)

    def forward(
        self,
        x: Float[Tensor, "batch time channels width"],
        positions: Tensor,
        channels: Tensor,
        mask: Tensor | None = None,
        queries: int | None = None,
    ) -> Float[Tensor, "batch queries channels width"]:
        y = self.ln_1(x)
        attended = self.attn(y, positions, channels, mask=mask, queries=queries)
        if queries is not None:  # the attention has already left the other rows out
            x, y = x[:, -queries:], y[:, -queries:]
        return x + attended + self.mlp(y)


class Decoder(nn.Module):
    """The blocks between the encoder's embeddings and the head, with the two position tables shared by all layers."""

    def __init__(self, config: MVPFormerConfig) -> None:
        super().__init__()
        self.positional_embedding = nn.Embedding(config.positions, config.width)
        self.channel_embedding = nn.Embedding(config.channels, config.width)
        self.drop = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.layers)])
        self.ln_f = nn.RMSNorm(config.width, eps=config.eps)

    def forward(
        self,
        tokens: Float[Tensor, "batch time channels width"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
        last: bool = False,
    ) -> Float[Tensor, "batch queries channels width"]:
        """Hidden states of all segments, or with `last` of the last one only: the last block then computes nothing else.

        Raises:
            ValueError: more segments or channels than the tables have rows.
        """
        time, channels = tokens.shape[1:3]
        if time > self.positional_embedding.num_embeddings or channels > self.channel_embedding.num_embeddings:
            raise ValueError(
                f"this model holds {self.positional_embedding.num_embeddings} segments and "
                f"{self.channel_embedding.num_embeddings} channels at most; got tokens {tuple(tokens.shape)}"
            )
        x = self.drop(tokens)
        for block in self.blocks:
            # Every block needs keys and values of all segments; only the last block can do with the last segment's queries.
            queries = 1 if last and block is self.blocks[-1] else None
            x = block(x, self.positional_embedding.weight, self.channel_embedding.weight, mask, queries)
        return self.ln_f(x)


class MVPFormer(nn.Module):
    """Encoder, decoder and one head: generative (predicts the next segment's embedding) or classifying.

    Call it on segments: microvolts, (batch, time, channels, samples).
    """

    def __init__(self, config: MVPFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WaveEncoder(config.segment, config.width)
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.width, config.classes or config.width, bias=False)
        # In every checkpoint, but used by neither objective.
        self.seizure_embeddings = nn.Parameter(torch.randn(3, config.segment) / config.segment)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not isinstance(module, LoRALinear):
                nn.init.normal_(module.weight, std=0.02)

    def encode(self, x: Float[Tensor, "*lead samples"]) -> Float[Tensor, "*lead width"]:
        """Embeddings of segments: each by itself, so they can be kept while a window moves on."""
        return self.encoder(x)

    def contributions(
        self,
        tokens: Float[Tensor, "batch time channels width"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
    ) -> Float[Tensor, "batch channels classes"]:
        """Each channel's contribution to the logits of the last segment: their mean over the channels is the logits, exactly.

        Raises:
            ValueError: a generative model.
        """
        if not self.config.classes:
            raise ValueError("this is a generative model; a seizure head is trained with classes = 2")
        return self.head(self.decoder(tokens, mask=mask, last=True)[:, 0])

    def classify(
        self,
        tokens: Float[Tensor, "batch time channels width"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the last segment (index 1: seizure): the mean over the channels of its hidden states, projected."""
        contributions = self.contributions(tokens, mask=mask)
        if mask is None:
            return contributions.mean(1)
        # padding channels have hidden states, too: they are left out of the mean
        return (contributions * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def predict_next(
        self,
        tokens: Float[Tensor, "batch time channels width"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
        last: bool = False,
    ) -> Float[Tensor, "batch queries channels width"]:
        """Predicted embedding of the segment after each one (up to its scale: only directions are trained).

        Raises:
            ValueError: a model with a seizure head.
        """
        if self.config.classes:
            raise ValueError("this model has a seizure head; only a generative one predicts the next segment")
        return self.head(self.decoder(tokens, mask=mask, last=last))

    def forward(
        self,
        x: Float[Tensor, "batch time channels samples"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
    ) -> Tensor:
        """Logits (batch, classes), or of a generative model the predicted embeddings (batch, time, channels, width).

        Args:
            x: consecutive segments in microvolts.
            mask: channels that exist; False: padding of recordings with fewer.

        Raises:
            ValueError: a wrong rank or segment length, or more segments or channels than the tables hold.
        """
        if x.ndim != 4 or min(x.shape) < 1:
            raise ValueError(
                f"x must be (batch, time, channels, {self.config.segment}), all at least 1; got {tuple(x.shape)}"
            )
        tokens = self.encode(x)
        if self.config.classes:
            return self.classify(tokens, mask=mask)
        return self.predict_next(tokens, mask=mask)


def build(size: str, **changes: Any) -> MVPFormer:
    """A fresh model of a size in `SIZES`, with changes to its config."""
    return MVPFormer(MVPFormerConfig(**{**SIZES[size], **changes}))
