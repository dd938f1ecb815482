"""MobileNetV2 (timm's) in which subspace attention stands in place of blocks (ULSAM: Saini et al., WACV 2020)."""

from collections.abc import Collection, Sequence
from typing import Any

import timm
from torch import nn

from core_attention.mechanisms.ulsam.attention import ULSAM
from vision_models.networks.layouts import Layout


def mobilenetv2_ulsam(*, replace: Sequence[int] = (14, 17), subspaces: int = 4, **options: Any) -> nn.Module:
    """MobileNetV2 with some of its blocks replaced.

    Args:
        replace: places of the blocks, counted as the paper does: the stem is 1, the first block 2.
        subspaces: of the attention.
        options: of timm's network.

    Raises:
        ValueError: a place that is no block, or a block that changes the size or the channels of its map.
    """
    model: Any = timm.create_model("mobilenetv2_100", **options)
    places = []
    for stage, blocks in enumerate(model.blocks):
        places += [(stage, index) for index in range(len(blocks))]
    for place in replace:
        if not 2 <= place < len(places) + 2:
            raise ValueError(f"MobileNetV2 has blocks 2 to {len(places) + 1}, got {place}")
        stage, index = places[place - 2]
        channels = channels_kept_by(model.blocks[stage][index])
        if channels is None:
            raise ValueError(
                f"block {place} changes the size or the channels of its map: attention cannot stand in its place"
            )
        model.blocks[stage][index] = ULSAM(channels, num_splits=subspaces)
    return model


def channels_kept_by(block: nn.Module) -> int | None:
    """The channels that an inverted residual takes and returns; None where it changes them or strides."""
    expansion = getattr(block, "conv_pw", None)
    if isinstance(expansion, nn.Conv2d) and getattr(block, "has_skip", False):
        return expansion.in_channels
    return None


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """timm's, which is ours: no checkpoint was published."""
    return (Layout(name="timm", rename=str),)
