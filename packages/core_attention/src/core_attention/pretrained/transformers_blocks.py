"""Mixture of blocks and top-k blocks inside pretrained transformers models: "moba", "vmoba", "routed_topk".

::

    register_with_transformers("moba")
    model.config.core_attention = {"moba": {"block": 256, "topk": 4}}
    model.set_attn_implementation("moba")

Padding is handled by computing each padded sample alone on its own tokens, so a sample's result does not depend on how it was padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from core_attention.masks import Causal, Dense, KeyLengths, Mask, Part, Size, parts
from core_attention.mechanisms.vmoba.attention import mixture_of_blocks
from core_attention.mechanisms.vmoba.moba import moba_attention
from core_attention.pretrained.transformers import options_of
from core_attention.routed import RouteMask, merge_attention, routed_attention
from core_attention.routed.topk import topk_block_attention

Run = Callable[[Tensor, Tensor, Tensor], Tensor]
_places: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def moba(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Causal mixture of block attention. Options: block (512), topk (3), full_below (0).

    Raises:
        ValueError: a mask that is not causal with padding (encoders, sliding windows, biases of positions).
    """
    options: dict[str, Any] = options_of(module, "moba", {"block": 512, "topk": 3, "full_below": 0})
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if not _is_causal(mask, size):
        found = " & ".join(type(m).__name__ for m in parts(mask)) or "none"
        raise ValueError(
            f"moba is causal attention with padding; {type(module).__name__} asks for the mask {found}. "
            "For encoders there is 'vmoba'; models with sliding windows or biases of positions keep their own attention"
        )
    return _each(q, k, v, mask, lambda q, k, v: moba_attention(q, k, v, scale=scale, **options))


def vmoba(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Mixture of blocks over all tokens. Options: grid, chunks, prefix, and those of `mixture_of_blocks`.

    grid: (time, height, width) of the tokens; None: one line. chunks: the partitions that layers take in turn (default 64 tokens of a
    line), by ``layer_idx`` or, where layers have none, in the order of their first call. prefix: leading tokens off the grid (class
    tokens), which see all and are seen by all.

    Raises:
        ValueError: causal or cross attention, or a grid that does not hold the tokens.
    """
    defaults = {"grid": None, "chunks": (64,), "prefix": 0, "tau": 0.25, "topk": None, "group": "head_global"}
    options: dict[str, Any] = options_of(module, "vmoba", defaults | {"include_self": True, "full_below": 0})
    _refuse("vmoba", q, k, mask, module)
    grid, chunks, prefix = options.pop("grid"), options.pop("chunks"), options.pop("prefix")
    chunk = chunks[_place(module) % len(chunks)]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = q.shape[2] - prefix
        sides = (tokens, 1, 1) if grid is None else tuple(grid)
        inner = [t[:, :, prefix:] for t in (q, k, v)]
        if not prefix:
            return mixture_of_blocks(q, k, v, grid=sides, chunk=chunk, scale=scale, **options)
        routed = mixture_of_blocks(*inner, grid=sides, chunk=chunk, scale=scale, return_lse=True, **options)
        to_prefix = _all(inner[0], k[:, :, :prefix], v[:, :, :prefix], scale)
        patches, _ = merge_attention([routed, to_prefix])
        return torch.cat([_all(q[:, :, :prefix], k, v, scale)[0], patches], 2)

    return _each(q, k, v, mask, run)


def routed_topk(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Each block of queries attends to the best blocks of keys. Options: block (64), topk (4).

    Raises:
        ValueError: causal or cross attention.
    """
    options: dict[str, Any] = options_of(module, "routed_topk", {"block": 64, "topk": 4})
    _refuse("routed_topk", q, k, mask, module)
    return _each(q, k, v, mask, lambda q, k, v: topk_block_attention(q, k, v, scale=scale, **options))


def _place(module: nn.Module) -> int:
    """The layer's number in its model."""
    if getattr(module, "layer_idx", None) is not None:
        return int(module.layer_idx)  # type: ignore[arg-type]
    if module not in _places:
        _places[module] = sum(other.config is module.config for other in _places)
    return _places[module]


def _all(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Full attention with its log-sum-exp."""
    everything = RouteMask(
        torch.ones(1, 1, 1, 1, dtype=torch.bool, device=q.device), max(1, q.shape[2]), max(1, k.shape[2])
    )
    return routed_attention(q, k, v, everything, scale=scale, return_lse=True)


def _is_causal(mask: Mask | None, size: Size) -> bool:
    """Whether a mask is causal, aligned at the end or with room behind (a static cache), and padding."""
    kinds = parts(mask)
    padding = all(isinstance(m, Causal | KeyLengths) or _is_padding(m) for m in kinds)
    return padding and (size.queries == 1 or any(isinstance(m, Causal) for m in kinds))


def _is_padding(mask: Mask) -> bool:
    return (
        isinstance(mask, Dense)
        and (mask.visible.ndim < 2 or mask.visible.shape[-2] == 1)
        and all(n == 1 for n in mask.visible.shape[1:-2])
    )


def _refuse(name: str, q: Tensor, k: Tensor, mask: Mask | None, module: nn.Module) -> None:
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"{name} is self-attention over all tokens; {type(module).__name__} has {q.shape[2]} queries and {k.shape[2]} keys"
        )
    if not all(isinstance(m, KeyLengths) or _is_padding(m) for m in parts(mask)):
        raise ValueError(
            f"{name} chooses blocks with tokens to come, so it cannot be causal, windowed or biased as {type(module).__name__} "
            "asks; for causal language models there is 'moba'"
        )


def _each(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, run: Run) -> Tensor:
    """Runs the batch at once, or where there is padding each sample on its own tokens; queries that are padding give 0."""
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    last = torch.tensor([size.queries - 1], device=q.device)
    seen = None if mask is None else mask.allowed(size, Part(rows=last), q.device)
    if seen is None or bool(seen.all()):
        return run(q, k, v)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    for b, row in enumerate(seen.expand(size.batch, 1, 1, size.keys)[:, 0, 0]):
        keys = row.nonzero()[:, 0]
        if not len(keys):
            continue
        first, stop = int(keys[0]), int(keys[-1]) + 1
        if len(keys) != stop - first:
            raise ValueError(
                f"the tokens of sample {b} are not one run: padding inside a sequence has no place in blocks"
            )
        # with a static cache the keys end where the last query stands, whose row this is; queries end with them
        behind = _queries_behind(mask, size, stop)
        start = max(first, behind - size.queries)
        rows = slice(start - (behind - size.queries), stop - (behind - size.queries))
        one = slice(b, b + 1)
        out[one, :, rows] = run(q[one, :, rows], k[one, :, first:stop], v[one, :, first:stop])
    return out


def _queries_behind(mask: Mask | None, size: Size, stop: int) -> int:
    """The key position behind the last query's own."""
    shifts = [m.offset for m in parts(mask) if isinstance(m, Causal)]
    if shifts:
        return size.queries + shifts[0]
    return stop if size.queries == 1 else size.keys
