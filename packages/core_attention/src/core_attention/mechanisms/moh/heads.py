"""Attention of the heads that each token chose, and of no others.

A head reads only the queries that selected it, against all keys (a dropped head still serves keys to other tokens). The queries of a head are
gathered, attended to in tiles, and put back; what was not selected is 0.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core_attention.parts.transforms import vmap_one_by_one
from core_attention.routed.attention import merge_attention
from core_attention.routed.tile import tile_backward, tile_forward

ROWS = 128  # selected queries in a tile under a causal mask; without such a mask a whole head is one tile


def selected_heads_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    selected: Bool[Tensor, "batch queries heads"],
    *,
    kv_head: Sequence[int] | None = None,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Softmax attention where `selected`, 0 elsewhere; costs in proportion to what is selected.

    Args:
        kv_head: the key head of each query head; by default groups of equal size.
        causal: query i of N sees keys up to ``keys − N + i``.
        key_mask: True = may be seen.
        scale: defaults to dim^-1/2.

    Returns:
        the outputs of all heads.

    Raises:
        ValueError: shapes that do not fit.
    """
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, selected {tuple(selected.shape)}"
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k must be (batch, heads, length, dim) with equal batch and dim: {shapes}")
    if k.shape[:3] != v.shape[:3] or tuple(selected.shape) != (q.shape[0], q.shape[2], q.shape[1]):
        raise ValueError(f"v must match k, and selected be (batch, queries, heads): {shapes}")
    if kv_head is None:
        if q.shape[1] % max(k.shape[1], 1):
            raise ValueError(f"query heads must be a multiple of key heads: {shapes}")
        group = q.shape[1] // k.shape[1]
        kv_head = [head // group for head in range(q.shape[1])]
    if len(kv_head) != q.shape[1] or any(not 0 <= i < k.shape[1] for i in kv_head):
        raise ValueError(
            f"kv_head must name one of {k.shape[1]} key heads for each of {q.shape[1]} heads, got {list(kv_head)}"
        )
    if causal and q.shape[2] > k.shape[2] > 0:
        raise ValueError(f"more queries than keys, although the last query is the last key: {shapes}")
    if key_mask is not None and tuple(key_mask.shape) != (k.shape[0], k.shape[2]):
        raise ValueError(f"key_mask must be (batch, keys) = {(k.shape[0], k.shape[2])}, got {tuple(key_mask.shape)}")
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    return _selected_heads(q, k, v, selected, key_mask, list(kv_head), causal, factor)[0]


class _Part(NamedTuple):
    """Keys begin … end − 1, and which of them each query of a tile sees, (batch, n or 1, keys); None: all of them."""

    begin: int
    end: int
    visible: Tensor | None


def _tiles(
    selected: Tensor, key_mask: Tensor | None, keys: int, causal: bool
) -> Iterator[tuple[int, Tensor, Tensor, list[_Part]]]:
    """Yields a head, its queries (batch, n) in order, which of them are selected, and the keys that they see.

    Under a causal mask these come in two parts: what is before all queries of the tile needs no mask, which over all keys would cost
    as much as a third of the products.
    """
    queries = selected.shape[1]
    by_head = selected.movedim(-1, 0)  # (heads, batch, queries)
    # the selected queries of each head and sample first, in their own order (stable)
    order = (~by_head).to(torch.uint8).argsort(dim=-1, stable=True)
    counts = by_head.sum(-1)
    # samples of a batch are computed together: the longest gives the tiles, `valid` says where the others end
    for head, longest in enumerate(counts.amax(1).tolist()):
        step = ROWS if causal else max(longest, 1)
        for start in range(0, longest, step):
            stop = min(start + step, longest)
            index = order[head, :, start:stop]
            valid = torch.arange(start, stop, device=index.device) < counts[head, :, None]
            parts = [_Part(0, keys, None)]
            if causal:
                position = index + keys - queries
                first = int(position.masked_fill(~valid, keys).min())
                # what pads a sample with fewer queries may stand anywhere, as it is dropped: here, where it widens no part
                position = position.masked_fill(~valid, first)
                last = int(position.max())
                parts = [_Part(0, first + 1, None)]
                if last > first:
                    near = torch.arange(first + 1, last + 1, device=index.device)
                    parts.append(_Part(first + 1, last + 1, near <= position[..., None]))
            if key_mask is not None:
                parts = [_hide_masked(part, key_mask) for part in parts]
            yield head, index, valid, parts


def _hide_masked(part: _Part, key_mask: Tensor) -> _Part:
    visible = key_mask[:, None, part.begin : part.end]
    if part.visible is not None:
        visible = part.visible & visible
    return part._replace(visible=visible)


def _gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows (batch, n) of one head's (batch, queries, dim), as (batch, 1, n, dim)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))[:, None]


@torch.library.custom_op("core_attention::selected_heads", mutates_args=())
def _selected_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    key_mask: Tensor | None,
    kv_head: Sequence[int],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, queries, value_dim) and log-sum-exp (batch, heads, queries)."""
    out = v.new_zeros(*q.shape[:3], v.shape[-1])
    lse = q.new_full(q.shape[:3], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
    if not k.shape[2] or not selected.numel():
        return out, lse
    for head, index, valid, parts in _tiles(selected, key_mask, k.shape[2], causal):
        rows, kv = _gather_rows(q[:, head], index), kv_head[head]
        results = []
        for begin, end, visible in parts:
            key, value = k[:, kv, None, begin:end], v[:, kv, None, begin:end]
            results.append(tile_forward(rows, key, value, visible, scale))
        tile_out, tile_lse = results[0] if len(results) == 1 else merge_attention(results)
        # rows that only pad a sample are written too, but as what an unselected query has: 0 and −∞
        tile_out = tile_out[:, 0].masked_fill(~valid[..., None], 0)
        out[:, head].scatter_(1, index[..., None].expand_as(tile_out), tile_out)
        lse[:, head].scatter_(1, index, tile_lse[:, 0].masked_fill(~valid, -torch.inf))
    return out, lse


@_selected_heads.register_fake
def _(q, k, v, selected, key_mask, kv_head, causal, scale):
    out = v.new_empty(*q.shape[:3], v.shape[-1])
    lse = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    return out, lse


@torch.library.custom_op("core_attention::selected_heads_backward", mutates_args=())
def _selected_heads_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    selected: Tensor,
    key_mask: Tensor | None,
    kv_head: Sequence[int],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    dq = torch.zeros_like(q, memory_format=torch.contiguous_format)
    dk = torch.zeros_like(k, memory_format=torch.contiguous_format)
    dv = torch.zeros_like(v, memory_format=torch.contiguous_format)
    if not k.shape[2] or not selected.numel():
        return dq, dk, dv
    for head, index, valid, parts in _tiles(selected, key_mask, k.shape[2], causal):
        kv = kv_head[head]
        # a row that only pads a sample has no gradient, so that it adds nothing to keys and values
        tile_grad = _gather_rows(grad[:, head], index).masked_fill(~valid[:, None, :, None], 0)
        tile_q, tile_out = _gather_rows(q[:, head], index), _gather_rows(out[:, head], index)
        tile_lse = lse[:, head].gather(1, index)[:, None].contiguous()
        for begin, end, visible in parts:
            key, value = k[:, kv, None, begin:end], v[:, kv, None, begin:end]
            tile_dq, tile_dk, tile_dv = tile_backward(tile_grad, tile_q, key, value, tile_out, tile_lse, visible, scale)
            tile_dq = tile_dq[:, 0].to(q.dtype).masked_fill(~valid[..., None], 0)
            # added, because a tile has up to two parts
            dq[:, head].scatter_add_(1, index[..., None].expand_as(tile_dq), tile_dq)
            dk[:, kv, begin:end] += tile_dk[:, 0]
            dv[:, kv, begin:end] += tile_dv[:, 0]
    return dq, dk, dv


@_selected_heads_backward.register_fake
def _(grad, q, k, v, *rest):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _setup(ctx, inputs, output) -> None:
    q, k, v, selected, key_mask, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output, selected, key_mask)


def _backward(ctx, grad, grad_lse):
    q, k, v, out, lse, selected, key_mask = ctx.saved_tensors
    grads = _selected_heads_backward(grad, q, k, v, out, lse, selected, key_mask, *ctx.rest)
    return *grads, None, None, None, None, None


_selected_heads.register_autograd(_backward, setup_context=_setup)
vmap_one_by_one(_selected_heads)
vmap_one_by_one(_selected_heads_backward)
