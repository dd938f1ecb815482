"""The parts of a timm vision transformer that prompts and tokens of our own stand between.

A method that changes attention cannot call ``block(x)``: it needs queries, keys and values, and then what the block does with the heads'
outputs. These few functions are that seam. Whatever a block does beyond them is refused by name in `check_backbone`, so that no part of a
model is left out in silence.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

# timm's Attention; a type checker takes what its blocks hold for any module
Attn = Any


def build_backbone(config: Mapping[str, Any], *, reg_tokens: int = 0) -> VisionTransformer:
    """A vision transformer without a head, from the constructor arguments of the published codes.

    Args:
        config: ``img_size`` (a side, or height and width), ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``, and optionally
            ``mlp_ratio``, ``qkv_bias``, ``norm_eps``, ``layer_scale`` and ``qk_norm``.
        reg_tokens: register tokens behind CLS.
    """
    size = config["img_size"]
    if not isinstance(size, int):
        size = tuple(size)
    eps = config.get("norm_eps", 1e-6)
    return VisionTransformer(
        img_size=size,
        patch_size=config["patch_size"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        qkv_bias=config.get("qkv_bias", True),
        qk_norm=config.get("qk_norm", False),
        init_values=1e-5 if config.get("layer_scale", False) else None,
        reg_tokens=reg_tokens,
        num_classes=0,
        drop_path_rate=config.get("drop_path_rate", 0.0),
        norm_layer=lambda width, **options: nn.LayerNorm(width, eps=eps, **options),  # pyright: ignore[reportArgumentType]
    )


def check_backbone(backbone: nn.Module) -> VisionTransformer:
    """The model itself, if its blocks do nothing that `project`, `merge` and `add_mlp` would leave out.

    Raises:
        ValueError: it is no plain pre-norm vision transformer of timm; says which part is not.
    """
    name = type(backbone).__name__
    if not isinstance(backbone, VisionTransformer):
        raise ValueError(f"needs a plain vision transformer of timm (timm.create_model('vit_…')), got {name}")
    if not backbone.has_class_token:
        raise ValueError(f"this {name} has no class token, which this method reads")
    for number, block in enumerate(blocks_of(backbone)):
        if type(block) is not Block or type(block.attn) is not Attention:
            parts = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
            raise ValueError(f"block {number} of this {name} is a {parts}; needs the plain Block with Attention")
        if getattr(block.attn, "gate", None) is not None:
            raise ValueError(f"block {number} of this {name} gates its attention, which this method does not know")
    return backbone


def blocks_of(backbone: VisionTransformer) -> list[Block]:
    """Its blocks, in order."""
    return list(backbone.blocks)  # pyright: ignore[reportArgumentType, reportReturnType]


def embed(backbone: VisionTransformer, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b tokens c"]:
    """The tokens that enter the first block: CLS, registers, patches in row-major order, positions added."""
    tokens = backbone._pos_embed(backbone.patch_embed(image))
    return backbone.norm_pre(backbone.patch_drop(tokens))


def grid_of(backbone: VisionTransformer, image: Tensor) -> tuple[int, int]:
    """Rows and columns of patches of an image (batch, channels, height, width)."""
    rows, columns = backbone.patch_embed.dynamic_feat_size(tuple(image.shape[-2:]))
    return rows, columns


def project(attn: Attn, x: Float[Tensor, "b n c"]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of normed tokens, each (batch, heads, n, width)."""
    q, k, v = attn.qkv(x).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def project_queries(attn: Attn, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n width"]:
    """Queries alone: a third of `project`."""
    weight, bias = _rows_of_joint(attn, slice(0, attn.attn_dim))
    q = nn.functional.linear(x, weight, bias).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
    return attn.q_norm(q)


def project_keys_values(attn: Attn, x: Float[Tensor, "b n c"]) -> tuple[Tensor, Tensor]:
    """Keys and values alone: two thirds of `project`."""
    weight, bias = _rows_of_joint(attn, slice(attn.attn_dim, None))
    joint = nn.functional.linear(x, weight, bias).unflatten(2, (2, attn.num_heads, -1))
    k, v = joint.permute(2, 0, 3, 1, 4).unbind(0)
    return attn.k_norm(k), v


def _rows_of_joint(attn: Attn, rows: slice) -> tuple[Tensor, Tensor | None]:
    bias = attn.qkv.bias
    if bias is not None:
        bias = bias[rows]
    return attn.qkv.weight[rows], bias


def merge(attn: Attn, outputs: Float[Tensor, "b heads n width"]) -> Float[Tensor, "b n c"]:
    """What attention adds to its tokens: the heads' outputs side by side, through the output projection."""
    joined = outputs.transpose(1, 2).flatten(2)
    return attn.proj_drop(attn.proj(attn.norm(joined)))


def add_attention(block: Block, x: Tensor, update: Tensor) -> Tensor:
    """The first residual sum of a block."""
    return x + block.drop_path1(block.ls1(update))


def add_mlp(block: Block, x: Tensor) -> Tensor:
    """The second residual sum of a block, with its MLP."""
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def attention_weights(q: Tensor, k: Tensor) -> Float[Tensor, "b heads rows keys"]:
    """``softmax(q kᵀ / √d)`` of the queries given; for the few rows that someone wants to see."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)


def adapter_of(module: nn.Module, prefix: str = "backbone.") -> dict[str, Tensor]:
    """The tensors of a module that are not its frozen backbone: what an adapter file holds."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(prefix)}
