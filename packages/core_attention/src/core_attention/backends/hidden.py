"""What a mask hides is not read: NaN behind `KeyLengths` or outside `Segments` reaches no output and no gradient.

A kernel that computes whole tiles multiplies hidden values by 0, and 0 · NaN is NaN. So they are overwritten before. The pieces of
`sdpa` on the CPU leave such keys out instead and need none of this.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core_attention.masks import Mask, Part, Segments, Size, parts


def without_hidden(
    q: Float[Tensor, "b h queries d"],
    k: Float[Tensor, "b g keys d"],
    v: Float[Tensor, "b g keys e"],
    mask: Mask | None,
    size: Size,
) -> tuple[Tensor, Tensor, Tensor, Bool[Tensor, "b h queries"] | None]:
    """Queries, keys and values that may be computed with as a whole, and the rows whose result is NaN nevertheless; reads no value.

    Keys behind lengths or a mask of keys become 0. With segments, tokens that hold NaN or inf become 0, and the queries of their segment
    are the rows that are NaN (with a causal mask also those before such a key).
    """
    lost = None
    for part in parts(mask):
        if part.by_key:
            allowed = part.allowed(size, Part(), q.device)
            if allowed is None:
                continue
            hidden = ~allowed[:, 0, 0][:, None, :, None]
            k, v = k.masked_fill(hidden, 0.0), v.masked_fill(hidden, 0.0)
        if isinstance(part, Segments):
            q, k, v, rows = _finite(q, k, v, part)
            lost = rows if lost is None else lost | rows
    return q, k, v, lost


def _finite(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens that are not finite as 0, and (batch, heads, queries): the queries whose segment has one."""
    batch, heads, kv_heads = q.shape[0], q.shape[1], k.shape[1]
    query = segments.query.to(q.device).long().expand(batch, -1)[:, None]
    key = segments.keys.to(q.device).long().expand(batch, -1)[:, None]
    bad_query = ~q.detach().isfinite().all(-1)
    bad_key = ~(k.detach().isfinite().all(-1) & v.detach().isfinite().all(-1))
    q = q.masked_fill(bad_query[..., None], 0.0)
    k, v = k.masked_fill(bad_key[..., None], 0.0), v.masked_fill(bad_key[..., None], 0.0)
    if bad_key.shape[-1] == 0:
        return q, k, v, bad_query & (query >= 0)
    # a query is lost if its id is among those of the bad keys
    bad_ids = key.masked_fill(~bad_key, -1).sort(-1).values
    expanded = query.expand(-1, kv_heads, -1).contiguous()
    place = torch.searchsorted(bad_ids, expanded).clamp(max=bad_ids.shape[-1] - 1)
    met = (bad_ids.gather(-1, place) == expanded).repeat_interleave(heads // max(kv_heads, 1), 1)
    return q, k, v, (met | bad_query) & (query >= 0)
