"""`core_attention.factorised` by torch's FlexAttention: the comparison of the Triton kernel on CUDA.

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
    def visible(b, h, query, key):
        return query // columns + key_rows - rows >= key // columns

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
    """Arguments as in `core_attention.kernels.mvpa.factorised`; `compiled=False` is FlexAttention's own slow definition."""
    rows, columns = q.shape[2:4]
    key_rows = k.shape[2]

    def score(value, b, h, query, key):
        row, key_row = query // columns + key_rows - rows, key // columns
        bias = (
            by_row[b, h, query // columns, query % columns, key_row]
            + by_column[b, h, query // columns, query % columns, key % columns]
        )
        if not content:
            return bias
        if window < 0:
            return value + bias
        near = row - key_row <= window
        if full_last:
            near = near | (row == key_rows - 1)
        return torch.where(near, value, 0.0) + bias

    mask = _causal_rows(rows, key_rows, columns, q.device) if causal else None
    call = _compiled() if compiled else flex_attention
    out = call(*(t.flatten(2, 3) for t in (q, k, v)), score_mod=score, block_mask=mask, scale=scale, enable_gqa=True)
    return out.unflatten(2, (rows, columns))  # pyright: ignore[reportAttributeAccessIssue]
