"""Routed attention by torch's FlexAttention, on CUDA: what our kernel is compared with.

Never on the CPU: its CPU form has no backward pass and takes half a minute to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core_attention.backends.flex import _compiled
from core_attention.routed.routes import Routes, RouteThreshold, block_mask


def why_not(q: Tensor, v: Tensor) -> str | None:
    """Why FlexAttention cannot compute attention of these; None if it can."""
    if q.device.type != "cuda":
        return f"FlexAttention is used on CUDA only (its CPU form has no backward pass), the tensors are on {q.device.type}"
    if q.dtype == torch.float64:
        return "FlexAttention computes in float32, the tensors are torch.float64"
    if any(width & (width - 1) or width < 16 for width in (q.shape[3], v.shape[3])):
        return f"FlexAttention takes widths that are powers of two from 16, these are {q.shape[3]} and {v.shape[3]}"
    return None


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    routes: Routes,
    key_mask: Tensor | None,
    causal: bool,
    scale: float,
    *,
    call: Callable[..., Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; `call` replaces the compiled function (tests use the eager one)."""
    from torch.nn.attention.flex_attention import create_block_mask

    mask = visible(routes, q, k, key_mask, causal)
    block_mask = create_block_mask(mask, q.shape[0], q.shape[1], q.shape[2], k.shape[2], device=str(q.device))
    group = q.shape[1] // k.shape[1]

    def added(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert bias is not None
        return score + bias[_shared(bias, 0, b), _shared(bias, 1, h // group), j]

    out, lse = (call or _compiled())(
        q,
        k,
        v,
        score_mod=None if bias is None else added,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=group > 1,
        return_lse=True,
    )
    nothing = lse == -torch.inf
    return out.masked_fill(nothing[..., None], 0), lse


def visible(
    routes: Routes, q: Tensor, k: Tensor, key_mask: Tensor | None, causal: bool
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The `mask_mod`: whether query i of head h of sample b sees key j."""
    late = k.shape[2] - q.shape[2]
    given = routes.score if isinstance(routes, RouteThreshold) else block_mask(routes, k.shape[2])
    per = q.shape[1] // given.shape[1]  # query heads of a route head

    def chosen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        b, h = _shared(given, 0, b), h // per
        if not isinstance(routes, RouteThreshold):
            return given[b, h, i // routes.query_block, j // routes.key_block]
        score, limit = given[b, h, j], routes.threshold[b, h, i]
        equal = score == limit
        if routes.tie is not None:
            equal = equal & (j >= routes.tie[b, h, i])
        return ((score > limit) | equal) & (limit < torch.inf)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        visible_pair = chosen(b, h, i, j)
        if causal:
            visible_pair = visible_pair & (j <= i + late)
        return visible_pair if key_mask is None else visible_pair & key_mask[b, j]

    return mask


def _shared(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """The index along a dimension, which may have size 1 for all."""
    return index * 0 if tensor.shape[dim] == 1 else index
