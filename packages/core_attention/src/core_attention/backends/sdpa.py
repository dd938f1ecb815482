"""Attention by torch's `scaled_dot_product_attention`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core_attention.backends import reference
from core_attention.backends.problem import Problem
from core_attention.masks import Causal, Mask, Part, Size

NAME = "sdpa"


def why_not(problem: Problem) -> str | None:
    """Never: what torch's call does not take is prepared for it."""
    return None


def run(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """See `core_attention.attention`."""
    if return_lse:
        return reference.run(q, k, v, mask=mask, scale=scale, return_lse=True)
    gqa = q.shape[1] != k.shape[1]
    if mask is None or (isinstance(mask, Causal) and mask.offset == 0):
        return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=mask is not None, enable_gqa=gqa), None
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    allowed, bias = mask.allowed(size, Part(), q.device), mask.bias(size, Part(), q.device)
    if bias is not None:
        bias = bias.to(q.dtype)
        allowed = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=gqa), None
