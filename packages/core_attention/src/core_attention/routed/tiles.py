"""Routed attention in plain torch, tile by tile: the path of the CPU.

`plan` cuts the work into dense tiles; only one tile's keys and scores exist at a time. The backward pass walks the
same plan again.
"""

import functools
import math
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from core_attention.routed.plan import GATHERED, Ids, Tile, plan, problem
from core_attention.routed.routes import Routes, blocks, heads_share
from core_attention.routed.tile import tile_backward, tile_forward

BIASED = 1 << 21  # elements of a tile's additive mask


def _cut(x: Tensor, size: int, shared: bool) -> Tensor:
    """(batch, heads, length, dim) → (batch, heads, blocks, size, dim), padded only where the last block is short.

    With routes shared by all heads a tile takes all heads of a block, so tokens-first memory is left as it is.
    """
    count = blocks(x.shape[2], size)
    if count * size != x.shape[2]:
        x = F.pad(x, (0, 0, 0, count * size - x.shape[2]))
    if not (shared and x.transpose(1, 2).is_contiguous()):
        x = x.contiguous()
    return x.unflatten(2, (count, size))


def _blank(like: Tensor, dim: int, shared: bool, kind: torch.dtype) -> Tensor:
    """Zeros in the blocks of `like`, tokens first in memory if routes are shared."""
    batch, heads, count, size = like.shape[:4]
    if shared:
        return like.new_zeros(batch, count, size, heads, dim, dtype=kind).permute(0, 3, 1, 2, 4)
    return like.new_zeros(batch, heads, count, size, dim, dtype=kind)


def _tokens_first(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.permute(1, 2, 0, 3).is_contiguous()


class _Room(threading.local):
    """Memory that gathered blocks are written to again and again, a thread its own: fresh pages for every tile and call would cost
    more than the copy. Rooms beyond the size of a usual tile last only as long as their call."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def of(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A contiguous tensor of this shape, valid until the next of this name."""
        key, count = (name, like.dtype, like.device), math.prod(shape)
        if key not in self.held or self.held[key].numel() < count:
            with torch.inference_mode(False):  # else it could not serve training later
                self.held[key] = torch.empty(max(count, GATHERED // 2), dtype=like.dtype, device=like.device)
        return self.held[key][:count].view(shape)

    def shrink(self) -> None:
        """Gives back what is larger than a usual tile."""
        for key, held in list(self.held.items()):
            if held.numel() > GATHERED // 2 or held.device.type != "cpu":
                del self.held[key]


_room = _Room()


def _gather_blocks(x: Tensor, ids: Ids | None, units: int, name: str = "") -> Tensor:
    """(heads, blocks, size, dim), (units, n) → (units, heads, n·size, dim); a view where `ids` is a range or everything.

    With a `name` the result lasts until the next of that name.
    """
    if ids is None:
        return x.flatten(1, 2).expand(units, -1, -1, -1)
    if isinstance(ids, range):
        return x[:, ids.start : ids.stop].transpose(0, 1)
    flat = ids.flatten().clamp(min=0)  # an empty slot is masked later
    rows = ids.shape[1] * x.shape[2]
    tokens_first = _tokens_first(x)
    x, axis = (x.permute(1, 2, 0, 3), 0) if tokens_first else (x, 1)
    if not name:
        taken = x.index_select(axis, flat)
    else:
        shape = [*x.shape[:axis], flat.numel(), *x.shape[axis + 1 :]]
        taken = torch.index_select(x, axis, flat, out=_room.of(name, shape, x))
    if tokens_first:
        return taken.view(units, rows, *x.shape[2:]).transpose(1, 2)
    return taken.view(x.shape[0], units, rows, *x.shape[3:]).transpose(0, 1)


def _scatter_blocks(x: Tensor, ids: Ids, value: Tensor, *, add: bool) -> None:
    """The reverse of `_gather_blocks`, in place: value (units, heads, n·size, …) into x (heads, blocks, size, …)."""
    if isinstance(ids, range):
        place = x[:, ids.start : ids.stop]
        if add:
            place.add_(value.transpose(0, 1))
        else:
            place.copy_(value.transpose(0, 1))
        return
    value = value.to(x.dtype)
    flat = ids.flatten().clamp(min=0)  # an empty slot adds zeros to block 0
    if _tokens_first(x):
        x, axis = x.permute(1, 2, 0, 3), 0
        value = value.transpose(1, 2).reshape(flat.numel(), *x.shape[1:])
    else:
        axis = 1
        value = value.transpose(0, 1).reshape(x.shape[0], flat.numel(), *x.shape[2:])
    if add:
        x.index_add_(axis, flat, value)
    else:
        x.index_copy_(axis, flat, value)


def _whole(x: Tensor, like: Tensor) -> Tensor:
    """(batch, heads, blocks, size, dim) → the shape, memory order and dtype of `like`."""
    x = x.flatten(2, 3)[:, :, : like.shape[2], : like.shape[3]]
    if x.stride() == like.stride() and x.dtype == like.dtype:
        return x
    return torch.empty_like(like).copy_(x)


def _spread(x: Tensor, heads: slice) -> Tensor:
    """One key head for a group of query heads, without a copy."""
    count = heads.stop - heads.start
    return x if x.shape[1] == count else x.expand(-1, count, -1, -1)


def _slabs(tile: Tile, rows: int, keys: int) -> Iterator[tuple[int, int]]:
    """Stretches of a tile's rows; where some pairs are hidden, short enough that a mask of them stays small."""
    step = rows
    if tile.seen is not None:
        step = max(1, BIASED // (len(tile.rows) * keys))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def forward(
    q: Tensor, k: Tensor, v: Tensor, routes: Routes, key_mask: Tensor | None, causal: bool, scale: float, final: Tensor
) -> tuple[Tensor, Tensor]:
    """Output, in `final` or as it, and log-sum-exp; no axis is empty."""
    sizes = problem(q, k, v, routes, causal, key_mask)
    shared = heads_share(routes, q, k)
    tiles, merging = plan(sizes, routes)
    wide = torch.promote_types(q.dtype, torch.float32)
    qs, ks, vs = (_cut(t, s, shared) for t, s in ((q, sizes.query_block), (k, sizes.key_block), (v, sizes.key_block)))
    out = _blank(qs, v.shape[3], shared, wide if merging else q.dtype)
    lse = q.new_full(qs.shape[:4], -torch.inf, dtype=wide)
    for tile in tiles:
        units = len(tile.rows)
        query = _gather_blocks(qs[tile.batch, tile.heads], tile.rows, units)
        key = _spread(_gather_blocks(ks[tile.batch, tile.kv_heads], tile.cols, units, "k"), tile.heads)
        value = _spread(_gather_blocks(vs[tile.batch, tile.kv_heads], tile.cols, units, "v"), tile.heads)
        outs, lses = [], []
        for start, stop in _slabs(tile, query.shape[2], key.shape[2]):
            visible = tile.seen and tile.seen(start, stop)
            o, l = tile_forward(query[:, :, start:stop], key, value, visible, scale)
            outs.append(o)
            lses.append(l)
        o, l = outs[0], lses[0]
        if len(outs) > 1:
            o, l = torch.cat(outs, 2), torch.cat(lses, 2)
        if merging:
            # these rows have met other keys in an earlier tile: both parts are weighed by their log-sum-exp
            before = _gather_blocks(lse[tile.batch, tile.heads], tile.rows, units)
            after = torch.logaddexp(before, l)
            safe = after.masked_fill(after == -torch.inf, 0)
            earlier = _gather_blocks(out[tile.batch, tile.heads], tile.rows, units)
            o = earlier * (before - safe).exp()[..., None] + o * (l - safe).exp()[..., None]
            l = after
        _scatter_blocks(out[tile.batch, tile.heads], tile.rows, o, add=False)
        _scatter_blocks(lse[tile.batch, tile.heads], tile.rows, l, add=False)
    _room.shrink()
    return _whole(out, final), lse.flatten(2, 3)[:, :, : q.shape[2]].contiguous()


def backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    routes: Routes,
    key_mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    sizes = problem(q, k, v, routes, causal, key_mask)
    shared, values = heads_share(routes, q, k), v
    if grad_lse is not None:
        # ds = p (dp − grad·out + grad_lse): a value channel that is 0, whose "output" is −grad_lse and whose gradient is 1
        v, grad = F.pad(v, (0, 1)), F.pad(grad, (0, 1), value=1.0)
        out = torch.cat([out, -grad_lse[..., None].to(out.dtype)], -1)
    tiles, merging = plan(sizes, routes, GATHERED // 2)  # a tile holds gradients of what it gathers too
    qs, outs, grads = (_cut(t, sizes.query_block, shared) for t in (q, out, grad))
    lses = _cut(lse[..., None], sizes.query_block, False)[..., 0]
    ks, vs = (_cut(t, sizes.key_block, shared) for t in (k, v))
    wide = torch.promote_types(q.dtype, torch.float32)
    dq = torch.zeros_like(qs, dtype=wide if merging else q.dtype)
    dk, dv = torch.zeros_like(ks, dtype=wide), torch.zeros_like(vs, dtype=wide)
    for tile in tiles:
        units = len(tile.rows)
        query, o, g, l = (_gather_blocks(t[tile.batch, tile.heads], tile.rows, units) for t in (qs, outs, grads, lses))
        key = _spread(_gather_blocks(ks[tile.batch, tile.kv_heads], tile.cols, units, "k"), tile.heads)
        value = _spread(_gather_blocks(vs[tile.batch, tile.kv_heads], tile.cols, units, "v"), tile.heads)
        of_queries, of_keys, of_values = [], [], []
        for start, stop in _slabs(tile, query.shape[2], key.shape[2]):
            g_rows, q_rows, o_rows, l_rows = (t[:, :, start:stop] for t in (g, query, o, l))
            visible = tile.seen and tile.seen(start, stop)
            d_query, d_key, d_value = tile_backward(g_rows, q_rows, key, value, o_rows, l_rows, visible, scale)
            of_queries.append(d_query)
            of_keys.append(d_key)
            of_values.append(d_value)
        _scatter_blocks(dq[tile.batch, tile.heads], tile.rows, torch.cat(of_queries, 2), add=merging)
        for total, parts in ((dk, of_keys), (dv, of_values)):
            share = functools.reduce(torch.add, parts)
            # query heads that share a key head add up
            if share.shape[1] != tile.kv_heads.stop - tile.kv_heads.start:
                share = share.sum(1, keepdim=True)
            if tile.cols is None:
                total[tile.batch, tile.kv_heads] += share.sum(0).unflatten(1, total.shape[2:4])
            else:
                _scatter_blocks(total[tile.batch, tile.kv_heads], tile.cols, share, add=True)
    _room.shrink()
    return _whole(dq, q), _whole(dk, k), _whole(dv, values)
