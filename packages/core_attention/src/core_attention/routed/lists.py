"""Tiles and lists for the kernel of routed attention: which tiles of keys a tile of queries visits, and the reverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core_attention.routed.routes import RouteMask, Routes, RouteThreshold, block_mask, blocks

LEAST_BLOCK = 32  # tokens of a block from which tiles lie inside blocks; smaller blocks are told apart inside a tile


class Tiles(NamedTuple):
    """Queries and keys of a tile, warps, stages."""

    rows: int
    keys: int
    warps: int
    stages: int


def padded(width: int) -> int:
    """The power of two ≥ 16 that a row of `width` occupies."""
    return max(16, 1 << (width - 1).bit_length())


@dataclass(frozen=True)
class Lists:
    """What the kernel reads. `span` is (tokens, tiles) of a stretch that tiles do not cross: a block, or everything.

    `by_query` and `by_key` are (list, count): int32 (batch, heads, own tiles, other tiles) and (batch, heads, own tiles).
    """

    mode: int  # 0 whole tiles, 1 a bit per row, 2 a bit per pair, 3 threshold; see triton_kernels.py
    tiles: Tiles
    by_query: tuple[Tensor, Tensor]
    by_key: tuple[Tensor, Tensor]
    query_span: tuple[int, int]
    key_span: tuple[int, int]
    query_tiles: int
    key_tiles: int
    query_block: int
    key_block: int
    columns: int
    causal: bool
    chosen: Tensor | None  # uint8 (batch, heads, query blocks, key blocks)
    score: Tensor | None
    limit: Tensor | None
    tie: Tensor | None
    keys: Tensor | None  # uint8 (batch, keys)


class _Side(NamedTuple):
    """The tiles along queries or keys: span and tiles of a stretch, and first and last token of each tile."""

    span: int
    subs: int
    tile: int
    first: Tensor
    last: Tensor


def _side(length: int, block: int, tile: int, inside: bool, device: torch.device) -> _Side:
    span = block if inside else max(length, 1)
    subs = blocks(span, tile)
    number = torch.arange(blocks(length, span) * subs, device=device)
    first = number // subs * span + number % subs * tile
    last = torch.minimum(torch.minimum(first + tile, (number // subs + 1) * span), torch.full_like(first, length)) - 1
    return _Side(span, subs, tile, first, last)


def make_lists(
    routes: Routes, queries: int, keys: int, tiles: Tiles, *, causal: bool = False, key_mask: Tensor | None = None
) -> Lists:
    """The lists of a problem for one choice of tiles."""
    if isinstance(routes, RouteThreshold):
        device = routes.score.device
        query_block = key_block = 1
        row, column = _side(queries, 1, tiles.rows, False, device), _side(keys, 1, tiles.keys, False, device)
        meet, mode, blocks = _threshold_tiles(routes, row, column), 3, None
    else:
        device = routes.mask.device if isinstance(routes, RouteMask) else routes.index.device
        query_block, key_block = routes.query_block, routes.key_block
        whole_rows, whole_keys = query_block >= LEAST_BLOCK, key_block >= LEAST_BLOCK
        row = _side(queries, query_block, tiles.rows, whole_rows, device)
        column = _side(keys, key_block, tiles.keys, whole_keys, device)
        mode = 2
        if whole_keys:
            mode = 0 if whole_rows else 1
        blocks = block_mask(routes, keys)
        meet = _any(_any(blocks, 2, row, query_block), 3, column, key_block)
    # a tile past the end of a short last block holds nothing
    meet = meet & (row.first <= row.last)[:, None] & (column.first <= column.last)
    if causal:
        meet = meet & (column.first <= (row.last + keys - queries)[:, None])
    pairs = score = limit = tie = None
    if isinstance(routes, RouteThreshold):
        score, limit = routes.score.float().contiguous(), routes.threshold.float().contiguous()
        if routes.tie is not None:
            tie = routes.tie.long().contiguous()
    elif mode != 0:  # of whole blocks the lists say it all
        assert blocks is not None
        pairs = blocks.to(torch.uint8).contiguous()
    return Lists(
        mode=mode,
        tiles=tiles,
        by_query=_listed(meet),
        by_key=_listed(meet.transpose(2, 3)),
        query_span=(row.span, row.subs),
        key_span=(column.span, column.subs),
        query_tiles=len(row.first),
        key_tiles=len(column.first),
        query_block=query_block,
        key_block=key_block,
        columns=0 if blocks is None else blocks.shape[3],
        causal=causal,
        chosen=pairs,
        score=score,
        limit=limit,
        tie=tie,
        keys=None if key_mask is None else key_mask.to(torch.uint8).contiguous(),
    )


def _any(mask: Tensor, axis: int, side: _Side, block: int) -> Tensor:
    """Along one axis: whether any block that a tile touches is set."""
    running = torch.nn.functional.pad(mask.int().cumsum(axis), (0, 0, 1, 0) if axis == 2 else (1, 0))
    begin, end = side.first // block, side.last.clamp(min=0) // block + 1
    begin = torch.minimum(begin, end)
    return running.index_select(axis, end) > running.index_select(axis, begin)


def _threshold_tiles(routes: RouteThreshold, row: _Side, column: _Side) -> Tensor:
    """Whether the greatest score of a tile of keys can pass the least limit of a tile of queries."""
    limit = routes.threshold.float().nan_to_num(torch.inf, torch.inf, -torch.inf)
    low = _pieces(limit, row, torch.inf).amin(-1)
    high = _pieces(routes.score.float().nan_to_num(-torch.inf, torch.inf, -torch.inf), column, -torch.inf).amax(-1)
    return (high[:, :, None, :] >= low[..., None]) & (low < torch.inf)[..., None]


def _pieces(values: Tensor, side: _Side, fill: float) -> Tensor:
    short = len(side.first) * side.tile - values.shape[2]
    return torch.nn.functional.pad(values, (0, short), value=fill).unflatten(2, (-1, side.tile))


def _listed(meet: Tensor) -> tuple[Tensor, Tensor]:
    count = meet.sum(-1, dtype=torch.int32)
    order = meet.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    longest = max(1, int(count.max())) if count.numel() else 1
    return order[..., :longest].int().contiguous(), count.contiguous()
