"""What a backend needs to know to say whether it can compute an attention: shapes, dtypes and kinds of masks, no tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core_attention.masks import Causal, Factorised, Mask, Size, names, parts, tensors_of

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Problem(NamedTuple):
    """An attention problem without its data.

    Args:
        size: batch, query heads, queries, keys.
        kv_heads: heads of keys and values; divides the query heads.
        width: width of a query and a key.
        value_width: width of a value.
        dtype: of queries, keys and values.
        device: device type (``"cpu"``, ``"cuda"``, ``"mps"``).
        masks: class names of the masks, empty without one.
        aligned: causal masks are aligned at the first query and key, as torch's own.
        factors: rows and columns of factorised biases: what their one-hot places add to the width.
        needs_grad: a gradient of queries, keys, values or a bias is asked for.
        return_lse: the log-sum-exp is asked for too.
        dropout: weights are dropped.
    """

    size: Size
    kv_heads: int
    width: int
    value_width: int
    dtype: torch.dtype
    device: str
    masks: tuple[str, ...] = ()
    aligned: bool = True
    factors: int = 0
    needs_grad: bool = False
    return_lse: bool = False
    dropout: bool = False


def sized(q: Tensor, k: Tensor, v: Tensor) -> Size:
    """The size of an attention problem.

    Raises:
        ValueError: the shapes, dtypes or devices do not fit together; both are quoted.
    """
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.is_nested:
            raise ValueError(
                f"{name} is a nested tensor: pad it and pass key_mask=, or pack it into one row and pass Segments"
            )
        if t.ndim != 4:
            raise ValueError(f"{name} needs shape (batch, heads, length, width), got {tuple(t.shape)}")
        if t.dtype not in FLOATS:
            raise ValueError(f"{name} needs one of {', '.join(str(kind) for kind in FLOATS)}, got {t.dtype}")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"batch (and heads and length of k and v) must agree: {shapes}")
    if q.shape[-1] != k.shape[-1] or q.shape[-1] == 0:
        raise ValueError(f"q and k need one non-zero width: {shapes}")
    if q.shape[1] != k.shape[1] and (k.shape[1] == 0 or q.shape[1] % k.shape[1]):
        raise ValueError(f"the heads of k and v must divide the heads of q: {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v need one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v must be on one device, got {q.device}, {k.device}, {v.device}")
    return Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])


def problem_of(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, return_lse: bool, dropout: float = 0.0) -> Problem:
    """The `Problem` of tensors that fit together (see `sized`)."""
    aligned = True
    factors = 0
    for part in parts(mask):
        if isinstance(part, Causal):
            aligned = aligned and part.offset == 0
        elif isinstance(part, Factorised):
            factors += part.rows.shape[-1] + part.columns.shape[-1]
    return Problem(
        size=Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2]),
        kv_heads=k.shape[1],
        width=q.shape[3],
        value_width=v.shape[3],
        dtype=q.dtype,
        device=q.device.type,
        masks=names(mask),
        aligned=aligned,
        factors=factors,
        needs_grad=torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *tensors_of(mask))),
        return_lse=return_lse,
        dropout=dropout > 0,
    )
