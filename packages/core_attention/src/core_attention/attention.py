"""The front door: one call for scaled dot-product attention, whatever computes it.

``softmax(scale · q kᵀ + bias) v`` with typed masks, grouped-query heads, values of another width, and rows without a visible key
giving 0. `backend="auto"` follows one rule (`core_attention.backends.choice.auto_order`); `explain` says what it takes and why each other was not.
At log level INFO (``-v`` of a command) the same is logged once per distinct problem.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from core_attention.backends import reference
from core_attention.backends.choice import BACKENDS, Explanation, choose, explain_shapes, explained
from core_attention.backends.problem import Problem, problem_of, sized
from core_attention.capture.recording import active, paused, record
from core_attention.masks import Mask, as_mask

__all__ = ["Explanation", "attention", "explain", "explain_shapes"]

_LOG = logging.getLogger(__name__)


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | Tensor | None = None,
    bias: Mask | Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: Literal[False] = False,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | Tensor | None = None,
    bias: Mask | Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def attention(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch kv_heads keys width"],
    v: Float[Tensor, "batch kv_heads keys value_width"],
    *,
    mask: Mask | Tensor | None = None,
    bias: Mask | Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scaled dot-product attention, ``softmax(scale · q kᵀ + bias) v`` (Vaswani et al. 2017, eq. 1).

    Args:
        q: queries; any length, also 0, contiguous or not.
        k: keys; their heads divide those of `q` (grouped-query attention), each shared by heads that follow one another.
        v: values, of any width.
        mask: which pairs are visible: a typed mask of `core_attention.masks`, or a bool tensor (True: visible) that broadcasts to
            (batch, heads, queries, keys). A query that sees no key gives 0, and 0 gradient.
        bias: added to the scaled scores: a typed bias, or a float tensor that broadcasts likewise.
        scale: factor of ``q kᵀ``; None: ``width ** -0.5``.
        backend: ``"auto"``, or one by name; see `core_attention.attention.explain`.
        return_lse: also return the natural log-sum-exp of each row's scores (−inf for a row without a visible key), with which
            attention over parts of the keys can be merged.

    Returns:
        (batch, heads, queries, value_width) in the dtype of `q`; with `return_lse` also (batch, heads, queries) in float32
        (float64 for float64 tensors). Half precision is accumulated in float32.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together (both are quoted), or an unknown backend.
        RuntimeError: the backend asked for cannot compute this; says why, and how to get it.
    """
    size = sized(q, k, v)
    full_mask = as_mask(mask, bias, size)
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    problem = problem_of(q, k, v, full_mask, return_lse)
    module = BACKENDS[choose(problem, backend)[0]]
    if not torch.compiler.is_compiling() and _LOG.isEnabledFor(logging.INFO):
        _log_choice(problem, backend)
    if active():
        # the map is computed beside the kernel from the same queries and keys; the output stays the same bit by bit
        record(
            "weights",
            lambda rows, heads: reference.weights(q, k, mask=full_mask, scale=factor, rows=rows, heads=heads),
            shape=(size.batch, size.heads, size.queries, size.keys),
            device=q.device,
        )
        with paused():
            out, lse = module.run(q, k, v, mask=full_mask, scale=factor, return_lse=return_lse)
    else:
        out, lse = module.run(q, k, v, mask=full_mask, scale=factor, return_lse=return_lse)
    return (out, lse) if return_lse and lse is not None else out


@cache
def _log_choice(problem: Problem, backend: str) -> None:
    """Logs once which backend a problem takes and why; ``-v`` of a command shows it."""
    _LOG.info("%s", explained(problem, backend))


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | Tensor | None = None,
    bias: Mask | Tensor | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Explanation:
    """Which backend `attention` would take for these tensors, and why each other would not be; computes nothing.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown backend.
        RuntimeError: the backend asked for cannot compute this.
    """
    full_mask = as_mask(mask, bias, sized(q, k, v))
    return explained(problem_of(q, k, v, full_mask, return_lse), backend)
