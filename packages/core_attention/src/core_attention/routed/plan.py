"""How a routed attention is cut into dense tiles.

- query-major: a chunk of query blocks, each with its own gathered list of key blocks (long query blocks);
- key-major: one key block with all the queries that chose it; partial results are joined by their log-sum-exp
  (short query blocks, as when every query chooses for itself);
- threshold: a stretch of queries with the keys that at least one of them keeps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core_attention.routed.routes import RouteIndex, RouteMask, Routes, RouteThreshold, blocks, sorted_index

GATHERED = 1 << 19  # elements of keys and values that one tile gathers: stays in the second-level cache
QUERY_STRETCH = 128  # queries of a threshold tile


Ids = Tensor | range


class Tile(NamedTuple):
    """A dense attention between query blocks `rows` and key blocks `cols`, for the heads of one batch item.

    `rows` is (units, row blocks) and `cols` (units, key blocks); a range has one block per unit, in order; None as `cols` are all
    keys in order. `seen(start, stop)` is the boolean (units, 1 or rows, keys) of the query rows start…stop of each unit,
    None where everything is seen.
    """

    batch: int
    heads: slice
    kv_heads: slice
    rows: Ids
    cols: Ids | None
    seen: Callable[[int, int], Tensor] | None


@dataclass(frozen=True)
class Problem:
    """The sizes that a plan needs."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    width: int  # elements of a key and its value together
    query_block: int
    key_block: int
    causal: bool
    key_mask: Tensor | None

    @property
    def late(self) -> int:
        """Position of query 0 among the keys."""
        return self.keys - self.queries

    def head_groups(self, route_heads: int) -> Iterator[tuple[int, slice, slice]]:
        """(route head, query heads, key/value heads) that share keys and route: one key head, or one query head a key head."""
        group = self.heads // self.kv_heads
        if route_heads == self.heads:
            for h in range(self.heads):
                yield h, slice(h, h + 1), slice(h // group, h // group + 1)
        elif group == 1:
            yield 0, slice(0, self.heads), slice(0, self.heads)
        else:
            for j in range(self.kv_heads):
                yield j if route_heads > 1 else 0, slice(j * group, (j + 1) * group), slice(j, j + 1)

    def causal_parts(self, rows: Tensor, column: int) -> tuple[Tensor, Tensor]:
        """Of the ascending query blocks that chose a key block: those that the diagonal cuts, and those after it."""
        begin, end = column * self.key_block, min((column + 1) * self.key_block, self.keys) - 1
        first = rows * self.query_block + self.late
        inside = (first + self.query_block - 1 >= begin) & (first < end)
        return rows[inside], rows[first >= end]

    def seen(self, batch: int, rows: Ids, cols: Ids, gaps: bool) -> Callable[[int, int], Tensor] | None:
        """The visibility inside a tile of blocks, or None where every key of it is seen by every row; `gaps`: cols may hold −1."""
        last = self.keys // self.key_block if self.keys % self.key_block else None  # the short block
        reached = cols.stop - 1 if isinstance(cols, range) else int(cols.max())
        short = last is not None and reached >= last
        if not (self.causal or gaps or short or self.key_mask is not None):
            return None
        device = next((t.device for t in (self.key_mask, rows, cols) if isinstance(t, Tensor)), None)
        rows, cols = _as_tensor(rows, device), _as_tensor(cols, device)
        future = self.causal and bool(
            ((cols.amax(-1) + 1) * self.key_block - 1 > rows.amin(-1) * self.query_block + self.late).any()
        )
        if not (future or gaps or short or self.key_mask is not None):
            return None
        key = _positions(cols, self.key_block)
        allowed = (cols >= 0).repeat_interleave(self.key_block, 1) & (key < self.keys)
        if self.key_mask is not None:
            allowed &= self.key_mask[batch][key.clamp(0, self.keys - 1)]
        if not future:
            return lambda start, stop: allowed[:, None, :]
        query = _positions(rows, self.query_block) + self.late
        return lambda start, stop: allowed[:, None, :] & (key[:, None, :] <= query[:, start:stop, None])


def _as_tensor(ids: Ids, device: torch.device | None) -> Tensor:
    """A range as one block per unit."""
    return torch.tensor(ids, device=device)[:, None] if isinstance(ids, range) else ids


def _positions(ids: Tensor, size: int) -> Tensor:
    return (ids[:, :, None] * size + torch.arange(size, device=ids.device)).flatten(1)


def _query_major(problem: Problem, index: Tensor, elements: int) -> Iterator[Tile]:
    every = blocks(problem.keys, problem.key_block)
    for b in range(problem.batch):
        for h, heads, kv_heads in problem.head_groups(index.shape[1]):
            listed = index[b % index.shape[0], h]
            count = (listed >= 0).sum(-1)
            least, most = (int(size) for size in count.aminmax()) if count.numel() else (0, 0)
            order = None if least == most else count.argsort(descending=True, stable=True)
            sizes = [most] * len(count) if order is None else count[order].tolist()
            start = 0
            while start < len(sizes) and sizes[start]:
                wide = sizes[start]
                gathered = wide * problem.key_block * problem.width * (kv_heads.stop - kv_heads.start)
                stop = min(len(sizes), start + max(1, elements // gathered))
                rows = range(start, stop) if order is None else order[start:stop, None]
                cols = listed[start:stop, :wide] if order is None else listed[order[start:stop], :wide]
                gaps = sizes[stop - 1] < wide
                visible = problem.seen(b, rows, cols, gaps)
                yield Tile(b, heads, kv_heads, rows, None if wide == every and not gaps else cols, visible)
                start = stop


def _key_major(problem: Problem, routes: RouteIndex | RouteMask) -> Iterator[Tile]:
    every = blocks(problem.keys, problem.key_block)
    block_map = routes.mask if isinstance(routes, RouteMask) else sorted_index(routes, problem.queries, problem.keys)
    for b in range(problem.batch):
        for h, heads, kv_heads in problem.head_groups(block_map.shape[1]):
            table = block_map[b % block_map.shape[0], h]
            if isinstance(routes, RouteMask):
                column, row = table.T.nonzero(as_tuple=True)
            else:
                row, slot = (table >= 0).nonzero(as_tuple=True)
                column, order = table[row, slot].sort(stable=True)
                row = row[order]
            for c, rows in enumerate(row.split(torch.bincount(column, minlength=every).tolist())):
                for part in problem.causal_parts(rows, c) if problem.causal else (rows,):
                    if len(part):
                        part, cols = part[None], range(c, c + 1)
                        yield Tile(b, heads, kv_heads, part, cols, problem.seen(b, part, cols, False))


def _threshold(problem: Problem, score: Tensor, threshold: Tensor, tie: Tensor | None) -> Iterator[Tile]:
    for b in range(problem.batch):
        for h, heads, kv_heads in problem.head_groups(score.shape[1]):
            s, limit = score[b % score.shape[0], h], threshold[b % score.shape[0], h]
            oldest = None if tie is None else tie[b % score.shape[0], h]
            for tile in range(blocks(problem.queries, QUERY_STRETCH)):
                start, stop = tile * QUERY_STRETCH, min((tile + 1) * QUERY_STRETCH, problem.queries)
                end = stop + problem.late if problem.causal else problem.keys
                low = limit[start:stop].nan_to_num(torch.inf, torch.inf, -torch.inf).amin()
                above = (s[:end] >= low) & (low < torch.inf)
                if problem.key_mask is not None:
                    above &= problem.key_mask[b, :end]
                cols = above.nonzero().T
                if cols.shape[1]:
                    yield Tile(
                        b,
                        heads,
                        kv_heads,
                        torch.tensor([[tile]], device=s.device),
                        cols,
                        _passes(problem, s, limit, oldest, start, cols[0]),
                    )


def _passes(
    problem: Problem, score: Tensor, limit: Tensor, tie: Tensor | None, first: int, key: Tensor
) -> Callable[[int, int], Tensor]:
    value = score[key]

    def seen(start: int, stop: int) -> Tensor:
        # rows beyond the last query (the stretch is padded) see nothing
        query = torch.arange(first + start, min(first + stop, problem.queries), device=key.device)
        bound = limit[query, None]
        passed = value > bound
        equal = value == bound
        passed |= equal if tie is None else equal & (key >= tie[query, None])
        passed &= bound < torch.inf
        if problem.causal:
            passed &= key <= query[:, None] + problem.late
        return F.pad(passed, (0, 0, 0, stop - start - len(query)))[None]

    return seen


def plan(problem: Problem, routes: Routes, gathered: int = GATHERED) -> tuple[Iterator[Tile], bool]:
    """The tiles of a problem, each gathering about `gathered` elements at most, and whether a query row may come in several."""
    if isinstance(routes, RouteThreshold):
        return _threshold(problem, routes.score, routes.threshold, routes.tie), False
    given = routes.mask if isinstance(routes, RouteMask) else routes.index
    slots = given.float().mean().item() * given.shape[3] if isinstance(routes, RouteMask) else given.shape[3]
    rows_a_key_block = given.shape[2] * slots / max(1, blocks(problem.keys, routes.key_block))
    if routes.query_block < 32 and routes.key_block >= 16 and rows_a_key_block >= 2:
        return _key_major(problem, routes), True
    index = sorted_index(routes, problem.queries, problem.keys, causal=problem.causal)
    return _query_major(problem, index, gathered), False


def problem(q: Tensor, k: Tensor, v: Tensor, routes: Routes, causal: bool, key_mask: Tensor | None) -> Problem:
    """The sizes of one call."""
    stretch = isinstance(routes, RouteThreshold)
    return Problem(
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        queries=q.shape[2],
        keys=k.shape[2],
        width=k.shape[3] + v.shape[3],
        query_block=QUERY_STRETCH if stretch else routes.query_block,
        key_block=1 if stretch else routes.key_block,
        causal=causal,
        key_mask=key_mask,
    )
