"""SAM from the parts of `segment_anything`, run batched and with fused attention: encoder, prompts, mask decoder.

The parts keep their names, so official checkpoints load strictly. Only the way they are run is ours: attention by scaled_dot_product_attention with
the relative positions added a few rows at a time, and a decoder that takes a batch of images at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn

PATCH = 16
_BIAS_ELEMENTS = 2**24  # relative positions held in memory at once (64 MB in float32)


@dataclass(frozen=True)
class SamConfig:
    """Sizes of SAM; the defaults are those of ViT-B at 1024 pixels. `VARIANTS` names the published ones."""

    image_size: int = 1024
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
    num_mask_tokens: int = 4
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


VARIANTS: dict[str, dict[str, Any]] = {
    "vit_b": {},
    "vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_attn_indexes": (5, 11, 17, 23)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}


def build_encoder(config: Any) -> ImageEncoderViT:
    """The image encoder.

    Raises:
        ValueError: an image size that 16 does not divide.
    """
    if config.image_size < PATCH or config.image_size % PATCH:
        raise ValueError(f"SAM needs an image_size that {PATCH} divides, got {config.image_size}")
    return ImageEncoderViT(
        img_size=config.image_size,
        patch_size=PATCH,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        out_chans=config.prompt_dim,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
        use_rel_pos=True,
        rel_pos_zero_init=True,
        window_size=config.window_size,
        global_attn_indexes=tuple(config.global_attn_indexes),
    )


def build_prompt_encoder(config: Any) -> PromptEncoder:
    """The prompt encoder."""
    side = config.image_size // PATCH
    return PromptEncoder(config.prompt_dim, (side, side), (config.image_size,) * 2, config.mask_in_chans)


def build_decoder(config: Any, mask_tokens: int) -> MaskDecoder:
    """The mask decoder."""
    transformer = TwoWayTransformer(
        depth=2, embedding_dim=config.prompt_dim, num_heads=config.decoder_heads, mlp_dim=config.decoder_mlp_dim
    )
    return MaskDecoder(
        transformer_dim=config.prompt_dim,
        transformer=transformer,
        num_multimask_outputs=mask_tokens - 1,
        iou_head_depth=3,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
    )


def encoder_attention(
    attn: Any, qkv: Float[Tensor, "b h w three_d"], rows: int | None = None, columns: int | None = None
) -> Float[Tensor, "b rows columns d"]:
    """The heads of an encoder block with decomposed relative positions: ``softmax(q kᵀ/√d + R_h[y − y'] q + R_w[x − x'] q) v``.

    With `rows` and `columns`, only the first rows and columns of queries are computed; keys are all cells.

    The position terms are added for a few rows of queries at a time, so no (tokens × tokens) tensor is ever held whole.
    """
    b, h, w, _ = qkv.shape
    heads, n = attn.num_heads, h * w
    down, across = rows or h, columns or w
    k, v = qkv.reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)[1:]
    queries = qkv[:, :down, :across].unflatten(3, (3, heads, -1))[:, :, :, 0].permute(0, 3, 1, 2, 4)
    if attn.use_rel_pos:
        # contiguous, or their sum would have to be copied: it is by far the largest tensor here
        vertical = get_rel_pos(h, h, attn.rel_pos_h)[:down].to(k.dtype)
        horizontal = get_rel_pos(w, w, attn.rel_pos_w)[:across].to(k.dtype)
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", queries, vertical).contiguous()
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", queries, horizontal).contiguous()
        step = max(1, _BIAS_ELEMENTS // (b * heads * across * n))
        parts = []
        for top in range(0, down, step):
            some = slice(top, min(top + step, down))
            bias = (rel_h[:, :, some, :, :, None] + rel_w[:, :, some, :, None, :]).reshape(b, heads, -1, n)
            # as attn_mask the bias is added after q kᵀ is divided by √d: SAM's relative positions are not scaled
            parts.append(F.scaled_dot_product_attention(queries[:, :, some].flatten(2, 3), k, v, attn_mask=bias))
        y = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    else:
        y = F.scaled_dot_product_attention(queries.flatten(2, 3), k, v)
    return y.transpose(1, 2).reshape(b, down, across, -1)


def window_attention(attn: Any, qkv: Float[Tensor, "b h w three_d"], side: int) -> Float[Tensor, "b h w d"]:
    """The same within windows of `side` cells. Windows over the edge are padded with the projection of zeros: its bias.

    SAM pads before the projection; padding after it spares the projection and the queries of cells that do not exist (at 512 pixels four of ten).
    """
    b, h, w, d = qkv.shape
    padded = F.pad(qkv, (0, 0, 0, -w % side, 0, -h % side))
    if attn.qkv.bias is not None:
        padded[:, h:], padded[:, :h, w:] = attn.qkv.bias, attn.qkv.bias
    whole = qkv.new_empty(b, h, w, d // 3)
    for top, rows in _spans(h, side):
        for left, columns in _spans(w, side):
            # (b, rows of windows, columns of windows, side, side, 3d)
            part = padded[:, top : top + rows * side, left : left + columns * side]
            part = part.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
            here = min(side, h - top), min(side, w - left)
            y = encoder_attention(attn, part.flatten(0, 2), *here).unflatten(0, (b, rows, columns))
            y = y.transpose(2, 3).reshape(b, rows * here[0], columns * here[1], -1)
            whole[:, top : top + y.shape[1], left : left + y.shape[2]] = y
    return whole


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """Start and number of the whole windows along an axis, and of the one over its edge."""
    whole, rest = divmod(length, side)
    return [(0, whole)] * (whole > 0) + [(whole * side, 1)] * (rest > 0)


def encode(
    encoder: Any, x: Float[Tensor, "b 3 s s"], keep: Sequence[int] = ()
) -> tuple[Float[Tensor, "b c t t"], list[Float[Tensor, "b c t t"]]]:
    """Image embeddings, and the outputs of the blocks `keep` through the same neck."""
    x = encoder.patch_embed(x).contiguous()  # it comes with its channels first, and every norm would copy it
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    intermediate = []
    for i, block in enumerate(encoder.blocks):
        qkv = block.attn.qkv(block.norm1(x))
        side = block.window_size
        y = window_attention(block.attn, qkv, side) if side > 0 else encoder_attention(block.attn, qkv)
        x = x + block.attn.proj(y)
        x = x + block.mlp(block.norm2(x))
        if i in keep:
            intermediate.append(encoder.neck(x.permute(0, 3, 1, 2)))
    return encoder.neck(x.permute(0, 3, 1, 2)), intermediate


def fourier(prompts: Any, unit: Float[Tensor, "... 2"]) -> Float[Tensor, "... c"]:
    """Random Fourier features of points (x, y) in [0, 1]."""
    matrix = prompts.pe_layer.positional_encoding_gaussian_matrix
    angle = 2 * math.pi * ((2 * unit.to(matrix.dtype) - 1) @ matrix)
    return torch.cat([angle.sin(), angle.cos()], -1)


def dense_positions(prompts: Any) -> Float[Tensor, "1 c t t"]:
    """The positional encoding of the cells."""
    matrix = prompts.pe_layer.positional_encoding_gaussian_matrix
    h, w = prompts.image_embedding_size
    y = (torch.arange(h, dtype=matrix.dtype, device=matrix.device) + 0.5) / h
    x = (torch.arange(w, dtype=matrix.dtype, device=matrix.device) + 0.5) / w
    unit = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)
    return fourier(prompts, unit).permute(2, 0, 1)[None]


def embed_points(prompts: Any, coords: Tensor, labels: Int[Tensor, "b n"], *, pad: bool) -> Float[Tensor, "b m c"]:
    """Sparse tokens of points (b, n, 2) as (x, y) pixels; label 1 is the object, 0 the background, −1 no point.

    Args:
        pad: whether a "no point" token is added, as SAM does where there is no box.
    """
    size = torch.tensor(prompts.input_image_size[::-1], device=coords.device)
    coords = coords.to(prompts.pe_layer.positional_encoding_gaussian_matrix.dtype)
    tokens = fourier(prompts, (coords + 0.5) / size)
    if pad:
        tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], 1)
        labels = torch.cat([labels, -torch.ones_like(labels[:, :1])], 1)
    # rows by label + 1: no point, background, object
    background, inside = list(prompts.point_embeddings)[:2]
    kinds = torch.cat([prompts.not_a_point_embed.weight, background.weight, inside.weight])
    return tokens * (labels >= 0)[..., None] + kinds[labels + 1]


def embed_boxes(prompts: Any, boxes: Float[Tensor, "b 4"]) -> Float[Tensor, "b 2 c"]:
    """Sparse tokens of the two corners of boxes (x0, y0, x1, y1)."""
    size = torch.tensor(prompts.input_image_size[::-1], device=boxes.device)
    tokens = fourier(prompts, (boxes.reshape(-1, 2, 2) + 0.5) / size)
    upper_left, lower_right = list(prompts.point_embeddings)[2:]
    return tokens + torch.cat([upper_left.weight, lower_right.weight])


def no_mask(prompts: Any, batch: int) -> Float[Tensor, "b c t t"]:
    """The dense prompt of images without a mask prompt."""
    return prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(batch, -1, *prompts.image_embedding_size)


def project_heads(x: Float[Tensor, "b n d"], heads: int) -> Float[Tensor, "b h n e"]:
    """Splits the last axis into heads."""
    b, n, d = x.shape
    return x.reshape(b, n, heads, d // heads).transpose(1, 2)


def decoder_attention(
    attn: Any,
    q: Float[Tensor, "b n c"],
    k: Float[Tensor, "b m c"],
    v: Float[Tensor, "b m c"],
    allowed: Bool[Tensor, "b m"] | None = None,
    form: str = "double",
) -> Float[Tensor, "b n c"]:
    """An attention of the mask decoder; with `allowed`, all queries and heads attend only to those keys of each image.

    Args:
        form: "double" (as published: ``softmax(softmax(q kᵀ/√d) + m)`` with m = 0 where allowed, else the dtype's lowest number; nearly uniform
            over the allowed keys, uniform over all where none is allowed) or "standard" (the mask before one softmax; all where nothing is allowed).

    Raises:
        ValueError: another form.
    """
    heads = attn.num_heads
    q = project_heads(attn.q_proj(q), heads)
    k = project_heads(attn.k_proj(k), heads)
    v = project_heads(attn.v_proj(v), heads)
    if allowed is None:
        y = F.scaled_dot_product_attention(q, k, v)
    elif form == "standard":
        # a row without any allowed key would be a softmax over nothing: NaN
        rows = (allowed | ~allowed.any(1, keepdim=True))[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=rows)
    elif form == "double":
        scores = q @ k.transpose(-2, -1)
        if q.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        once = (scores / math.sqrt(q.shape[-1])).softmax(-1)
        closed = ~allowed[:, None, None, :]
        # where nothing is allowed the published fill swallows the first softmax: exactly uniform
        once = once.masked_fill(closed, torch.finfo(once.dtype).min)
        y = once.softmax(-1).to(v.dtype) @ v
    else:
        raise ValueError(f"unknown form of masked attention {form!r}: 'double' or 'standard'")
    b, _, n, _ = y.shape
    return attn.out_proj(y.transpose(1, 2).reshape(b, n, -1))


def masks_of(
    decoder: Any, queries: Float[Tensor, "b n c"], keys: Float[Tensor, "b m c"], size: tuple[int, int]
) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k"]]:
    """Mask logits (at four times the grid) and quality of every mask token, from the transformer's output."""
    k = decoder.num_mask_tokens
    source = keys.transpose(1, 2).reshape(len(keys), -1, *size)
    upscaled = decoder.output_upscaling(source)
    hyper = torch.stack([mlp(queries[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1)
    masks = torch.einsum("bkc,bchw->bkhw", hyper, upscaled)
    return masks, decoder.iou_prediction_head(queries[:, 0])[:, :k]


class Sam(nn.Module):
    """The prompted SAM: an image's embedding once, then masks of points, boxes and coarse masks."""

    def __init__(self, config: SamConfig = SamConfig()) -> None:
        super().__init__()
        self.config = config
        self.image_encoder: Any = build_encoder(config)
        self.prompt_encoder: Any = build_prompt_encoder(config)
        self.mask_decoder: Any = build_decoder(config, config.num_mask_tokens)

    def preprocess(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Normalised and padded with zeros at the right and the bottom; `image` holds RGB of 0 to 255, sides up to the image size."""
        return normalised(image, self.config)

    def embed(self, image: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c t t"]:
        """Embeddings of preprocessed images."""
        return encode(self.image_encoder, image)[0]

    def prompt(
        self, points: tuple[Tensor, Tensor] | None = None, boxes: Tensor | None = None, masks: Tensor | None = None
    ) -> tuple[Float[Tensor, "p n c"], Float[Tensor, "p c t t"]]:
        """Sparse and dense prompt embeddings: points (p, n, 2) with labels (p, n), boxes (p, 4), mask logits (p, 1, 4 t, 4 t)."""
        sparse = []
        if points is not None:
            sparse.append(embed_points(self.prompt_encoder, *points, pad=boxes is None))
        if boxes is not None:
            sparse.append(embed_boxes(self.prompt_encoder, boxes))
        # number of prompts: from the first kind that is given; without any, one empty prompt
        count = 1
        if sparse:
            count = len(sparse[0])
        elif masks is not None:
            count = len(masks)
        if not sparse:
            weight = self.prompt_encoder.no_mask_embed.weight
            sparse.append(weight.new_zeros(count, 0, weight.shape[1]))
        dense = no_mask(self.prompt_encoder, count) if masks is None else self.prompt_encoder.mask_downscaling(masks)
        return torch.cat(sparse, 1), dense

    def decode(
        self,
        embedding: Float[Tensor, "1 c t t"],
        sparse: Float[Tensor, "p n c"],
        dense: Float[Tensor, "p c t t"],
        *,
        multimask: bool,
    ) -> tuple[Float[Tensor, "p k h w"], Float[Tensor, "p k"]]:
        """Low-resolution mask logits and their predicted quality: three masks of each prompt with `multimask`, else one."""
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], 1)
        source = embedding + dense
        positions = dense_positions(self.prompt_encoder).expand_as(source)
        queries, keys = decoder.transformer(source, positions, tokens)
        masks, quality = masks_of(decoder, queries, keys, (source.shape[2], source.shape[3]))
        # the first mask token is for unambiguous prompts, the other three for ambiguous ones
        some = slice(1, None) if multimask else slice(0, 1)
        return masks[:, some], quality[:, some]


def normalised(image: Float[Tensor, "b 3 h w"], config: Any) -> Float[Tensor, "b 3 s s"]:
    """``(x − mean) / std``, padded with zeros at the right and the bottom to the image size.

    Raises:
        ValueError: an image larger than that.
    """
    mean = image.new_tensor(config.pixel_mean)[:, None, None]
    std = image.new_tensor(config.pixel_std)[:, None, None]
    h, w = image.shape[2:]
    if max(h, w) > config.image_size:
        raise ValueError(f"images up to {config.image_size} × {config.image_size} are allowed, got {h} × {w}")
    # normalised first: the padding is zero, the mean colour, as SAM was trained
    return F.pad((image - mean) / std, (0, config.image_size - w, 0, config.image_size - h))


def resized_masks(
    low: Float[Tensor, "b k h w"], image_size: int, used: tuple[int, int], original: tuple[int, int]
) -> Float[Tensor, "b k oh ow"]:
    """Mask logits at the size of the image they belong to: bilinear to the network's size, the padding cut off, bilinear to `original`."""
    masks = F.interpolate(low, (image_size, image_size), mode="bilinear", align_corners=False)
    masks = masks[..., : used[0], : used[1]]
    return F.interpolate(masks, original, mode="bilinear", align_corners=False)
