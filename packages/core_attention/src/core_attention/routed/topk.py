"""Top-k blocks without weights: bi-level routing's choice on plain sequences, for each head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core_attention.routed.attention import Backend, routed_attention
from core_attention.routed.routes import RouteIndex, blocks, check_heads


def topk_block_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    *,
    block: int = 64,
    topk: int = 4,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Each block of queries attends to the `topk` blocks of keys whose mean fits its mean query best.

    Not for causal attention: a query's choice depends on the later queries of its block (see `core_attention.mechanisms.vmoba.moba`).

    Raises:
        ValueError: useless `block` or `topk`, or shapes that do not fit one another.
    """
    if block < 1 or topk < 1:
        raise ValueError(f"block and topk must be at least 1, got {block} and {topk}")
    check_heads(q, k, v)
    with torch.no_grad():
        means = [_means(t, block) for t in (q, k)]
        fits = means[0] @ means[1].repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3)
        fits = fits.masked_fill(fits.isnan(), -torch.inf)
        best = fits.sort(dim=-1, descending=True, stable=True).indices[..., :topk]
    return routed_attention(q, k, v, RouteIndex(best, block, block), scale=scale, backend=backend)


def _means(x: Tensor, block: int) -> Tensor:
    """The mean of each block in at least float32; the last may be short."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    count = blocks(x.shape[2], block)
    size = torch.full((count, 1), block, device=x.device, dtype=x.dtype)
    if count:
        size[-1] = x.shape[2] - (count - 1) * block
    x = torch.nn.functional.pad(x, (0, 0, 0, count * block - x.shape[2]))
    return x.unflatten(2, (count, block)).sum(3) / size
