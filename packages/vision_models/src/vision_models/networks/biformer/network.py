"""BiFormer (Zhu, Wang, Ke, Zhang, Lau, CVPR 2023): a pyramid whose blocks route regions to regions before tokens attend to tokens."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.biformer.block import AttentionLePE, BiFormerBlock
from vision_models.networks.backbone import ChannelNorm, Pyramid, drop_path_rates, init_linear


class BiFormer(Pyramid):
    """Four stages of blocks with bi-level routing attention; the last attends to all tokens.

    Args:
        depth: blocks of each stage.
        embed_dim: channels of each stage.
        head_dim: channels of a head, in the stages with routing.
        topks: regions that a region attends to, by stage; −2, −1, 0: see `BiFormerBlock`.
        mlp_ratios: hidden width of the MLPs over the channels, by stage.
        n_win: regions per side, for all stages or by stage.
        qk_dims: channels of queries and keys by stage; None: those of the stage.
        stem: "convolutions" (T, S, B: overlapping, and a position convolution in each block) or "patches" (STL, the layout of Swin-T).
        round_up: zero-pad what STL's patches do not divide, right and below, so that no pixel is lost and maps are rounded up as in all our
            pyramids; the published code cuts the rest away.
        refactored: the last stage's full attention as in the authors' second code: its LePE convolves the values.
        pad_mode: what happens to maps that `n_win` does not divide, see `BiLevelRoutingAttention`.
        before_attn_dwconv: kernel of the position convolution; None: 3, and none in STL.
        layer_scale: initial γ of the branches; None: no layer scale.
        norm: of stem, merging and head: "batch" or "layer".
        block: further options of `BiFormerBlock`, for all stages; a sequence has one entry per stage.
        dense, in_chans, num_classes, global_pool, drop_rate: see `Pyramid`.
        drop_path_rate: stochastic depth in the last block.
    """

    per_stage = ("downsample_layers", "stages")

    def __init__(
        self,
        *,
        depth: Sequence[int] = (2, 2, 8, 2),
        embed_dim: Sequence[int] = (64, 128, 256, 512),
        head_dim: int = 32,
        topks: Sequence[int] = (1, 4, 16, -2),
        mlp_ratios: Sequence[float] = (3, 3, 3, 3),
        n_win: int | Sequence[int] = 7,
        qk_dims: Sequence[int | None] | None = None,
        stem: Literal["convolutions", "patches"] = "convolutions",
        round_up: bool = True,
        refactored: bool = False,
        pad_mode: str = "masked",
        before_attn_dwconv: int | None = None,
        side_dwconv: int = 5,
        layer_scale: float | None = None,
        norm: Literal["batch", "layer"] = "batch",
        block: Sequence[dict[str, Any]] | None = None,
        dense: bool = False,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
            dense=dense,
        )
        stages = len(depth)
        patches = stem == "patches"
        if before_attn_dwconv is None:
            before_attn_dwconv = 0 if patches else 3
        windows = [n_win] * stages if isinstance(n_win, int) else n_win
        rates = drop_path_rates(drop_path_rate, depth)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, dim in enumerate(embed_dim):
            before = embed_dim[i - 1] if i else in_chans
            step = _downsample(before, dim, first=i == 0, patches=patches, norm=norm, round_up=round_up)
            self.downsample_layers.append(step)
            qk_dim = (qk_dims[i] if qk_dims is not None else None) or dim
            options: dict[str, Any] = {
                "num_heads": qk_dim // head_dim,
                "n_win": windows[i],
                "qk_dim": qk_dim,
                "pad_mode": pad_mode,
            }
            options |= block[i] if block is not None else {}
            blocks = []
            for rate in rates[i]:
                layer = BiFormerBlock(
                    dim,
                    topk=topks[i],
                    mlp_ratio=mlp_ratios[i],
                    before_attn_dwconv=before_attn_dwconv,
                    side_dwconv=side_dwconv,
                    layer_scale=layer_scale,
                    drop_path=rate,
                    **options,
                )
                if refactored and topks[i] < 0:
                    layer.attn = AttentionLePE(dim, side_dwconv=side_dwconv, lepe_of="value")
                blocks.append(layer)
            self.stages.append(nn.Sequential(*blocks))
        if dense:
            self.output_norms = nn.ModuleList([ChannelNorm(dim, eps=1e-6) for dim in embed_dim])
        self.norm = nn.Identity() if dense else _norm(norm, embed_dim[-1])
        self.head = self.make_head(self.num_classes)
        self.apply(init_linear)

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        blocks: Any = self.stages[index]
        return self.run_blocks(blocks, self.downsample_layers[index](x))

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def remove_norm(self) -> None:
        self.norm = nn.Identity()


def _norm(kind: str, dim: int) -> nn.Module:
    if kind not in ("batch", "layer"):
        raise ValueError(f"norm is 'batch' or 'layer', got {kind!r}")
    return nn.BatchNorm2d(dim) if kind == "batch" else ChannelNorm(dim, eps=1e-6)


def _downsample(before: int, dim: int, *, first: bool, patches: bool, norm: str, round_up: bool) -> nn.Sequential:
    """The stem, or what stands between two stages."""
    if patches and first:
        return nn.Sequential(Patches(before, dim, 4, round_up=round_up), _norm(norm, dim))
    if patches:
        return nn.Sequential(_norm(norm, before), Patches(before, dim, 2, round_up=round_up))
    if first:
        half = dim // 2
        return nn.Sequential(
            nn.Conv2d(before, half, 3, stride=2, padding=1),
            _norm(norm, half),
            nn.GELU(),
            nn.Conv2d(half, dim, 3, stride=2, padding=1),
            _norm(norm, dim),
        )
    return nn.Sequential(nn.Conv2d(before, dim, 3, stride=2, padding=1), _norm(norm, dim))


class Patches(nn.Conv2d):
    """A convolution of patches that do not overlap.

    Args:
        before: channels of the map.
        dim: channels of the smaller map.
        side: of a patch.
        round_up: zero-pad maps that `side` does not divide, right and below; otherwise the rest is cut away.
    """

    def __init__(self, before: int, dim: int, side: int, *, round_up: bool) -> None:
        super().__init__(before, dim, side, stride=side)
        self.side, self.round_up = side, round_up

    def forward(self, input: Tensor) -> Tensor:
        """The smaller map."""
        height, width = input.shape[2:]
        if self.round_up and (height % self.side or width % self.side):
            input = F.pad(input, (0, -width % self.side, 0, -height % self.side))
        return super().forward(input)
