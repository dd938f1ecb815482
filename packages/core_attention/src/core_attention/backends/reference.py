"""Attention by its definition: readable, in float32 or float64, with the whole score matrix. What the other backends are tested with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core_attention.backends.dropout import Dropout, factors
from core_attention.backends.problem import Problem
from core_attention.masks import Mask, Part, Size, pick

NAME = "reference"


def why_not(problem: Problem) -> str | None:
    """Never: the definition computes everything."""
    return None


def scores(
    q: Float[Tensor, "b h queries d"],
    k: Float[Tensor, "b g keys d"],
    *,
    mask: Mask | None,
    scale: float,
    size: Size | None = None,
    part: Part | None = None,
) -> Float[Tensor, "b h queries keys"]:
    """``scale · q kᵀ + bias``, −inf where the mask hides; in float64 for float64 tensors and in float32 for all others.

    `q` and `k` are the rows that `part` picks from a problem of `size`; without them the whole problem.
    """
    size = size or Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    part = part or Part()
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    b, h, n, d = q.shape
    grouped = q.to(exact).reshape(b, k.shape[1], h // max(k.shape[1], 1), n, d) * scale
    s = torch.einsum("bgrqd,bgkd->bgrqk", grouped, k.to(exact)).reshape(b, h, n, k.shape[2])
    if mask is not None:
        bias, allowed = mask.bias(size, part, q.device), mask.allowed(size, part, q.device)
        if bias is not None:
            s = s + bias.to(exact)
        if allowed is not None:
            s = s.masked_fill(~allowed, float("-inf"))
    return s


def softmax(s: Float[Tensor, "... keys"]) -> tuple[Float[Tensor, "... keys"], Float[Tensor, "..."]]:
    """Softmax over the last dimension and its log-sum-exp; a row that is −inf throughout gives 0 and −inf, also in gradients."""
    if s.shape[-1] == 0:
        return s, s.new_full(s.shape[:-1], float("-inf"))
    top = s.detach().amax(-1, keepdim=True)
    empty = top == float("-inf")
    top = top.masked_fill(empty, 0)
    e = (s - top).exp()
    total = e.sum(-1, keepdim=True).masked_fill(empty, 1)
    return e / total, (top + total.log()).masked_fill(empty, float("-inf")).squeeze(-1)


def weighted(p: Float[Tensor, "b h queries keys"], v: Float[Tensor, "b g keys e"]) -> Float[Tensor, "b h queries e"]:
    """The sum of values under the weights `p`, each group of query heads with its value head."""
    b, h, n, keys = p.shape
    grouped = p.reshape(b, v.shape[1], h // max(v.shape[1], 1), n, keys)
    return torch.einsum("bgrqk,bgke->bgrqe", grouped, v.to(p.dtype)).reshape(b, h, n, v.shape[3])


def weights(
    q: Float[Tensor, "b h queries d"],
    k: Float[Tensor, "b g keys d"],
    *,
    mask: Mask | None,
    scale: float,
    rows: Tensor,
    heads: Tensor,
) -> Float[Tensor, "b heads rows keys"]:
    """The attention weights of some rows and heads only (`core_attention.capture` keeps these)."""
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if k.shape[1] > 1:
        head_keys = pick(k, 1, heads // (q.shape[1] // k.shape[1]))
    else:
        head_keys = k.expand(-1, heads.numel(), -1, -1)
    queries = q.index_select(1, heads).index_select(2, rows)
    part = Part(heads=heads, rows=rows)
    return softmax(scores(queries, head_keys, mask=mask, scale=scale, size=size, part=part))[0]


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    scale: float,
    return_lse: bool,
    dropout: Dropout | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `core_attention.attention`."""
    p, lse = softmax(scores(q, k, mask=mask, scale=scale))
    if dropout is not None:
        size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        p = p * factors(dropout, size, Part(), q.device).to(p.dtype)
    return weighted(p, v).to(q.dtype), lse if return_lse else None
