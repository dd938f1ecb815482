"""T2T-ViT (Yuan et al., ICCV 2021), whose two attentions over long sequences Scatterbrain approximates (Chen et al., NeurIPS 2021)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.attention import attention
from core_attention.mechanisms.scatterbrain.attention import ScatterbrainAttention
from core_attention.mechanisms.scatterbrain.local import SBLocalAttention
from core_attention.mechanisms.scatterbrain.lsh import SBSmyrfAttention
from core_attention.parts.stochastic_depth import stochastic_depth
from vision_models.networks.backbone import PlainTransformer, drop_path_rates, init_linear, resample_positions

# kernel, stride and padding of the three soft splits
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        return self.fc2(F.gelu(self.fc1(x)))


class TokenAttention(nn.Module):
    """Single-head attention that also narrows its tokens: ``v + W (softmax(q kᵀ · in_dim^-½) v)``.

    Args:
        in_dim: channels of the tokens.
        dim: channels that remain.
        scatterbrain: what approximates the softmax; None: the softmax itself.
    """

    def __init__(self, in_dim: int, dim: int, scatterbrain: ScatterbrainAttention | None) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(in_dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.scale = in_dim**-0.5
        self.attention_layer = scatterbrain

    def forward(self, x: Tensor) -> Tensor:
        """The tokens (batch, tokens, dim)."""
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))  # one head
        if self.attention_layer is None:
            y = attention(q, k, v, scale=self.scale)
        else:
            y = self.attention_layer(q, k, v)
        return v[:, 0] + self.proj(y[:, 0])


class TokenTransformer(nn.Module):
    """`TokenAttention` of the normalised tokens, and an MLP of ratio 1."""

    def __init__(self, in_dim: int, dim: int, scatterbrain: ScatterbrainAttention | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(in_dim), nn.LayerNorm(dim)
        self.attn = TokenAttention(in_dim, dim, scatterbrain)
        self.mlp = Mlp(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens (batch, tokens, dim)."""
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    """Three soft splits, each of which unfolds overlapping neighbourhoods into tokens; attention stands between them.

    Args:
        in_chans: channels of the pictures.
        token_dim: channels between the splits.
        dim: channels of the tokens that result.
        approximations: what replaces the softmax of the two attentions; None entries keep it.
    """

    def __init__(
        self, in_chans: int, token_dim: int, dim: int, approximations: Sequence[ScatterbrainAttention | None]
    ) -> None:
        super().__init__()
        self.attention1 = TokenTransformer(in_chans * SPLITS[0][0] ** 2, token_dim, approximations[0])
        self.attention2 = TokenTransformer(token_dim * SPLITS[1][0] ** 2, token_dim, approximations[1])
        self.project = nn.Linear(token_dim * SPLITS[2][0] ** 2, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (batch, patches, dim), row by row, and their grid."""
        for split, step in zip(SPLITS, (self.attention1, self.attention2, self.project), strict=True):
            kernel, stride, padding = split
            grid = grid_after(x.shape[2:], kernel, stride, padding)
            tokens = step(F.unfold(x, kernel, stride=stride, padding=padding).transpose(1, 2))
            x = tokens.transpose(1, 2).unflatten(2, grid)
        return x.flatten(2).transpose(1, 2), grid


def grid_after(size: Sequence[int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """How many neighbourhoods there are in each direction."""
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    return height, width


class Attention(nn.Module):
    """Multi-head attention of the plain layers."""

    def __init__(self, dim: int, num_heads: int, *, scale: float) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.num_heads, self.scale = num_heads, scale

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """``x += Attn(LN x); x += MLP(LN x)``."""

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float, scale: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, num_heads, scale=scale), Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        x = x + stochastic_depth(self.attn(self.norm1(x)), self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training)


class Positions(nn.Module):
    """The fixed sine and cosine table of the published network."""

    pe: Tensor

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        exponent = torch.arange(dim, dtype=torch.float64) // 2 * 2 / dim
        angle = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000**exponent
        angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
        self.register_buffer("pe", angle.float()[None])


class Patches(NamedTuple):
    """The grid of patches of the pictures at hand."""

    grid: tuple[int, int]


class T2TViT(PlainTransformer):
    """T2T-ViT-t; with `windows` or `clusters` its two token-to-token attentions are approximated, with the same weights.

    Args:
        img_size: of the position table; other sizes resample it.
        embed_dim, depth, num_heads, mlp_ratio: of the plain layers.
        qk_scale: of their scores; default ``embed_dim ** -0.5``, as published.
        token_dim: channels between the soft splits.
        windows: exact keys of each query in the two approximated attentions (Scatterbrain with a local window).
        clusters: sizes of the LSH clusters instead (Scatterbrain with Smyrf).
        hashes: rounds of hashing.
        features: random features of the low-rank parts.
        approximations: the two attentions themselves, for other settings than these.
        in_chans, num_classes, global_pool, drop_rate: see `PlainTransformer`.
        drop_path_rate: stochastic depth in the last block.

    Raises:
        ValueError: both windows and clusters.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        qk_scale: float | None = None,
        token_dim: int = 64,
        windows: tuple[int, int] | None = None,
        clusters: tuple[int, int] | None = None,
        hashes: int = 2,
        features: tuple[int, int] | None = None,
        approximations: Sequence[ScatterbrainAttention | None] | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            depth,
            16,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        if approximations is None:
            widths = (in_chans * SPLITS[0][0] ** 2, token_dim * SPLITS[1][0] ** 2)
            approximations = _approximations(token_dim, widths, windows, clusters, hashes, features)
        self.grid = (img_size, img_size) if isinstance(img_size, int) else img_size
        for split in SPLITS:
            self.grid = grid_after(self.grid, *split)
        self.patch_embed = TokensToToken(in_chans, token_dim, embed_dim, approximations)
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, embed_dim), std=0.02))
        self.pos_embed = Positions(self.grid[0] * self.grid[1] + 1, embed_dim)
        scale = embed_dim**-0.5 if qk_scale is None else qk_scale
        self.blocks = nn.ModuleList()
        for rate in drop_path_rates(drop_path_rate, [depth])[0]:
            self.blocks.append(Block(embed_dim, num_heads, mlp_ratio=mlp_ratio, scale=scale, drop_path=rate))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = self.make_head(num_classes)
        self.apply(init_linear)

    def embed(self, x: Tensor) -> tuple[Tensor, Patches]:
        patches, grid = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], 1)
        return tokens + resample_positions(self.pos_embed.pe, self.grid, grid), Patches(grid)

    def run_layer(self, index: int, tokens: Tensor, state: Patches) -> Tensor:
        return self.run_block(self.blocks[index], tokens)


def _approximations(
    dim: int,
    widths: tuple[int, int],
    windows: tuple[int, int] | None,
    clusters: tuple[int, int] | None,
    hashes: int,
    features: tuple[int, int] | None,
) -> list[ScatterbrainAttention | None]:
    """What replaces the softmax of the two attentions; their temperatures come from the width of their inputs, as published."""
    if windows and clusters:
        raise ValueError("windows and clusters are two ways to choose the exact pairs: give one of them")
    layers: list[ScatterbrainAttention | None] = []
    for i, width in enumerate(widths):
        count = features[i] if features else None
        if windows:
            layers.append(SBLocalAttention(dim, windows[i], features=count, softmax_temp=width**-0.5))
        elif clusters:
            size = clusters[i]
            layer = SBSmyrfAttention(
                dim, hashes=hashes, q_cluster=size, k_cluster=size, features=count, softmax_temp=width**-0.5
            )
            layers.append(layer)
        else:
            layers.append(None)
    return layers
