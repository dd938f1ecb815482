"""Regions of a map: cut out and put together again, routed to each other, their keys pooled."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core_attention.parts.largest import largest
from core_attention.parts.saying import can_say, say_once

Pool = Literal["identity", "ada_avgpool", "ada_maxpool", "avgpool", "maxpool"]


class Routing(NamedTuple):
    """What each region chose: region numbers (row-major over the grid), best first, and their affinities."""

    index: Int[Tensor, "batch regions topk"]
    affinity: Float[Tensor, "batch regions topk"]


def route_regions(
    q: Float[Tensor, "batch regions dim"], k: Float[Tensor, "batch regions dim"], *, topk: int, scale: float
) -> Routing:
    """The `topk` regions with the largest ``scale · q_r · k_s`` of each region r (paper, eq. 3–4).

    `topk` beyond the number of regions takes them all, which is said once. An affinity that is not a number is never preferred; of equal
    ones the lower number wins.
    """
    regions = k.shape[1]
    if can_say() and topk > regions:
        say_once(f"bi-level routing: topk = {topk}, but there are {regions} regions: all are taken")
    affinity = (scale * q) @ k.transpose(1, 2)
    affinity = affinity.masked_fill(affinity.isnan(), -torch.inf)
    best, index = largest(affinity, topk)
    return Routing(index, best)


def to_regions(x: Tensor, size: tuple[int, int]) -> Float[Tensor, "batch regions tokens dim"]:
    """(batch, height, width, dim) → tokens by region, both row-major; height and width are multiples of `size`."""
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // size[0], size[0], width // size[1], size[1], dim)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_regions(x: Float[Tensor, "batch regions tokens dim"], grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `to_regions` for a grid of regions: (batch, height, width, dim).

    Returns:
        the map, (batch, height, width, dim).
    """
    x = x.reshape(x.shape[0], *grid, *size, x.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], grid[0] * size[0], grid[1] * size[1], x.shape[-1])


def key_pool(mode: Pool, side: int, ratio: int) -> nn.Module | None:
    """What keys and values of a region are pooled by; None: they are not.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in ("identity", "ada_avgpool", "ada_maxpool", "avgpool", "maxpool"):
        raise ValueError(
            f"unknown kv_downsample_mode {mode!r}: one of identity, ada_avgpool, ada_maxpool, avgpool, maxpool"
        )
    if mode == "ada_avgpool":
        return nn.AdaptiveAvgPool2d(side)
    if mode == "ada_maxpool":
        return nn.AdaptiveMaxPool2d(side)
    if mode == "identity" or ratio <= 1:
        return None
    return nn.AvgPool2d(ratio) if mode == "avgpool" else nn.MaxPool2d(ratio)
