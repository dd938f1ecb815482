"""TransNeXt with mixtures of heads (MoH-ViT: Jin et al., ICML 2025)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.moh.vit import MoHAggregatedAttention, MoHCosineAttention
from core_attention.parts.stochastic_depth import stochastic_depth
from vision_models.networks.backbone import Pyramid, drop_path_rates, init_linear

Grid = tuple[int, int]


class PatchEmbed(nn.Module):
    """An overlapping convolution, and a norm; maps are (batch, height, width, channels) after it."""

    def __init__(self, before: int, dim: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """The smaller map, of one that is (batch, channels, height, width)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ConvGLU(nn.Module):
    """``W₂ (GELU(DWConv(u)) ⊙ v)`` with ``[u, v] = W₁ x``, on (batch, height, width, channels).

    Args:
        dim: channels.
        hidden: hidden width; two thirds of it are used, as each is computed twice.
        drop_rate: dropout, after the product and at the end.
    """

    def __init__(self, dim: int, hidden: int, drop_rate: float) -> None:
        super().__init__()
        hidden = int(2 * hidden / 3)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        u, v = self.fc1(x).chunk(2, -1)
        u = F.gelu(self.dwconv(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.drop(self.fc2(self.drop(u * v)))


class Block(nn.Module):
    """``x += Attn(LN x); x += ConvGLU(LN x)``; returns the balance loss of the attention too."""

    def __init__(
        self,
        dim: int,
        attention: MoHAggregatedAttention | MoHCosineAttention,
        *,
        mlp_ratio: float,
        eps: float,
        drop_rate: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn, self.mlp = attention, ConvGLU(dim, int(dim * mlp_ratio), drop_rate)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map (batch, height, width, channels), and the balance loss."""
        grid = (x.shape[1], x.shape[2])
        y, loss = self.attn.at_grid(grid)(self.norm1(x).flatten(1, 2))
        x = x + stochastic_depth(y.unflatten(1, grid), self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training), loss


class TransNeXt(Pyramid):
    """Three stages of aggregated attention and one of cosine attention, with mixtures of heads.

    `forward` gives scores of the classes alone; `forward_with_balance` also the balance losses that training adds.

    Args:
        img_size: that the position bias was trained at; other sizes are computed relative to it.
        pretrain_size: the size of pretraining, where it differs.
        patch_size: stride of the first stage.
        embed_dims, depths, num_heads, mlp_ratios: by stage.
        sr_ratios: what each stage's grid is divided by for its pooled keys; 1: full cosine attention.
        window_size: side of the neighbourhood, by stage.
        shared: heads that every token uses, by stage.
        routed: heads that a token chooses among the others, by stage.
        qkv_bias: biases of the projections to queries, keys and values.
        norm_eps: of the norms of blocks and stages.
        in_chans, num_classes, global_pool: see `Pyramid`.
        drop_rate: dropout in the MLPs and before the head.
        drop_path_rate: stochastic depth in the last block.
    """

    per_stage = ("patch_embeds", "norms", "stages")
    channels_last = True

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        pretrain_size: int | tuple[int, int] | None = None,
        patch_size: int = 4,
        embed_dims: Sequence[int] = (72, 144, 288, 576),
        depths: Sequence[int] = (5, 5, 22, 5),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        window_size: Sequence[int | None] = (3, 3, 3, None),
        shared: Sequence[int] = (3, 6, 3, 8),
        routed: Sequence[int] = (0, 0, 6, 12),
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dims, in_chans=in_chans, num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate
        )
        rates = drop_path_rates(drop_path_rate, depths)
        self.patch_embeds, self.norms, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, dim in enumerate(embed_dims):
            kernel, stride = (2 * patch_size - 1, patch_size) if i == 0 else (3, 2)
            self.patch_embeds.append(
                PatchEmbed(embed_dims[i - 1] if i else in_chans, dim, kernel=kernel, stride=stride)
            )
            self.norms.append(nn.LayerNorm(dim, eps=norm_eps))
            grid = _grid(img_size, patch_size * 2**i)
            pretrain = None if pretrain_size is None else _grid(pretrain_size, patch_size * 2**i)
            heads = {"shared": shared[i], "routed": routed[i], "bias": qkv_bias, "pretrain": pretrain}
            blocks = []
            for rate in rates[i]:
                if sr_ratios[i] == 1:
                    attention = MoHCosineAttention(dim, num_heads[i], grid, **heads)
                else:
                    pool = min(sr_ratios[i], *grid)  # a picture of few patches is pooled to one
                    window = window_size[i] or 3
                    attention = MoHAggregatedAttention(dim, num_heads[i], grid, window=window, pool=pool, **heads)
                    attention.pool_size = sr_ratios[i]
                block = Block(
                    dim, attention, mlp_ratio=mlp_ratios[i], eps=norm_eps, drop_rate=drop_rate, drop_path=rate
                )
                blocks.append(block)
            self.stages.append(nn.ModuleList(blocks))
        self.head = self.make_head(num_classes)
        self.apply(_init)

    def no_weight_decay(self) -> set[str]:
        undecayed = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")  # as published
        return {name for name, _ in self.named_parameters() if any(part in name for part in undecayed)}

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Computes the tables of positions once for pictures of another size, instead of in each call."""
        height, width = _pair(img_size)
        for embed, blocks in zip(self.patch_embeds, self.stages, strict=True):
            assert isinstance(embed, PatchEmbed)
            height, width = -(-height // embed.stride), -(-width // embed.stride)
            layers: Any = blocks
            for block in layers:
                block.attn = block.attn.at_grid((height, width))

    def _run(self, index: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A stage's map, and the balance losses of its layers that route."""
        if index > 0:
            x = x.permute(0, 3, 1, 2)
        x = self.patch_embeds[index](x)
        losses = []
        blocks: Any = self.stages[index]
        for block in blocks:
            x, loss = self.run_block(block, x)
            if block.attn.router.routed:
                losses.append(loss)
        return self.norms[index](x), losses

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        return self._run(index, x)[0]

    def forward_with_balance(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores of the classes, and the balance loss of each layer that routes, in order; none of no such layer.

        Training adds 0.01 times their mean.
        """
        x = self._start(x)
        losses = []
        for index in range(len(self.stages)):
            x, more = self._run(index, x)
            losses += more
        return self.forward_head(self._map(x)), losses


def _pair(size: int | Sequence[int]) -> Grid:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _grid(img_size: int | Sequence[int], stride: int) -> Grid:
    """The tokens of a picture, rounded up, as its convolutions do."""
    height, width = _pair(img_size)
    return -(-height // stride), -(-width // stride)


def _init(module: nn.Module) -> None:
    init_linear(module)
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
