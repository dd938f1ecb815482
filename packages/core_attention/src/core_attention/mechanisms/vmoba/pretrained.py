"""Mixture of blocks inside pretrained transformers models: "moba", "vmoba".

::

    register_with_transformers("moba")
    model.config.core_attention = {"moba": {"block": 256, "topk": 4}}
    model.set_attn_implementation("moba")
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from core_attention.masks import Causal, KeyLengths, Mask, Size, parts
from core_attention.mechanisms.vmoba.attention import mixture_of_blocks
from core_attention.mechanisms.vmoba.moba import moba_attention
from core_attention.pretrained.padding import each_sample, is_padding, require_self_attention
from core_attention.pretrained.transformers import options_of
from core_attention.routed.attention import merge_attention, routed_attention
from core_attention.routed.routes import RouteMask

_layer_numbers: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # of modules without a `layer_idx`


def moba(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Causal mixture of block attention. Options: block (512), topk (3), full_below (0).

    Returns:
        the output, (batch, heads, queries, width).

    Raises:
        ValueError: a mask that is not causal with padding (encoders, sliding windows, biases of positions).
    """
    options: dict[str, Any] = options_of(module, "moba", {"block": 512, "topk": 3, "full_below": 0})
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if not _is_causal(mask, size):
        kinds = " & ".join(type(part).__name__ for part in parts(mask)) or "none"
        raise ValueError(
            f"moba is causal attention with padding; {type(module).__name__} asks for the mask {kinds}. "
            "For encoders there is 'vmoba'; models with sliding windows or biases of positions keep their own attention"
        )
    return each_sample(q, k, v, mask, lambda q, k, v: moba_attention(q, k, v, scale=scale, **options))


def vmoba(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor:
    """Mixture of blocks over all tokens. Options: grid, chunks, prefix, and those of `mixture_of_blocks`.

    grid: (time, height, width) of the tokens; None: one line. chunks: the partitions that layers take in turn (default 64 tokens of a
    line), by ``layer_idx`` or, where layers have none, in the order of their first call. prefix: leading tokens off the grid (class
    tokens), which see all and are seen by all.

    Returns:
        the output, (batch, heads, tokens, width).

    Raises:
        ValueError: causal or cross attention, or a grid that does not hold the tokens.
    """
    defaults = {"grid": None, "chunks": (64,), "prefix": 0, "tau": 0.25, "topk": None, "group": "head_global"}
    options: dict[str, Any] = options_of(module, "vmoba", defaults | {"include_self": True, "full_below": 0})
    require_self_attention("vmoba", q, k, mask, module)
    grid, chunks, prefix = options.pop("grid"), options.pop("chunks"), options.pop("prefix")
    chunk = chunks[_layer_number(module) % len(chunks)]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = q.shape[2] - prefix
        sides = (tokens, 1, 1) if grid is None else tuple(grid)
        if not prefix:
            return mixture_of_blocks(q, k, v, grid=sides, chunk=chunk, scale=scale, **options)
        grid_q, grid_k, grid_v = (t[:, :, prefix:] for t in (q, k, v))
        # tokens of the grid: one softmax over their blocks and the prefix, merged from its two parts
        routed = mixture_of_blocks(
            grid_q, grid_k, grid_v, grid=sides, chunk=chunk, scale=scale, return_lse=True, **options
        )
        to_prefix = _attend_all(grid_q, k[:, :, :prefix], v[:, :, :prefix], scale)
        grid_out, _ = merge_attention([routed, to_prefix])
        prefix_out, _ = _attend_all(q[:, :, :prefix], k, v, scale)
        return torch.cat([prefix_out, grid_out], 2)

    return each_sample(q, k, v, mask, run)


def _layer_number(module: nn.Module) -> int:
    """The layer's number in its model; where it has none, by the order of first calls among layers of one config."""
    if getattr(module, "layer_idx", None) is not None:
        return int(module.layer_idx)  # type: ignore[arg-type]
    if module not in _layer_numbers:
        _layer_numbers[module] = sum(other.config is module.config for other in _layer_numbers)
    return _layer_numbers[module]


def _attend_all(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Full attention with its log-sum-exp."""
    one_block = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=q.device)
    everything = RouteMask(one_block, max(1, q.shape[2]), max(1, k.shape[2]))
    return routed_attention(q, k, v, everything, scale=scale, return_lse=True)


def _is_causal(mask: Mask | None, size: Size) -> bool:
    """Whether a mask is causal, aligned at the end or with room behind (a static cache), and padding."""
    kinds = parts(mask)
    if not all(isinstance(part, Causal | KeyLengths) or is_padding(part) for part in kinds):
        return False
    return size.queries == 1 or any(isinstance(part, Causal) for part in kinds)  # a single query needs no mask
