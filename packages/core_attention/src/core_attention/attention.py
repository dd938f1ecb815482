"""The front door: one call for scaled dot-product attention, however it is computed.

``softmax(scale · q kᵀ + bias) v`` with typed masks, grouped-query heads, values of another width, and rows without a visible key
giving 0. `backend="auto"` follows one rule (`core_attention.backends.choice.auto_order`); `explain` says what it takes and why each other was not.
What torch's own call takes as it is goes straight to it and reads no value. A logger at INFO (``-v`` of a command) is told what is taken
once for every distinct problem.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from core_attention.backends import reference, sdpa
from core_attention.backends.choice import BACKENDS, Explanation, choose, explain_shapes, explained
from core_attention.backends.dropout import drawn
from core_attention.backends.hidden import without_hidden
from core_attention.backends.problem import FLOATS, Problem, problem_of, sized
from core_attention.capture.recording import active, paused, record
from core_attention.masks import Causal, Mask, as_mask

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
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
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
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
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
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scaled dot-product attention, ``softmax(scale · q kᵀ + bias) v`` (Vaswani et al. 2017, eq. 1).

    Under autocast, queries, keys and values are cast as torch's own `scaled_dot_product_attention` casts them.

    Args:
        q: queries; any length, also 0, contiguous or not.
        k: keys; their heads divide those of `q` (grouped-query attention), each shared by heads that follow one another.
        v: values, of any width.
        mask: which pairs are visible: a typed mask of `core_attention.masks`, or a bool tensor (True: visible), (queries, keys) or
            broadcastable to (batch, heads, queries, keys). A query that sees no key gives 0, and 0 gradient.
        bias: added to the scaled scores: a typed bias, or a float tensor that broadcasts likewise.
        key_mask: which keys are there (True) and not padding; hidden ones are not read.
        scale: factor of ``q kᵀ``; None: ``width ** -0.5``.
        dropout: share of the attention weights that are set to 0, the others divided by ``1 - dropout``; drawn from torch's generator
            (`torch.manual_seed`). A function does not know whether a model trains: pass 0 where it does not.
        backend: ``"auto"``, or one by name; see `core_attention.explain`.
        return_lse: also return the natural log-sum-exp of each row's scores (−inf for a row without a visible key), with which
            attention over parts of the keys can be merged.

    Returns:
        (batch, heads, queries, value_width) in the dtype of `q`; with `return_lse` also (batch, heads, queries) in float32
        (float64 for float64 tensors). Half precision is accumulated in float32.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together (they are quoted), a mask that can be read in two ways, a scale that is a
            tensor, or an unknown backend.
        RuntimeError: the backend asked for cannot compute this; says why, and how to get it.
    """
    plain = (
        bias is None
        and key_mask is None
        and backend == "auto"
        and not (return_lse or dropout or isinstance(scale, Tensor))
    )
    if plain and (mask is None or type(mask) is Causal) and _torch_takes(q, k, v) and not _watched():
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        queries, keys = q.shape[2], k.shape[2]
        shift = mask.shift(queries, keys)
        if shift >= keys - 1:  # the first query sees all, as one that is decoded from a cache does
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        if shift == 0 and (scale is None or scale > 0):  # torch's triangle multiplies −inf with the scale
            return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=True)
    kind = q.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        q, k, v = (_autocast(t, kind) for t in (q, k, v))
        with torch.autocast(kind, enabled=False):
            return _attention(q, k, v, mask, bias, key_mask, scale, dropout, backend, return_lse)
    return _attention(q, k, v, mask, bias, key_mask, scale, dropout, backend, return_lse)


def _written_out() -> bool:
    """Whether the call becomes part of a graph that can hold no operator of ours, so that the definition stands in it: ONNX, `torch.jit.trace`."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _torch_takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether shapes, dtypes and devices are such that torch's call needs neither a check nor a preparation of ours."""
    shape, other = q.shape, k.shape
    return (
        len(shape) == 4
        and other == v.shape
        and shape[0] == other[0]
        and shape[1] == other[1]
        and shape[3] == other[3]
        and shape[0] * shape[1] * shape[2] * shape[3] * other[2] != 0
        and q.dtype == k.dtype == v.dtype
        and q.dtype in FLOATS
        and q.device == k.device == v.device
    )


def _watched() -> bool:
    """Whether a capture or a logger needs to hear of this call."""
    return active() or (not torch.compiler.is_compiling() and _LOG.isEnabledFor(logging.INFO))


def _autocast(tensor: Tensor, kind: str) -> Tensor:
    """`tensor` as torch's own attention sees it under autocast, which leaves float64 alone."""
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(kind))


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | Tensor | None,
    bias: Mask | Tensor | None,
    key_mask: Tensor | None,
    scale: float | None,
    dropout: float,
    backend: str,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` of whatever torch's call does not take as it is."""
    if isinstance(scale, Tensor):
        raise ValueError(
            "scale is a number, got a tensor: for a learned one write attention(scale * q, k, v, ..., scale=1.0)"
        )
    size = sized(q, k, v)
    full_mask = as_mask(mask, bias, size, key_mask)
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    drop = drawn(dropout)
    problem = problem_of(q, k, v, full_mask, return_lse, dropout)
    module = BACKENDS[choose(problem, backend)[0]]
    if _written_out():
        module = reference
    if not torch.compiler.is_compiling() and _LOG.isEnabledFor(logging.INFO):
        _log_choice(problem, backend)
    lost = None
    if module is not sdpa or q.device.type != "cpu":
        q, k, v, lost = without_hidden(q, k, v, full_mask, size)
    if active():
        # the map is computed beside the kernel from the same queries and keys; the output stays the same bit by bit
        record(
            "weights",
            lambda rows, heads: reference.weights(q, k, mask=full_mask, scale=factor, rows=rows, heads=heads),
            shape=(size.batch, size.heads, size.queries, size.keys),
            device=q.device,
        )
        with paused():
            out, lse = module.run(q, k, v, mask=full_mask, scale=factor, return_lse=return_lse, dropout=drop)
    else:
        out, lse = module.run(q, k, v, mask=full_mask, scale=factor, return_lse=return_lse, dropout=drop)
    if lost is not None:
        out = out.masked_fill(lost[..., None], float("nan"))
        lse = None if lse is None else lse.masked_fill(lost, float("nan"))
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
    key_mask: Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
    return_lse: bool = False,
) -> Explanation:
    """Which backend `attention` would take for these tensors, and why each other would not be; computes nothing.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown backend.
        RuntimeError: the backend asked for cannot compute this.
    """
    full_mask = as_mask(mask, bias, sized(q, k, v), key_mask)
    return explained(problem_of(q, k, v, full_mask, return_lse, dropout), backend)
