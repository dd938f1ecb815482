"""Attention by torch's FlexAttention: block masks and factorised biases on CUDA, compiled on first use.

Never on the CPU: its CPU form has no backward pass and takes half a minute to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from core_attention.backends.dropout import Dropout
from core_attention.backends.problem import Problem
from core_attention.masks import (
    Additive,
    Blocks,
    Causal,
    Dense,
    Factorised,
    KeyLengths,
    Mask,
    Segments,
    Size,
    Window,
    parts,
)

NAME = "flex"
MASKS = {"Additive", "Blocks", "Causal", "Dense", "Factorised", "KeyLengths", "Segments", "Window"}


def why_not(problem: Problem) -> str | None:
    """Why FlexAttention cannot compute `problem`; None if it can."""
    if problem.device != "cuda":
        return f"FlexAttention is used on CUDA only (its CPU form has no backward pass), the tensors are on {problem.device}"
    if problem.dropout:
        return "FlexAttention drops no weights"
    unknown = [name for name in problem.masks if name not in MASKS]
    if unknown:
        return f"this backend hands FlexAttention no {', '.join(unknown)}"
    if problem.dtype == torch.float64:
        return "FlexAttention computes in float32, the tensors are torch.float64"
    widths = {problem.width, problem.value_width}
    if any(width & (width - 1) or width < 16 for width in widths):
        return f"FlexAttention takes widths that are powers of two from 16, these are {problem.width} and {problem.value_width}"
    return None


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    scale: float,
    return_lse: bool,
    dropout: Dropout | None = None,
    call: Callable[..., Any] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `core_attention.attention`; `call` replaces the compiled function (tests use the eager one)."""
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    mask_mods, biases = [], []
    for part in parts(mask):
        if isinstance(part, Additive | Factorised):
            biases.append(added(part))
        else:
            mask_mods.append(visible(part, q.device))
    block_mask = _block_mask(mask, mask_mods, size, q.device) if mask_mods else None
    out, lse = (call or _compiled())(
        q,
        k,
        v,
        score_mod=_summed(biases) if biases else None,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_lse=True,
    )
    return out, lse if return_lse else None


def _summed(biases: list[Callable[..., Tensor]]) -> Callable[..., Tensor]:
    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        for bias in biases:
            s = s + bias(b, h, i, j)
        return s

    return score


def _block_mask(mask: Mask | None, mask_mods: list[Callable[..., Tensor]], size: Size, device: torch.device) -> Any:
    """Which blocks FlexAttention walks: ours where a mask is given by blocks that fit its tiles, else computed from the mask."""
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask

    def together(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        allowed = mask_mods[0](b, h, i, j)
        for mask_mod in mask_mods[1:]:
            allowed = allowed & mask_mod(b, h, i, j)
        return allowed

    by_blocks = [m for m in parts(mask) if isinstance(m, Blocks)]
    if len(by_blocks) == 1 and all(side % 128 == 0 for side in by_blocks[0].sides):
        rows, columns = by_blocks[0].sides
        blocks = by_blocks[0].visible.to(device)
        # FlexAttention wants the visible blocks of each row first, in ascending order, and their number
        order = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
        return BlockMask.from_kv_blocks(
            blocks.sum(-1, dtype=torch.int32),
            order,
            BLOCK_SIZE=(rows, columns),
            mask_mod=together,
            seq_lengths=(size.queries, size.keys),
        )
    batch = size.batch if any(isinstance(m, KeyLengths | Segments | Dense | Blocks) for m in parts(mask)) else None
    heads = size.heads if any(isinstance(m, Dense | Blocks) for m in parts(mask)) else None
    return create_block_mask(together, batch, heads, size.queries, size.keys, device=str(device))


def visible(mask: Mask, device: torch.device) -> Callable[..., Tensor]:
    """The `mask_mod` of a mask: whether query i of head h of sample b sees key j."""
    if isinstance(mask, Causal | Window):
        low, high = mask.band
        if low is None:
            return lambda b, h, i, j: j - i <= high
        if high is None:
            return lambda b, h, i, j: j - i >= low
        return lambda b, h, i, j: (j - i >= low) & (j - i <= high)
    if isinstance(mask, KeyLengths):
        lengths = mask.lengths.to(device)
        return lambda b, h, i, j: j < lengths[_at(lengths, 0, b)]
    if isinstance(mask, Segments):
        query, key = mask.query.to(device), mask.keys.to(device)
        return lambda b, h, i, j: (
            (query[_at(query, 0, b), i] == key[_at(key, 0, b), j]) & (query[_at(query, 0, b), i] >= 0)
        )
    if isinstance(mask, Blocks):
        blocks, (rows, columns) = mask.visible.to(device), mask.sides
        return lambda b, h, i, j: blocks[_at(blocks, 0, b), _at(blocks, 1, h), i // rows, j // columns]
    if isinstance(mask, Dense):
        return _read(mask.visible)
    raise TypeError(f"no mask_mod for {type(mask).__name__}")


def added(mask: Additive | Factorised) -> Callable[..., Tensor]:
    """What a bias adds to the score of query i of head h of sample b with key j."""
    if isinstance(mask, Additive):
        return _read(mask.values)
    rows, columns, width = mask.rows, mask.columns, mask.columns.shape[-1]
    return lambda b, h, i, j: (
        rows[_at(rows, 0, b), _at(rows, 1, h), i, j // width]
        + columns[_at(columns, 0, b), _at(columns, 1, h), i, j % width]
    )


def _read(tensor: Tensor) -> Callable[..., Tensor]:
    full = tensor[(None,) * (4 - tensor.ndim)]
    return lambda b, h, i, j: full[_at(full, 0, b), _at(full, 1, h), _at(full, 2, i), _at(full, 3, j)]


def _at(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """The index along a dimension, which may have size 1 for all."""
    return index * 0 if tensor.shape[dim] == 1 else index
