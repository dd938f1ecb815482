"""Top-k blocks inside pretrained transformers models: "routed_topk"."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from core_attention.masks import Mask
from core_attention.pretrained.padding import each_sample, require_self_attention
from core_attention.pretrained.transformers import options_of
from core_attention.routed.topk import topk_block_attention


def routed_topk(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Each block of queries attends to the best blocks of keys. Options: block (64), topk (4).

    Returns:
        the output, (batch, heads, queries, width).

    Raises:
        ValueError: causal or cross attention.
    """
    options: dict[str, Any] = options_of(module, "routed_topk", {"block": 64, "topk": 4})
    require_self_attention("routed_topk", q, k, mask, module)
    return each_sample(q, k, v, mask, lambda q, k, v: topk_block_attention(q, k, v, scale=scale, **options))
