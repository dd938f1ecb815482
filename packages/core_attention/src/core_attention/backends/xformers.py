"""Attention by xFormers' memory-efficient kernel: an extra, for those who must match a model that was run with it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from core_attention.backends.dropout import Dropout
from core_attention.backends.problem import Problem
from core_attention.masks import Causal, Mask

NAME = "xformers"
INSTALLED = importlib.util.find_spec("xformers") is not None


def why_not(problem: Problem) -> str | None:
    """Why xFormers cannot compute `problem`; None if it can."""
    if not INSTALLED:
        return "xformers is not installed: pip install 'attention-suite-core-attention[xformers]'"
    if problem.device != "cuda":
        return f"xformers' kernels run on CUDA, the tensors are on {problem.device}"
    if problem.dtype == torch.float64:
        return "xformers' kernels compute in float32, the tensors are torch.float64"
    if problem.masks not in ((), ("Causal",)):
        return f"this backend hands xformers no mask or a causal one, not {' & '.join(problem.masks)}"
    if problem.dropout:
        return "this backend hands xformers no dropout"
    if problem.return_lse and problem.needs_grad:
        return "xformers gives no gradient of the log-sum-exp"
    try:
        importlib.import_module("xformers.ops")
    except Exception as error:  # built for another torch: it fails in many ways
        return f"xformers is installed but its kernels do not load ({type(error).__name__}: {error}); its build must match torch {torch.__version__}"
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
    """See `core_attention.attention`. xFormers wants (batch, length, key heads, query heads of a key head, width)."""
    ops: Any = importlib.import_module("xformers.ops")
    group = q.shape[1] // k.shape[1]
    bias = None
    if isinstance(mask, Causal):
        if mask.offset not in (0, k.shape[2] - q.shape[2]):
            raise RuntimeError(
                f"xformers: a causal mask is aligned at the first or the last key, not shifted by {mask.offset}; use backend='sdpa'"
            )
        kinds = ops.fmha.attn_bias
        bias = kinds.LowerTriangularMask() if mask.offset == 0 else kinds.LowerTriangularFromBottomRightMask()

    def lay_out(t: Tensor) -> Tensor:
        t = t.transpose(1, 2)
        if group == 1:
            return t
        if t.shape[2] == q.shape[1]:
            return t.unflatten(2, (k.shape[1], group))
        return t.unsqueeze(3).expand(-1, -1, -1, group, -1)

    inputs = lay_out(q), lay_out(k), lay_out(v)
    lse = None
    if return_lse:
        out, lse = ops.memory_efficient_attention_forward_requires_grad(*inputs, attn_bias=bias, scale=scale)
        lse = lse.reshape(q.shape[0], q.shape[1], -1)[..., : q.shape[2]]
    else:
        out = ops.memory_efficient_attention(*inputs, attn_bias=bias, scale=scale)
    return out.flatten(2, -2).transpose(1, 2) if group > 1 else out.transpose(1, 2), lse
