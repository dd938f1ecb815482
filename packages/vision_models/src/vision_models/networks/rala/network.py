"""RAVLT (Fan, Huang, He, CVPR 2025): rank-augmented linear attention in the fine stages, softmax attention in the coarse ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.rala.attention import GateLinearAttentionNoSilu, VanillaSelfAttention
from core_attention.parts.stochastic_depth import stochastic_depth
from vision_models.networks.backbone import ChannelNorm, Pyramid, drop_path_rates

_RELEASED = ("l", "l", "v", "v")  # linear, linear, softmax ("vanilla"), softmax


class RoPE(nn.Module):
    """The rotary phases of a stage: its frequencies, as in the published state dicts."""

    angle: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        angle = (10000 ** -torch.linspace(0, 1, head_dim // 4)).repeat_interleave(2)
        self.register_buffer("angle", angle)

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Sine and cosine of each pixel, row by row, (height · width, head_dim): the first half turns with y, the second with x."""
        y = torch.arange(height, device=self.angle.device, dtype=self.angle.dtype)[:, None] * self.angle
        x = torch.arange(width, device=self.angle.device, dtype=self.angle.dtype)[:, None] * self.angle
        phase = torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], -1).flatten(0, 1)
        return phase.sin(), phase.cos()


class FFN(nn.Module):
    """1×1 convolution, GELU, ``u + DWConv3×3(u)``, 1×1 convolution."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        u = F.gelu(self.fc1(x))
        return self.fc2(u + self.dwconv(u))


class Norm(nn.Module):
    """A channel norm inside a module, which the published keys show."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """The map, normalised at each pixel."""
        return self.norm(x)


class Block(nn.Module):
    """``x += DWConv(x); x += γ₁ Attn(LN x); x += γ₂ FFN(LN x)``.

    Args:
        dim: channels.
        num_heads: heads.
        flag: "l" for linear attention, "v" for softmax attention.
        mlp_ratio: hidden width over the channels.
        layer_scale: initial γ; None: none.
        drop_path: rate of stochastic depth.
    """

    def __init__(
        self, dim: int, num_heads: int, *, flag: str, mlp_ratio: float, layer_scale: float | None, drop_path: float
    ) -> None:
        super().__init__()
        if flag not in ("l", "v"):
            raise ValueError(f"a block's flag is 'l' (linear) or 'v' (softmax), got {flag!r}")
        self.pos = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        kind = GateLinearAttentionNoSilu if flag == "l" else VanillaSelfAttention
        self.attn = kind(dim, num_heads)
        self.ffn = FFN(dim, int(mlp_ratio * dim))
        self.gamma_1 = self.gamma_2 = None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((1, dim, 1, 1), float(layer_scale)))
            self.gamma_2 = nn.Parameter(torch.full((1, dim, 1, 1), float(layer_scale)))
        self.drop_path = drop_path

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """y of the shape of `x`."""
        x = x + self.pos(x)
        x = x + self._branch(self.attn(self.norm1(x), sin, cos), self.gamma_1)
        return x + self._branch(self.ffn(self.norm2(x)), self.gamma_2)

    def _branch(self, y: Tensor, gamma: Tensor | None) -> Tensor:
        return stochastic_depth(y if gamma is None else gamma * y, self.drop_path, self.training)


class PatchEmbed(nn.Module):
    """Four 3×3 convolutions with batch normalisation, of which the first and the last halve the map."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        layers: list[nn.Module] = []
        for before, after, stride in ((in_chans, half, 2), (half, half, 1), (half, half, 1), (half, dim, 2)):
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1)
            layers += [convolution, nn.BatchNorm2d(after), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])  # no activation after the last

    def forward(self, x: Tensor) -> Tensor:
        """The map at a quarter of the picture's size."""
        return self.proj(x)


class PatchMerging(nn.Module):
    """A 3×3 convolution of stride 2, and batch normalisation."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(before, dim, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """The map at half its size, rounded up."""
        return self.norm(self.reduction(x))


class Stage(nn.Module):
    """The blocks of one width, their rotary phases, and the step to the next stage."""

    def __init__(self, blocks: Sequence[nn.Module], head_dim: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.RoPE = RoPE(head_dim)
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class RAVLT(Pyramid):
    """A stem of four convolutions, four stages, and a head of its own width.

    Args:
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage; four times their number divides the channels.
        mlp_ratios: hidden widths over the channels, by stage.
        flags: the attention of each stage, or of each of its blocks: "l" linear, "v" softmax. None: the last two stages are softmax, as released.
        layer_scales: initial γ by stage; None entries have none.
        projection: channels between the last map and the classes.
        dense, in_chans, num_classes, global_pool, drop_rate: see `Pyramid`.
        drop_path_rate: stochastic depth in the last block.
    """

    per_stage = ("layers",)

    def __init__(
        self,
        *,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        mlp_ratios: Sequence[float] = (3.5, 3.5, 3.5, 3.5),
        flags: Sequence[str | Sequence[str]] | None = None,
        layer_scales: Sequence[float | None] = (1.0, 1.0, 1.0, 1.0),
        projection: int = 1024,
        dense: bool = False,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dims,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
            dense=dense,
        )
        stages = len(depths)
        rates = drop_path_rates(drop_path_rate, depths)
        self.patch_embed = PatchEmbed(in_chans, embed_dims[0])
        self.layers = nn.ModuleList()
        for i, dim in enumerate(embed_dims):
            by_block = (_RELEASED if flags is None else flags)[i]
            blocks = []
            for j, rate in enumerate(rates[i]):
                block = Block(
                    dim,
                    num_heads[i],
                    flag=by_block if isinstance(by_block, str) else by_block[j],
                    mlp_ratio=mlp_ratios[i],
                    layer_scale=layer_scales[i],
                    drop_path=rate,
                )
                blocks.append(block)
            merging = PatchMerging(dim, embed_dims[i + 1]) if i + 1 < stages else None
            self.layers.append(Stage(blocks, dim // num_heads[i], merging))
        self.proj = self.norm = None
        if dense:
            self.output_norms = nn.ModuleList([Norm(dim) for dim in embed_dims])
        else:
            self.proj, self.norm = nn.Conv2d(embed_dims[-1], projection, 1), nn.BatchNorm2d(projection)
        self.projection = projection
        self.head = self.make_head(self.num_classes)
        self.apply(_init)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return super().group_matcher(coarse) | {"stem": r"^patch_embed\."}

    @property
    def head_hidden_size(self) -> int:
        return self.num_features if self.proj is None else self.projection

    def make_head(self, num_classes: int) -> nn.Module:
        return nn.Conv2d(self.head_hidden_size, num_classes, 1) if num_classes > 0 else nn.Identity()

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """The stage's map before it is halved for the next one."""
        if index == 0:
            x = self.patch_embed(x)
        else:
            before: Any = self.layers[index - 1]
            x = before.downsample(x)
        stage: Any = self.layers[index]
        sin, cos = stage.RoPE(*x.shape[2:])
        for block in stage.blocks:
            x = self.run_block(block, x, sin, cos)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.global_pool or self.proj is None or self.norm is None:
            return x
        pooled = F.silu(self.norm(self.proj(x))).mean((2, 3), keepdim=True)
        pooled = self.head_drop(pooled)
        return (pooled if pre_logits else self.head(pooled)).flatten(1)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        if reset_other:
            self.proj = self.norm = None
        super().reset_classifier(num_classes, global_pool)

    def prune_intermediate_layers(self, *args, **options) -> list[int]:
        indices = super().prune_intermediate_layers(*args, **options)
        last: Any = self.layers[-1]
        last.downsample = None  # leads nowhere
        return indices


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
