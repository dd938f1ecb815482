"""MapSAM: SAM with DoRA adapters that prompts itself (Xia et al. 2024).

The network computes a coarse mask from four depths of the encoder, picks its own points from it, averages the image embedding under it to a semantic
vector ("what"), and lets the mask decoder attend only to cells that may belong to the feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from remote_sensing.maps.model.dora import DoRAQKV
from remote_sensing.maps.model.sam import (
    PATCH,
    VARIANTS,
    build_decoder,
    build_encoder,
    build_prompt_encoder,
    decoder_attention,
    dense_positions,
    embed_points,
    encode,
    masks_of,
    no_mask,
    normalised,
)

STATES = 3  # number of intermediate states of the encoder in use


@dataclass(frozen=True)
class MapSamConfig:
    """Sizes of MapSAM; the defaults are the published ones (ViT-B, 512 pixels, one class, rank 4, pixels in [0, 1]).

    Attributes:
        num_classes: K, number of foreground classes; 1 is binary.
        rank: of the adapters; 0 leaves them out.
        masked_attention: "double" (which published checkpoints need) or "standard".
    """

    image_size: int = 512
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 14
    prompt_dim: int = 256
    mask_in_chans: int = 16
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8
    iou_head_hidden_dim: int = 256
    num_classes: int = 1
    rank: int = 4
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    masked_attention: str = "double"

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.embed_dim, self.depth, self.num_heads, self.prompt_dim, self.mask_in_chans)
        sizes += (self.decoder_mlp_dim, self.decoder_heads, self.iou_head_hidden_dim, self.num_classes)
        if min(sizes) < 1 or min(self.rank, self.window_size) < 0 or not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"sizes are positive, rank and window_size not negative; got {self}")
        if self.embed_dim % self.num_heads or self.prompt_dim // 2 % self.decoder_heads:
            raise ValueError(
                f"heads divide the width: {self.num_heads} of {self.embed_dim} in the encoder, "
                f"{self.decoder_heads} of {self.prompt_dim // 2} in the decoder"
            )
        if sorted(set(self.global_attn_indexes)) != list(self.global_attn_indexes):
            raise ValueError(f"global_attn_indexes rise from block to block; got {self.global_attn_indexes}")
        if not all(0 <= mean <= 1 for mean in self.pixel_mean) or not all(0 < std <= 1 for std in self.pixel_std):
            raise ValueError(
                f"pixels are 0 to 1, so pixel_mean lies there and pixel_std above 0; got {self.pixel_mean} and {self.pixel_std}"
            )


def mapsam_config(variant: str = "vit_b", **changed: Any) -> MapSamConfig:
    """The configuration of a published encoder ("vit_b", "vit_l", "vit_h") with changes.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: one of {', '.join(VARIANTS)}")
    return MapSamConfig(**(VARIANTS[variant] | changed))


class MapSamOutput(NamedTuple):
    """The outputs of one forward pass (B images of S pixels, T = S / 16, K classes, d the prompt width).

    Attributes:
        logits: (B, K, S/4, S/4).
        coarse: logits of the automatic prompt (B, 1, T, T).
        quality: the (untrained) predicted quality (B, K).
        embedding: of the image (B, d, T, T); `states` are the three intermediate ones.
        points: (B, 4, 2) pixels (x, y): the two largest coarse logits, the two smallest; `labels` (B, 4).
        sparse: prompt tokens (B, 5, d).
        semantic: the semantic vector (B, 1, d); zero if no cell is foreground.
        allowed: the cells that each decoder layer may attend to, two of (B, T·T).
    """

    logits: Float[Tensor, "b k h w"]
    coarse: Float[Tensor, "b 1 t t"]
    quality: Float[Tensor, "b k"]
    embedding: Float[Tensor, "b d t t"]
    states: list[Tensor]
    points: Int[Tensor, "b 4 2"]
    labels: Int[Tensor, "b 4"]
    sparse: Float[Tensor, "b 5 d"]
    semantic: Float[Tensor, "b 1 d"]
    allowed: list[Bool[Tensor, "b cells"]]

    def coarse_at(self, size: int) -> Float[Tensor, "b 1 s s"]:
        """The coarse logits, upsampled bilinearly."""
        return F.interpolate(self.coarse, (size, size), mode="bilinear", align_corners=False)


class SPGen(nn.Module):
    """The head of a coarse mask: 1×1 convolutions d → 64 → 16 → 1 with layer norms and GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.hint = nn.Sequential(
            nn.Conv2d(width, 64, 1),
            LayerNorm2d(64),
            nn.GELU(),
            nn.Conv2d(64, 16, 1),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, 1, 1),
        )

    def forward(self, x: Float[Tensor, "b d t t"]) -> Float[Tensor, "b 1 t t"]:
        return self.hint(x)


def pick_points(logits: Float[Tensor, "b 1 s s"]) -> tuple[Int[Tensor, "b 4 2"], Int[Tensor, "b 4"]]:
    """The two largest pixels (label 1) and the two smallest (label 0) as (x, y); of equal ones, the first in row-major order."""
    b, _, _, width = logits.shape
    # In float32 even for float64: pixels that upsampling makes equal must stay equal, whatever their last bits are.
    flat = torch.nan_to_num(logits.detach().flatten(1).float())
    index = torch.arange(flat.shape[1], device=flat.device)
    picked = []
    for sign in (1, -1):
        values = sign * flat
        for _ in range(2):
            best = values.amax(1, keepdim=True)
            # not argmax: which of several maxima it returns is not defined
            first = torch.where(values == best, index, flat.shape[1]).amin(1)
            picked.append(first)
            values = values.scatter(1, first[:, None], -torch.inf)
    numbers = torch.stack(picked, 1)
    points = torch.stack([numbers % width, numbers // width], -1)
    return points, torch.tensor([1, 1, 0, 0], device=flat.device).expand(b, 4)


def semantic_vector(embedding: Float[Tensor, "b d t t"], coarse: Float[Tensor, "b 1 t t"]) -> Float[Tensor, "b 1 d"]:
    """The mean embedding of the cells with ``σ(coarse) > 0.5``, detached; zero if there is none."""
    inside = (coarse.detach() > 0).flatten(2).to(embedding.dtype)  # (B, 1, cells)
    total = inside @ embedding.detach().flatten(2).transpose(1, 2)
    return total / inside.sum(2, keepdim=True).clamp_min(1)


def decode(
    decoder: Any,
    source: Float[Tensor, "b d t t"],
    positions: Float[Tensor, "1 d t t"],
    sparse: Float[Tensor, "b n d"],
    semantic: Float[Tensor, "b 1 d"],
    coarse: Float[Tensor, "b 1 t t"],
    form: str,
) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k"], list[Bool[Tensor, "b cells"]]]:
    """The mask decoder with the semantic vector added to the queries and masked attention to the image, for a batch of images.

    Layer 0 attends to the coarse mask; each later one to the cells where the first mask token of the layer before already detects the feature.
    """
    transformer = decoder.transformer
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(source), -1, -1)
    tokens = torch.cat([tokens, sparse], 1)
    # positions are added to keys and queries, never to values
    keys, pe = source.flatten(2).transpose(1, 2), positions.flatten(2).transpose(1, 2)
    queries = tokens
    allowed = coarse.detach().flatten(1) >= 0  # σ(x) ≥ 0.5
    used = []
    for i, layer in enumerate(transformer.layers):
        if i:
            steering = transformer.norm_final_attn(queries)[:, 1:2]  # token 0 is the quality's, 1 the first mask's
            allowed = ((keys + pe) @ steering.transpose(1, 2)).detach()[..., 0] >= 0
        used.append(allowed)
        queries = queries + semantic
        if layer.skip_first_layer_pe:
            queries = decoder_attention(layer.self_attn, queries, queries, queries)
        else:
            q = queries + tokens
            queries = queries + decoder_attention(layer.self_attn, q, q, queries)
        queries = layer.norm1(queries)
        there = decoder_attention(layer.cross_attn_token_to_image, queries + tokens, keys + pe, keys, allowed, form)
        queries = layer.norm2(queries + there)
        queries = layer.norm3(queries + layer.mlp(queries))
        back = decoder_attention(layer.cross_attn_image_to_token, keys + pe, queries + tokens, queries)
        keys = layer.norm4(keys + back)
    asking = queries + tokens + semantic
    last = decoder_attention(transformer.final_attn_token_to_image, asking, keys + pe, keys)
    queries = transformer.norm_final_attn(queries + last)
    masks, quality = masks_of(decoder, queries, keys, (source.shape[2], source.shape[3]))
    return masks, quality, used


class MapSAM(nn.Module):
    """The network of the paper; parameters have SAM's names, and those of MapSAM's own parts.

    Args:
        config: sizes and options.

    Raises:
        ValueError: an encoder of fewer than ten blocks (it has fewer than three intermediate states), a size that is not divisible by 16.
    """

    def __init__(self, config: MapSamConfig = MapSamConfig()) -> None:
        super().__init__()
        self.config = config
        # the states after blocks 0, 4 and 8, as published
        self.keep = [i for i in range(config.depth - 1) if i % 4 == 0][:STATES]
        if len(self.keep) < STATES:
            raise ValueError(f"MapSAM needs an encoder of at least 10 blocks, got depth {config.depth}")
        if config.masked_attention not in ("double", "standard"):
            raise ValueError(f"masked_attention is 'double' or 'standard', got {config.masked_attention!r}")
        self.image_encoder: Any = build_encoder(config)
        if config.rank:
            for block in self.image_encoder.blocks:
                block.attn.qkv = DoRAQKV(block.attn.qkv, rank=config.rank)
        self.prompt_encoder: Any = build_prompt_encoder(config)
        self.mask_decoder: Any = build_decoder(config, config.num_classes)
        # names of the official checkpoints
        self.spgen, self.spgen1, self.spgen2, self.spgen3 = (SPGen(config.prompt_dim) for _ in range(STATES + 1))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> MapSamOutput:
        """All outputs of a pass; `image` in the units of the configuration's mean and std ([0, 1] as published).

        Raises:
            ValueError: an image larger than the configuration's size.
        """
        pixels = normalised(image, self.config)
        embedding, states = encode(self.image_encoder, pixels, self.keep)
        heads = (self.spgen, self.spgen1, self.spgen2, self.spgen3)
        masks = [head(state) for head, state in zip(heads, [embedding, *states], strict=True)]
        coarse = torch.stack(masks).mean(0)
        size = self.config.image_size
        full = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
        points, labels = pick_points(full)
        sparse = embed_points(self.prompt_encoder, points, labels, pad=True)
        semantic = semantic_vector(embedding, coarse)
        source = embedding + no_mask(self.prompt_encoder, len(pixels))
        logits, quality, allowed = decode(
            self.mask_decoder,
            source,
            dense_positions(self.prompt_encoder),
            sparse,
            semantic,
            coarse,
            self.config.masked_attention,
        )
        return MapSamOutput(logits, coarse, quality, embedding, states, points, labels, sparse, semantic, allowed)

    def freeze_encoder(self) -> MapSAM:
        """Leaves only the adapters, the coarse heads, the prompt encoder and the mask decoder trainable."""
        for name, parameter in self.image_encoder.named_parameters():
            parameter.requires_grad_(is_adapter(f"image_encoder.{name}"))
        return self

    def merged(self) -> MapSAM:
        """The same network with the adapters merged into the projections, for inference (in place)."""
        for block in self.image_encoder.blocks:
            if isinstance(block.attn.qkv, DoRAQKV):
                block.attn.qkv = block.attn.qkv.merged()
        return self


def is_adapter(key: str) -> bool:
    """Whether a state-dict key belongs to an adapter file: everything but the frozen encoder."""
    last = key.rpartition(".")[2]
    return not key.startswith("image_encoder.") or last.startswith(("m_", "lora_"))


def cells(config: MapSamConfig) -> int:
    """T, number of cells per side."""
    return config.image_size // PATCH
