"""Weights of a few queries beside a fused kernel, with the mask that a layer of transformers was given."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core_attention.masks import Part
from core_attention.pretrained.transformers import MaskTensor


def row_weights(
    query: Float[Tensor, "batch heads rows dim"],
    key: Float[Tensor, "batch key_heads keys dim"],
    visible: Tensor | None,
    scale: float,
) -> Float[Tensor, "batch heads rows keys"]:
    """The softmax of some rows over all keys, in float32 (float64 of float64); grouped key heads are not copied.

    Args:
        query: the rows.
        key: all keys.
        visible: bool, or added to the scores; broadcast to (batch, heads, rows, keys). None: all keys.
        scale: of the scores.

    Returns:
        weights, (batch, heads, rows, keys); 0 in a row that sees nothing.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    batch, heads, rows, dim = query.shape
    grouped = query.to(exact).reshape(batch, key.shape[1], -1, dim)
    scores = (grouped * scale) @ key.to(exact).transpose(2, 3)
    scores = scores.reshape(batch, heads, rows, key.shape[2])
    if visible is not None and visible.dtype == torch.bool:
        scores = scores.masked_fill(~visible, float("-inf"))
    elif visible is not None:
        scores = scores + visible
    weights = scores.softmax(-1)
    # a row of padding may see nothing at all
    return weights.nan_to_num(0.0) if visible is not None else weights


def times_values(
    weights: Float[Tensor, "batch heads rows keys"], value: Float[Tensor, "batch key_heads keys dim"]
) -> Float[Tensor, "batch heads rows dim"]:
    """``weights · value`` with grouped heads."""
    batch, heads, rows, keys = weights.shape
    grouped = weights.reshape(batch, value.shape[1], -1, keys)
    return (grouped @ value.to(weights.dtype)).reshape(batch, heads, rows, value.shape[3])


def visible_rows(
    attention_mask: Any,
    rows: slice,
    *,
    first: int,
    keys: int,
    window: int | None,
    device: torch.device,
) -> Tensor | None:
    """What some queries of a causal layer see, from the mask that its attention function was given.

    Args:
        attention_mask: None, a (batch, keys) mask of padding, a 4-D mask (bool or added), or our typed mask.
        rows: of the queries.
        first: position of query 0 among the keys.
        keys: number of keys.
        window: of a sliding layer whose function was given no mask.
        device: where it is wanted.

    Returns:
        bool or added, to be broadcast to (batch, heads, rows, keys); None where all keys are seen.

    Raises:
        ValueError: any other mask (of flex attention).
    """
    if isinstance(attention_mask, MaskTensor):
        if attention_mask.typed is None:
            return None
        places = torch.arange(rows.start, rows.stop, device=device)
        return attention_mask.typed.allowed(attention_mask.extent, Part(rows=places), device)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        given = attention_mask if attention_mask.shape[2] == 1 else attention_mask[:, :, rows]
        return given[..., :keys]
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.ndim == 2):
        raise ValueError(
            f"var_sink: a {type(attention_mask).__name__} as attention mask cannot be read; "
            "load the model with attn_implementation='sdpa'"
        )
    places = torch.arange(keys, device=device)
    queries = first + torch.arange(rows.start, rows.stop, device=device)
    visible: Bool[Tensor, "rows keys"] = places <= queries[:, None]
    if window is not None:
        visible = visible & (places > queries[:, None] - window)
    if attention_mask is None:
        return visible[None, None]
    return visible[None, None] & attention_mask.bool()[:, None, None, -keys:]
