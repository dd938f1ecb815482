"""Multiply-accumulates of routed attention, for torch's counter of operations: those of the pairs that are seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core_attention.routed.routes import Routes, RouteThreshold, block_mask, blocks

ROWS = 1024  # queries whose keys are counted at once for a threshold


def seen_pairs(routes: Routes, q: Tensor, k: Tensor, *, causal: bool) -> int:
    """(query, key) pairs that are seen, over all samples and heads; padding of keys counts."""
    batch, heads, queries, _ = q.shape
    late = k.shape[2] - queries
    last = (
        torch.arange(queries, device=q.device) + late
        if causal
        else torch.full((queries,), k.shape[2] - 1, device=q.device)
    )
    if isinstance(routes, RouteThreshold):
        shape, count = routes.score.shape, 0
        position = torch.arange(k.shape[2], device=q.device)
        for start in range(0, queries, ROWS):
            rows = slice(start, start + ROWS)
            limit = routes.threshold[..., rows, None]
            pairs = (routes.score[..., None, :] >= limit) & (limit < torch.inf) & (position <= last[rows, None])
            count += int(pairs.sum())
    else:
        block_map = block_mask(routes, k.shape[2])
        shape = block_map.shape
        start = torch.arange(block_map.shape[3], device=q.device) * routes.key_block
        size = (k.shape[2] - start).clamp(max=routes.key_block)
        # keys of each block that each query may see
        visible = torch.minimum((last[:, None] - start + 1).clamp(min=0), size)
        short = blocks(queries, routes.query_block) * routes.query_block - queries
        visible = torch.nn.functional.pad(visible, (0, 0, 0, short)).unflatten(0, (-1, routes.query_block)).sum(1)
        count = int((block_map * visible).sum())
    return count * (batch // shape[0]) * (heads // shape[1])


def operations(routes: Routes, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, products: int) -> int:
    """Operations (two a multiply-accumulate) of `products` products with keys or values of each seen pair, half of them each."""
    return seen_pairs(routes, q, k, causal=causal) * (q.shape[3] + v.shape[3]) * products


def register(forward: Any, backward: Any, routes_of: Any) -> None:
    """Makes the two operators known to torch's counter."""
    from torch.utils.flop_counter import register_flop_formula

    @register_flop_formula(forward, get_raw=True)
    def _(
        q: Tensor, k: Tensor, v: Tensor, bias: Any, routes: Sequence[Tensor], key_mask: Any, *rest: Any, out_val: Any
    ) -> int:
        query_block, key_block, causal, *_ = rest
        return operations(routes_of(routes, query_block, key_block), q, k, v, causal=causal, products=2)

    @register_flop_formula(backward, get_raw=True)
    def _(
        grad: Any, grad_lse: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any, out: Any, lse: Any, routes: Sequence[Tensor], *rest: Any,
        out_val: Any,
    ) -> int:  # fmt: skip
        _key_mask, query_block, key_block, causal, *_ = rest
        return operations(routes_of(routes, query_block, key_block), q, k, v, causal=causal, products=5)
