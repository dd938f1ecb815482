"""Landmark attention and Scatterbrain inside pretrained transformers models: "landmark", "scatterbrain".

::

    register_with_transformers("landmark")
    model.config.core_attention = {"landmark": {"block": 51}}
    model.set_attn_implementation("landmark")
    model(insert_landmarks(ids, landmark_id, every=50))

A `LandmarkMemory` cannot be had by name: it keeps keys without position, and transformers hands over rotated ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core_attention.masks import Causal, KeyLengths, Mask, Part, Size, parts
from core_attention.mechanisms.landmark.attention import landmark_attention
from core_attention.mechanisms.scatterbrain.local import SBLocalAttention
from core_attention.pretrained.transformers import options_of
from core_attention.pretrained.transformers_blocks import _each, _is_padding


class Visible(NamedTuple):
    """A mask that is padding, causal or not.

    Attributes:
        causal: whether a query sees no key after itself.
        first: place of the first query among the keys.
        keys: which keys are tokens, (batch, keys); None if all are.
    """

    causal: bool
    first: int
    keys: Tensor | None


def visible(name: str, q: Tensor, k: Tensor, mask: Mask | None, module: nn.Module) -> Visible:
    """What a layer's mask says, for a mechanism that knows padding and the causal rule.

    Raises:
        ValueError: any other mask (windows, biases of positions, patterns).
    """
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    kinds = parts(mask)
    causal = [m for m in kinds if isinstance(m, Causal)]
    if not all(isinstance(m, Causal | KeyLengths) or _is_padding(m) for m in kinds):
        found = " & ".join(type(m).__name__ for m in kinds)
        raise ValueError(
            f"{name} knows causal attention and padding; {type(module).__name__} asks for the mask {found}. "
            "Models with sliding windows or biases of positions keep their own attention"
        )
    if not size.queries or not size.keys:
        return Visible(bool(causal), 0, None)
    last = torch.tensor([size.queries - 1], device=q.device)
    row = None if mask is None else mask.allowed(size, Part(rows=last), q.device)
    keys = None if row is None or bool(row.all()) else row.expand(size.batch, 1, 1, size.keys)[:, 0, 0]
    if causal:
        return Visible(True, causal[0].offset, keys)
    # one decoded token comes without a causal mask: it stands at the last key that it sees
    single = size.queries == 1 and bool(getattr(module, "is_causal", False))
    behind = size.keys if keys is None else int(keys.any(0).nonzero().max()) + 1 if bool(keys.any()) else 1
    return Visible(single, behind - 1 if single else 0, keys)


def landmark(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Landmark attention; the input carries a landmark at the end of every block. Options: block (51).

    With padding, blocks are counted from each sample's first token.

    Raises:
        ValueError: attention that is not causal, or a mask other than padding.
    """
    options: dict[str, Any] = options_of(module, "landmark", {"block": 51})
    if not visible("landmark", q, k, mask, module).causal:
        raise ValueError(f"landmark is causal attention: {type(module).__name__} looks both ways, or across")
    return _each(q, k, v, mask, lambda q, k, v: landmark_attention(q, k, v, scale=scale, **options))


def scatterbrain(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Scatterbrain with a window, causal or not. Options: window (64), features (None: int(d ln d)), eps (0), seed (0) of the projection.

    Grouped key heads are repeated. Queries that continue a cache are computed by the definition, one row of scores each: the same
    numbers as in one pass over everything.

    Raises:
        ValueError: a mask other than padding and causal.
    """
    defaults = {"window": 64, "features": None, "eps": 0.0, "seed": 0}
    options: dict[str, Any] = options_of(module, "scatterbrain", defaults)
    seen = visible("scatterbrain", q, k, mask, module)
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    attend = _scatterbrain(q.shape[-1], scale, seen.causal, *(options[name] for name in defaults)).to(q.device)
    if not seen.first:
        return attend(q, k, v, mask=seen.keys)
    rows = torch.arange(seen.first, seen.first + q.shape[2], device=q.device)
    return (attend.matrices(q, k, mask=seen.keys, rows=rows).weights @ v.float()).to(v.dtype)


@lru_cache(maxsize=64)
def _scatterbrain(
    dim: int, scale: float, causal: bool, window: int, features: int | None, eps: float, seed: int
) -> SBLocalAttention:
    """One projection for every layer and call with the same options."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SBLocalAttention(dim, window, features=features, softmax_temp=scale, eps=eps, causal=causal).eval()
