"""`core_attention.factorised.attention` by torch's FlexAttention: the comparison of the Triton kernel on CUDA.

Never chosen on its own; on CPU it has no backward pass and takes half a minute to compile.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


@lru_cache(maxsize=1)
def _compiled():
    return torch.compile(flex_attention)


@lru_cache(maxsize=16)
def _causal_rows(rows: int, key_rows: int, columns: int, device: torch.device) -> BlockMask:
    def visible(b, h, i, j):  # query and key as numbers of tokens, row-major
        return i // columns + key_rows - rows >= j // columns

    return create_block_mask(visible, None, None, rows * columns, key_rows * columns, device=device)  # pyright: ignore[reportArgumentType]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_row: Tensor,
    by_column: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int,
    full_last: bool,
    content: bool,
    compiled: bool = True,
) -> Tensor:
    """Arguments as in `core_attention.factorised.triton.factorised`; `compiled=False` is FlexAttention's own slow definition."""
    rows, columns = q.shape[2:4]
    key_rows = k.shape[2]

    full_row = key_rows - 1 if full_last else key_rows  # the row whose window is everything; none has this number

    def bias(b, h, i, j):
        row, column = i // columns, i % columns
        return by_row[b, h, row, column, j // columns] + by_column[b, h, row, column, j % columns]

    # FlexAttention compiles what it is given, so that what is constant is decided here
    def bias_alone(value, b, h, i, j):
        return bias(b, h, i, j)

    def everywhere(value, b, h, i, j):
        return value + bias(b, h, i, j)

    def in_window(value, b, h, i, j):
        row = i // columns + key_rows - rows
        near = (row - j // columns <= window) | (row == full_row)
        return torch.where(near, value, 0.0) + bias(b, h, i, j)

    if not content:
        score = bias_alone
    elif window < 0:
        score = everywhere
    else:
        score = in_window
    mask = _causal_rows(rows, key_rows, columns, q.device) if causal else None
    call = _compiled() if compiled else flex_attention
    out = call(*(t.flatten(2, 3) for t in (q, k, v)), score_mod=score, block_mask=mask, scale=scale, enable_gqa=True)
    return out.unflatten(2, (rows, columns))  # pyright: ignore[reportAttributeAccessIssue]
