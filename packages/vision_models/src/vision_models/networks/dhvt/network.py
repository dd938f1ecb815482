"""DHVT (Lu, Xie, Liu, Zhang, NeurIPS 2022): a plain vision transformer with convolutions where they help on small data."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core_attention.mechanisms.dhvt.attention import DAFF, HeadInteractedAttention
from core_attention.parts.stochastic_depth import stochastic_depth
from vision_models.networks.backbone import PlainTransformer, drop_path_rates, init_linear


class Affine(nn.Module):
    """``α ⊙ x + β`` per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The map of the same shape."""
        return x * self.alpha + self.beta


class PatchEmbed(nn.Module):
    """SOPE: 3×3 convolutions of stride 2 with batch norm, as many as halve the picture to patches, between two affine maps.

    Args:
        in_chans: channels of the pictures.
        dim: channels of the tokens.
        patch_size: a power of two.

    Raises:
        ValueError: another patch size, or a width that the convolutions cannot halve.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        steps = int(math.log2(patch_size)) if patch_size > 0 else 0
        if steps < 1 or 2**steps != patch_size or dim % 2 ** (steps - 1):
            raise ValueError(
                f"patch_size must be a power of two that leaves whole widths, got {patch_size} for {dim} channels"
            )
        self.pre_affine, self.post_affine = Affine(in_chans), Affine(dim)
        layers: list[nn.Module] = []
        before = in_chans
        for step in range(steps):
            width = dim // 2 ** (steps - 1 - step)
            convolution = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width)))
            # no GELU after the last step; the published network of patch size 2 has one there
            if step < steps - 1 or steps == 1:
                layers.append(nn.GELU())
            before = width
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """A map of patches (batch, channels, rows, columns)."""
        return self.post_affine(self.proj(self.pre_affine(x)))


class Block(nn.Module):
    """``x += HI-MHSA(LN x); x += DAFF(LN x)``."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        scale: float | None,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path: float,
        use_head_tokens: bool,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = HeadInteractedAttention(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            scale=scale,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
            use_head_tokens=use_head_tokens,
        )
        self.mlp = DAFF(dim, hidden=int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tokens after the block; `grid` is the height and width of the patches."""
        x = x + stochastic_depth(self.attn(self.norm1(x)), self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x), grid), self.drop_path, self.training)


class Patches(NamedTuple):
    """The grid of patches of the pictures at hand."""

    grid: tuple[int, int]


class DHVT(PlainTransformer):
    """A class token and patches through blocks with head tokens; positions come from convolutions alone, so any size of picture will do.

    Args:
        patch_size: a power of two.
        embed_dim: channels.
        depth: blocks.
        num_heads: heads.
        mlp_ratio: hidden width of the feed-forward over the channels.
        qkv_bias: bias of the joint projection.
        scale: of the scores; default ``(embed_dim / num_heads) ** -0.5``.
        use_head_tokens: False: ordinary attention (an ablation).
        in_chans, num_classes, global_pool: see `PlainTransformer`.
        drop_rate: dropout of the class token, the attention's output and before the head.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth in the last block.
    """

    def __init__(
        self,
        *,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        scale: float | None = None,
        use_head_tokens: bool = True,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            depth,
            patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=0.0,
        )
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, embed_dim), std=0.02))
        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList()
        for rate in drop_path_rates(drop_path_rate, [depth])[0]:
            block = Block(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                scale=scale,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                drop_path=rate,
                use_head_tokens=use_head_tokens,
            )
            self.blocks.append(block)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = self.make_head(num_classes)
        self.apply(init_linear)

    def embed(self, x: Tensor) -> tuple[Tensor, Patches]:
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        return self.pos_drop(tokens), Patches(grid)

    def run_layer(self, index: int, tokens: Tensor, state: Patches) -> Tensor:
        return self.run_block(self.blocks[index], tokens, state.grid)
