"""Landmark attention inside pretrained transformers models: "landmark".

::

    register_with_transformers("landmark")
    model.config.core_attention = {"landmark": {"block": 51}}
    model.set_attn_implementation("landmark")
    model(insert_landmarks(ids, landmark_id, every=50))

A `LandmarkMemory` cannot be had by name: it keeps keys without position, and transformers hands over rotated ones.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from core_attention.masks import Mask
from core_attention.mechanisms.landmark.attention import landmark_attention
from core_attention.pretrained.padding import each_sample, visible
from core_attention.pretrained.transformers import options_of


def landmark(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Landmark attention; the input carries a landmark at the end of every block. Options: block (51).

    With padding, blocks are counted from each sample's first token.

    Returns:
        the output, (batch, heads, queries, width).

    Raises:
        ValueError: attention that is not causal, or a mask other than padding.
    """
    options: dict[str, Any] = options_of(module, "landmark", {"block": 51})
    if not visible("landmark", q, k, mask, module).causal:
        raise ValueError(f"landmark is causal attention: {type(module).__name__} looks both ways, or across")
    return each_sample(q, k, v, mask, lambda q, k, v: landmark_attention(q, k, v, scale=scale, **options))
