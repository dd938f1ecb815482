"""Attention by our Triton kernel: masks known by position (causal, window, lengths, segments) on CUDA, without a written-out mask."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core_attention.backends.dropout import Dropout
from core_attention.backends.pieces import tightest
from core_attention.backends.problem import Problem
from core_attention.backends.sdpa import with_factors
from core_attention.masks import KeyLengths, Mask, Segments, Size, parts
from core_attention.parts.first_order import first_order

if TYPE_CHECKING:
    from core_attention.backends.triton_kernels import Limits

NAME = "triton"
MASKS = {"Causal", "Window", "KeyLengths", "Segments", "Factorised"}
WIDEST = 256
INSTALLED = importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on any device (TRITON_INTERPRET=1, for tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(problem: Problem) -> str | None:
    """Why the kernel cannot compute `problem`; None if it can."""
    if not INSTALLED:
        return "triton is not installed; it comes with torch's CUDA builds for Linux"
    if problem.device != "cuda" and not interpreted():
        return f"the kernel runs on CUDA, the tensors are on {problem.device}"
    if problem.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the kernel computes in float32, the tensors are {problem.dtype}"
    if problem.dropout:
        return "the kernel drops no weights"
    width = problem.width + problem.factors
    if max(width, problem.value_width) > WIDEST:
        columns = f" (with {problem.factors} columns of the factorised bias)" if problem.factors else ""
        return f"the kernel takes widths up to {WIDEST}, these are {width}{columns} and {problem.value_width}"
    unknown = [name for name in problem.masks if name not in MASKS]
    if unknown:
        return f"the kernel knows masks by position ({', '.join(sorted(MASKS))}), not {', '.join(unknown)}"
    if problem.masks.count("Segments") > 1:
        return "the kernel takes one set of segments"
    return None


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
    q, k, mask = with_factors(q, k, mask, scale)
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    out, lse = _Kernel.apply(q, k, v, limits_of(mask, size, q.device), scale)
    return out, lse if return_lse else None


def limits_of(mask: Mask | None, size: Size, device: torch.device) -> Limits:
    """What the kernel needs of a mask that it knows."""
    from core_attention.backends.triton_kernels import Limits

    low, high = tightest(mask)
    lengths = [m.lengths.to(device).expand(size.batch) for m in parts(mask) if isinstance(m, KeyLengths)]
    segments = [m for m in parts(mask) if isinstance(m, Segments)]
    query_ids = key_ids = shortest = None
    if segments:
        query_ids = segments[0].query.to(device).contiguous()
        key_ids = segments[0].keys.to(device).contiguous()
    if lengths:
        shortest = torch.stack(lengths).amin(0).clamp(0, size.keys).int()
    return Limits(low, high, shortest, query_ids, key_ids)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, limits: Limits, scale: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        from core_attention.backends import triton_kernels as kernel

        out, lse = kernel.forward(q, k, v, limits, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.limits, ctx.scale = limits, scale
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from core_attention.backends import triton_kernels as kernel

        q, k, v, out, lse = ctx.saved_tensors
        grad = torch.zeros_like(out) if grad is None else grad
        return (*kernel.backward(q, k, v, out, lse, grad, grad_lse, ctx.limits, ctx.scale), None, None)
