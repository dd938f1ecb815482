"""DaViT (Ding, Xiao, Codella, Luo, Wang, Yuan, ECCV 2022): window attention over pixels and attention between channels, in turn."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.davit.attention import ChannelBlock, SpatialBlock
from vision_models.networks.backbone import ChannelNorm, Pyramid, drop_path_rates, init_linear


class PatchEmbed(nn.Module):
    """A strided convolution between stages, with its norm after the first and before each later one; (batch, height, width, channels).

    Maps that the stride does not divide are zero-padded right and below.
    """

    def __init__(self, before: int, dim: int, *, kernel: int, stride: int, padding: int, norm_first: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, dim, kernel, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(before if norm_first else dim)
        self.stride, self.norm_first = stride, norm_first

    def forward(self, x: Tensor) -> Tensor:
        """The smaller map; of a picture (batch, channels, height, width), for the first stage."""
        if self.norm_first:
            x = self.norm(x).permute(0, 3, 1, 2)
        height, width = x.shape[2:]
        if height % self.stride or width % self.stride:
            x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        x = self.proj(x).permute(0, 2, 3, 1)
        return x if self.norm_first else self.norm(x)


class DaViT(Pyramid):
    """Stages of dual blocks: a spatial block, then a channel block.

    Args:
        depths: dual blocks of each stage.
        embed_dims: channels of each stage.
        num_heads: heads of the spatial blocks and groups of the channel blocks, by stage.
        window_size: side of a window.
        patch_size: stride of the first stage.
        mlp_ratio: hidden width of the MLPs over the channels.
        qkv_bias: biases of the joint projections.
        attention_types: which blocks a dual block has, in order.
        ffn: whether blocks have an MLP.
        overlapped_patch: 3×3 convolutions between stages instead of 2×2 (Florence-2).
        cpe_act: a GELU in the position encodings.
        scaling: of the channel attention, "channels", or "tokens" (Florence-2).
        mask_pad: hide the padding of windows; the published networks let it be seen.
        dense, in_chans, num_classes, global_pool, drop_rate: see `Pyramid`.
        drop_path_rate: stochastic depth in the last block.
    """

    per_stage = ("patch_embeds", "main_blocks")
    channels_last = True

    def __init__(
        self,
        *,
        depths: Sequence[int] = (1, 1, 3, 1),
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attention_types: Sequence[str] = ("spatial", "channel"),
        ffn: bool = True,
        overlapped_patch: bool = False,
        cpe_act: bool = False,
        scaling: str = "channels",
        mask_pad: bool = False,
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
        kinds = len(attention_types)
        rates = drop_path_rates(drop_path_rate, [depth * kinds for depth in depths])
        self.patch_embeds, self.main_blocks = nn.ModuleList(), nn.ModuleList()
        for i, dim in enumerate(embed_dims):
            self.patch_embeds.append(
                _patch_embed(embed_dims[i - 1] if i else in_chans, dim, i, patch_size, overlapped_patch)
            )
            options = {
                "mlp_ratio": mlp_ratio,
                "qkv_bias": qkv_bias,
                "ffn": ffn,
                "cpe_act": cpe_act,
            }
            layers = []
            for layer in range(depths[i]):
                blocks = []
                for kind, attention in enumerate(attention_types):
                    rate = rates[i][layer * kinds + kind]
                    if attention == "spatial":
                        block = SpatialBlock(
                            dim, num_heads[i], window_size=window_size, mask_pad=mask_pad, drop_path=rate, **options
                        )
                    elif attention == "channel":
                        block = ChannelBlock(dim, num_heads[i], scaling=scaling, drop_path=rate, **options)
                    else:
                        raise ValueError(f"attention_types are 'spatial' and 'channel', got {attention!r}")
                    blocks.append(block)
                layers.append(nn.Sequential(*blocks))
            self.main_blocks.append(nn.Sequential(*layers))
        if dense:
            self.output_norms = nn.ModuleList([ChannelNorm(dim) for dim in embed_dims])
        # Florence-2's towers end with their last map, without a norm
        self.norms = nn.LayerNorm(embed_dims[-1]) if not dense else nn.Identity()
        self.head = self.make_head(self.num_classes)
        self.apply(init_linear)

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        x = self.patch_embeds[index](x)
        duals: Any = self.main_blocks[index]
        for dual in duals:
            x = self.run_blocks(dual, x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        return self.norms(super().pool(x)) if self.global_pool else x

    def remove_norm(self) -> None:
        self.norms = nn.Identity()


def _patch_embed(before: int, dim: int, stage: int, patch_size: int, overlapped: bool) -> PatchEmbed:
    if stage == 0:
        return PatchEmbed(before, dim, kernel=7, stride=patch_size, padding=3, norm_first=False)
    kernel, padding = (3, 1) if overlapped else (2, 0)
    return PatchEmbed(before, dim, kernel=kernel, stride=2, padding=padding, norm_first=True)
