"""Cuts a masked attention into pieces that need no mask, or only a small one.

A piece is some samples, a run of queries and a run of keys (or, where a packed sequence does not stand in one place, their positions).
Pieces never share a query, so each is an attention of its own: packed sequences fall apart into one piece per sequence, padded samples
end at their last key, a window takes only the keys near its queries. What a piece must still mask is written out for that piece alone.
Keys that lengths, segments or a mask of keys hide are never read: what stands there may be NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from core_attention.masks import (
    Causal,
    KeyLengths,
    Mask,
    Part,
    Run,
    Segments,
    Size,
    Where,
    Window,
    in_band,
    joined,
    parts,
    pick,
)

BUDGET = 64 * 2**20  # bytes of one written-out mask
# queries in a piece of a window of at most 256 keys, and of a wider one: the fastest of 32 … 1024 on a CPU
NEAR = 64, 128

Limits = tuple[int | None, int | None]


class Piece(NamedTuple):
    """One attention of its own: `causal` is torch's own triangle, `masks` and `band` are what must still be written out for it."""

    batch: Run | None
    rows: Where
    keys: Where
    causal: bool = False
    masks: tuple[Mask, ...] = ()
    band: Limits = (None, None)


def part_of(piece: Piece) -> Part:
    """What a mask is asked for."""
    return Part(batch=piece.batch, rows=piece.rows, keys=piece.keys)


def hidden_keys(piece: Piece, size: Size, device: torch.device) -> Tensor | None:
    """(batch or 1, keys): which keys of a piece no query of a sample may read, as far as its lengths and masks of keys say."""
    by_key = [m for m in piece.masks if m.by_key]
    if not by_key:
        return None
    allowed = joined(
        [m.allowed(size, Part(batch=piece.batch, keys=piece.keys), device) for m in by_key], torch.logical_and
    )
    return None if allowed is None else ~allowed[:, 0, 0]


def masked(piece: Piece) -> bool:
    """Whether something must be written out for this piece."""
    return len(piece.masks) > 0 or piece.band != (None, None)


def written(piece: Piece, size: Size, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """What is added to the scores of a masked piece (−inf hides), broadcastable to the shape of `like`.

    Args:
        dtype: of biases; None: that of `like`.
    """
    part = part_of(piece)
    allowed_by = [mask.allowed(size, part, like.device) for mask in piece.masks]
    allowed = joined([*allowed_by, in_band(piece.band, size, part, like.device)], torch.logical_and)
    bias = joined([mask.bias(size, part, like.device) for mask in piece.masks], torch.add)
    # four axes also where a mask hides nothing of this piece: callers expand what is added
    added = like.new_zeros(1, 1, 1, 1) if bias is None else bias.to(dtype or like.dtype)
    return added if allowed is None else torch.where(allowed, added, float("-inf"))


def seeing(added: Tensor) -> Tensor:
    """Which rows of a written-out mask see a key."""
    return (added > float("-inf")).any(-1)


def plan(
    mask: Mask | None,
    size: Size,
    itemsize: int,
    device: torch.device,
    *,
    values: bool,
    triangle: bool = True,
    scores: bool = False,
) -> list[Piece]:
    """The pieces of an attention under `mask`; queries in no piece see nothing.

    Args:
        itemsize: bytes of an element of a written-out mask.
        values: whether lengths and segment ids may be read (not while compiling, and a stall on CUDA).
        triangle: whether torch's own causal triangle may be used.
        scores: whether all scores of a piece are written out, for each sample and head.
    """
    band = tightest(mask)
    others = tuple(m for m in parts(mask) if not isinstance(m, Causal | Window))
    pieces = [Piece(None, Run(0, size.queries), Run(0, size.keys), masks=others)]
    if values:
        # segments first: each then has its own run of keys, which lengths and the band cut further
        for cut in (_by_segment, _by_length):
            smaller: list[Piece] = []
            for piece in pieces:
                smaller += cut(piece, size)
            pieces = smaller
    cut_pieces: list[Piece] = []
    for piece in pieces:
        if isinstance(piece.rows, Tensor):
            cut_pieces += _by_budget(piece._replace(band=band), size, itemsize)
        else:
            cut_pieces += _by_band(piece, band, size, itemsize, device, triangle, scores)
    return cut_pieces


def tightest(mask: Mask | None) -> Limits:
    """The band that all causal masks and windows of `mask` leave: lowest and highest ``key - query``."""
    bands = [m.band for m in parts(mask) if isinstance(m, Causal | Window)]
    lows = [low for low, _ in bands if low is not None]
    highs = [high for _, high in bands if high is not None]
    return max(lows, default=None), min(highs, default=None)


def _samples(batch: Run | None, ids: Tensor, size: Size) -> Iterator[tuple[Run | None, int]]:
    """Each sample of a piece with its row in `ids`; one run of all where they share it."""
    if ids.shape[0] == 1:
        yield batch, 0
        return
    for b in range(*(batch or Run(0, size.batch))):
        yield Run(b, b + 1), b


def _runs(ids: Tensor) -> dict[int, Where] | None:
    """Where each id ≥ 0 stands; None if one of them stands in several places."""
    runs: dict[int, Where] = {}
    values, counts = torch.unique_consecutive(ids, return_counts=True)
    start = 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value >= 0:
            if value in runs:
                return None
            runs[value] = Run(start, start + count)
        start += count
    return runs


def _by_segment(piece: Piece, size: Size) -> Iterator[Piece]:
    """One piece per packed sequence: two runs where its tokens stand together, else their positions."""
    segments = [m for m in piece.masks if isinstance(m, Segments)]
    if not segments:
        yield piece
        return
    query, key = _ids_of(segments)
    rest = tuple(m for m in piece.masks if not isinstance(m, Segments))
    per_sample = query if query.shape[0] > 1 else key
    for batch, b in _samples(piece.batch, per_sample, size):
        # ids that all samples share stand in one row
        query_ids, key_ids = query[min(b, query.shape[0] - 1)], key[min(b, key.shape[0] - 1)]
        queries, keys = _runs(query_ids), _runs(key_ids)
        if queries is None or keys is None:
            queries, keys = _groups(query_ids), _groups(key_ids)
        for name, rows in queries.items():
            if name in keys:
                yield Piece(batch, rows, keys[name], masks=rest)


def _stacked(ids: list[Tensor]) -> Tensor:
    """(batch or 1, length, sets): the ids of several sets of segments side by side."""
    return torch.stack(torch.broadcast_tensors(*[of_one.cpu().long() for of_one in ids]), -1)


def _ids_of(segments: list[Segments]) -> tuple[Tensor, Tensor]:
    """(batch or 1, length): ids of queries and keys; of several sets of segments, one id per combination that occurs."""
    if len(segments) == 1:
        return segments[0].query.cpu(), segments[0].keys.cpu()
    query = _stacked([mask.query for mask in segments])
    key = _stacked([mask.keys for mask in segments])
    every = torch.cat([query.flatten(0, 1), key.flatten(0, 1)])
    combined = torch.unique(every, dim=0, return_inverse=True)[1].masked_fill((every < 0).any(-1), -1)
    count = query.shape[0] * query.shape[1]
    return combined[:count].view(query.shape[:2]), combined[count:].view(key.shape[:2])


def _groups(ids: Tensor) -> dict[int, Where]:
    """The positions of each id ≥ 0, wherever they stand."""
    order = ids.argsort(stable=True)
    values, counts = torch.unique_consecutive(ids[order], return_counts=True)
    groups = zip(values.tolist(), order.split(counts.tolist()), strict=True)
    return {value: places for value, places in groups if value >= 0}


def _by_budget(piece: Piece, size: Size, itemsize: int) -> Iterator[Piece]:
    """Some rows of scattered queries at a time, so that what is written out for them stays small."""
    assert isinstance(piece.rows, Tensor)
    assert isinstance(piece.keys, Tensor)
    samples = size.batch if piece.batch is None else piece.batch.stop - piece.batch.start
    row = samples * size.heads * piece.keys.shape[0] * itemsize
    for rows in piece.rows.split(max(1, BUDGET // max(row, 1))):
        yield piece._replace(rows=rows)


def _by_length(piece: Piece, size: Size) -> Iterator[Piece]:
    """Keys end at the sample's length; samples stay together, under a mask of one row, where that costs little."""
    lengths = [m for m in piece.masks if isinstance(m, KeyLengths)]
    if not lengths or not isinstance(piece.rows, Run) or not isinstance(piece.keys, Run):
        yield piece
        return
    rest = tuple(m for m in piece.masks if not isinstance(m, KeyLengths))
    shortest = torch.stack([m.lengths.expand(size.batch) for m in lengths]).amin(0)
    ends = pick(shortest, 0, piece.batch).clamp(piece.keys.start, piece.keys.stop).tolist()
    longest = max(ends)
    if min(ends) == longest:
        yield piece._replace(keys=Run(piece.keys.start, longest), masks=rest)
        return
    # a small problem, or one with little padding: one call under a mask costs less than one call per sample
    few = (piece.rows.stop - piece.rows.start) * longest < 256 * 256
    if few or sum(ends) > 0.9 * len(ends) * longest:
        yield piece._replace(keys=Run(piece.keys.start, longest))
        return
    for b, end in zip(range(*(piece.batch or Run(0, size.batch))), ends, strict=True):
        yield Piece(Run(b, b + 1), piece.rows, Run(piece.keys.start, end), masks=rest)


def _by_band(
    piece: Piece, band: Limits, size: Size, itemsize: int, device: torch.device, triangle: bool, scores: bool
) -> Iterator[Piece]:
    """Only the keys that the band can reach, in runs of queries short enough that little is computed and masked for nothing."""
    assert isinstance(piece.rows, Run)
    assert isinstance(piece.keys, Run)
    low, high = band
    first, last = piece.keys.start, piece.keys.stop - 1
    start, stop = piece.rows.start, piece.rows.stop
    if high is not None:  # query i reaches key i + high: rows that end before the first key see nothing
        start = max(start, first - high)
    if low is not None:
        stop = min(stop, last - low + 1)
    if start >= stop or last < first or (low is not None and high is not None and low > high):
        return
    # an edge that no row of the piece meets needs no mask
    if high is not None and start + high >= last:
        high = None
    if low is not None and stop - 1 + low <= first:
        low = None
    if triangle and low is None and high is not None and start + high == first and not piece.masks:
        yield piece._replace(rows=Run(start, stop), keys=Run(first, min(last, stop - 1 + high) + 1), causal=True)
        return
    step = stop - start
    if low is not None and high is not None:
        step = NEAR[0] if high - low < 256 else NEAR[1]
    elif low is not None or high is not None:
        step = min(step, max(256, step // 8))
    if scores or piece.masks or (low, high) != (None, None):
        first_row = Part(rows=Run(start, start + 1))
        samples = heads = 1
        for mask in piece.masks:
            for tensor in (mask.allowed(size, first_row, device), mask.bias(size, first_row, device)):
                if tensor is not None:
                    samples = max(samples, tensor.shape[0])
                    heads = max(heads, tensor.shape[1])
        copies = samples * heads
        if scores:
            samples = size.batch if piece.batch is None else piece.batch.stop - piece.batch.start
            copies = size.heads * samples
        reach = last - first + 1
        if low is not None and high is not None:
            reach = step + high - low
        step = max(1, min(step, BUDGET // (copies * reach * itemsize)))
    for row in range(start, stop, step):
        end = min(row + step, stop)
        key_start = first if low is None else max(first, row + low)
        key_stop = last + 1 if high is None else min(last, end - 1 + high) + 1
        yield piece._replace(rows=Run(row, end), keys=Run(key_start, key_stop), band=(low, high))
