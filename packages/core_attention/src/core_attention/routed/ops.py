"""Routed attention as two opaque operators, so that `torch.compile` does not look inside, however it is computed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core_attention.parts.transforms import vmap_one_by_one
from core_attention.routed import count, tiles, triton
from core_attention.routed.routes import RouteIndex, RouteMask, Routes, RouteThreshold, heads_share


def as_tensors(routes: Routes) -> tuple[list[Tensor], int, int]:
    """Routes as the operators carry them: tensors and block sizes; blocks of 0 mean a threshold."""
    if isinstance(routes, RouteThreshold):
        tie = [] if routes.tie is None else [routes.tie]
        return [routes.score.detach(), routes.threshold.detach(), *tie], 0, 0
    given = routes.mask if isinstance(routes, RouteMask) else routes.index
    return [given], routes.query_block, routes.key_block


def _routes(tensors: Sequence[Tensor], query_block: int, key_block: int) -> Routes:
    if query_block == 0:
        return RouteThreshold(*tensors)
    kind = RouteMask if tensors[0].dtype == torch.bool else RouteIndex
    return kind(tensors[0], query_block, key_block)


def _outputs(q: Tensor, v: Tensor, tokens_first: bool) -> tuple[Tensor, Tensor]:
    """Empty output and log-sum-exp; tokens first in memory where a projection will want them so."""
    batch, heads, queries = q.shape[:3]
    sizes = (batch, queries, heads) if tokens_first else (batch, heads, queries)
    out = q.new_empty(*sizes, v.shape[3])
    lse = q.new_empty(batch, heads, queries, dtype=torch.promote_types(q.dtype, torch.float32))
    return out.transpose(1, 2) if tokens_first else out, lse


def _is_empty(q: Tensor, k: Tensor) -> bool:
    return q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] == 0


@torch.library.custom_op("core_attention::routed", mutates_args=())
def routed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    routes: Sequence[Tensor],
    key_mask: Tensor | None,
    query_block: int,
    key_block: int,
    causal: bool,
    scale: float,
    kernel: bool,
) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, queries, value dim) and log-sum-exp (batch, heads, queries)."""
    route = _routes(routes, query_block, key_block)
    out, lse = _outputs(q, v, not kernel and heads_share(route, q, k))
    if _is_empty(q, k):
        return out.zero_(), lse.fill_(-torch.inf)
    if kernel:
        return triton.forward(q, k, v, bias, route, key_mask, causal, scale)
    return tiles.forward(q, k, v, route, key_mask, causal, scale, out)


@routed.register_fake
def _(q, k, v, bias, routes, key_mask, query_block, key_block, causal, scale, kernel):
    return _outputs(q, v, not kernel and heads_share(_routes(routes, query_block, key_block), q, k))


@torch.library.custom_op("core_attention::routed_backward", mutates_args=())
def routed_backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    routes: Sequence[Tensor],
    key_mask: Tensor | None,
    query_block: int,
    key_block: int,
    causal: bool,
    scale: float,
    kernel: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, and of the bias (empty without one)."""
    no_bias = q.new_empty(0, dtype=torch.float32)
    if _is_empty(q, k):
        zeros = no_bias if bias is None else torch.zeros_like(bias)
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), zeros
    route = _routes(routes, query_block, key_block)
    if kernel:
        grads = triton.backward(grad, grad_lse, q, k, v, bias, out, lse, route, key_mask, causal, scale)
        dq, dk, dv, dbias = grads
        return dq, dk, dv, no_bias if dbias is None else dbias
    return *tiles.backward(grad, grad_lse, q, k, v, out, lse, route, key_mask, causal, scale), no_bias


@routed_backward.register_fake
def _(grad, grad_lse, q, k, v, bias, *rest):
    of_bias = q.new_empty(0, dtype=torch.float32) if bias is None else torch.empty_like(bias)
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), of_bias


def _setup(ctx, inputs, output):
    q, k, v, bias, routes, key_mask, *ctx.numbers = inputs
    # routes are one to three tensors, so what is optional stands before them
    ctx.has_bias, ctx.has_mask = bias is not None, key_mask is not None
    ctx.set_materialize_grads(False)
    optional = [t for t in (bias, key_mask) if t is not None]
    ctx.save_for_backward(q, k, v, *output, *optional, *routes)


def _backward(ctx, grad, grad_lse):
    q, k, v, out, lse, *rest = ctx.saved_tensors
    bias = rest.pop(0) if ctx.has_bias else None
    key_mask = rest.pop(0) if ctx.has_mask else None
    routes, others = [None] * len(rest), (None,) * (1 + len(ctx.numbers))
    if grad is None and grad_lse is None:
        return None, None, None, None, routes, *others
    if grad is None:  # the log-sum-exp alone was used
        grad = torch.zeros_like(out)
    *grads, dbias = routed_backward(grad, grad_lse, q, k, v, bias, out, lse, rest, key_mask, *ctx.numbers)
    if not ctx.has_bias:
        dbias = None
    return *grads, dbias, routes, *others


routed.register_autograd(_backward, setup_context=_setup)
count.register(torch.ops.core_attention.routed, torch.ops.core_attention.routed_backward, _routes)
vmap_one_by_one(routed)
vmap_one_by_one(routed_backward)
