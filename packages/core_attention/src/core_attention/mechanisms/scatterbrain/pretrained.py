"""Scatterbrain inside pretrained transformers models: "scatterbrain"."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.masks import Mask
from core_attention.mechanisms.scatterbrain.local import SBLocalAttention
from core_attention.pretrained.padding import visible
from core_attention.pretrained.transformers import options_of


def scatterbrain(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Scatterbrain with a window, causal or not. Options: window (64), features (None: int(d ln d)), eps (0), seed (0) of the projection.

    Grouped key heads are repeated. Queries that continue a cache are computed by the definition, one row of scores each: the same
    numbers as in one pass over everything.

    Returns:
        the output, (batch, heads, queries, width).

    Raises:
        ValueError: a mask other than padding and causal.
    """
    defaults = {"window": 64, "features": None, "eps": 0.0, "seed": 0}
    options: dict[str, Any] = options_of(module, "scatterbrain", defaults)
    visibility = visible("scatterbrain", q, k, mask, module)
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    attend = _shared_module(q.shape[-1], scale, visibility.causal, **options).to(q.device)
    if not visibility.first:
        return attend(q, k, v, mask=visibility.keys)
    rows = torch.arange(visibility.first, visibility.first + q.shape[2], device=q.device)
    weights = attend.matrices(q, k, mask=visibility.keys, rows=rows).weights
    return (weights @ v.float()).to(v.dtype)


@lru_cache(maxsize=64)
def _shared_module(
    dim: int, scale: float, causal: bool, window: int, features: int | None, eps: float, seed: int
) -> SBLocalAttention:
    """One projection for every layer and call with the same options."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SBLocalAttention(dim, window, features=features, softmax_temp=scale, eps=eps, causal=causal).eval()
