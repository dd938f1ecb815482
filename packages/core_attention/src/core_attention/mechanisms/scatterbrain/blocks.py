"""Scatterbrain whose exact pairs are the blocks of a fixed layout (BigBird, Longformer, or any)."""

from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from core_attention.mechanisms.scatterbrain.attention import Features, Options, ScatterbrainAttention, check_inputs
from core_attention.parts.placing import Device, placed
from core_attention.routed.attention import routed_attention
from core_attention.routed.routes import RouteMask

Layout = Bool[Tensor, "query_blocks key_blocks"]


def longformer_layout(query_blocks: int, key_blocks: int, *, window: int = 3, globals_: int = 1) -> Layout:
    """`window` blocks around the diagonal, and the first `globals_` blocks seeing and seen by all (Beltagy et al. 2020)."""
    i, j = torch.arange(query_blocks)[:, None], torch.arange(key_blocks)
    return ((i - j).abs() <= window // 2) | (i < globals_) | (j < globals_)


def bigbird_layout(
    query_blocks: int,
    key_blocks: int,
    *,
    window: int = 3,
    globals_: int = 1,
    random: int = 1,
    generator: torch.Generator | None = None,
) -> Layout:
    """`longformer_layout` and `random` more blocks in each row (Zaheer et al. 2020)."""
    layout = longformer_layout(query_blocks, key_blocks, window=window, globals_=globals_)
    # numbers in [0, 1) for the free blocks, so that those of the layout come last
    chance = torch.rand(query_blocks, key_blocks, generator=generator).masked_fill(layout, 2.0)
    more = chance.argsort(dim=-1)[:, : min(random, key_blocks)]
    return layout | torch.zeros_like(layout).scatter(-1, more, True)


def fixed_layout(query_blocks: int, key_blocks: int, *, stripe: int = 4) -> Layout:
    """Blocks of the query's own stripe, and the last block of every stripe (Child et al. 2019, "fixed")."""
    i, j = torch.arange(query_blocks)[:, None], torch.arange(key_blocks)
    return (i // stripe == j // stripe) | (j % stripe == stripe - 1)


def scatterbrain_block_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    features: Features,
    layout: Layout,
    *,
    block: int,
    softmax_temp: float | None = None,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Exact on the blocks of `layout` (`routed_attention`), low-rank on the others, joined by their log-sum-exp.

    What lies outside the layout is summed as such: each block of keys is a state φ(k)ᵀ v, and a block of queries reads the states of the blocks
    that it does not see exactly. Rows without a visible key give 0.

    Args:
        layout: exact blocks, the same for all samples and heads.
        block: tokens in a block; the last block may be shorter.
        causal: no key after the query, both counted from 0.

    The other arguments are those of `scatterbrain_local_attention`.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, or a layout of another number of blocks.
    """
    check_inputs(q, k, v, key_mask)
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    q_blocks, k_blocks = -(-queries // block), -(-keys // block)
    if tuple(layout.shape) != (q_blocks, k_blocks):
        raise ValueError(
            f"layout {tuple(layout.shape)} is not the ({q_blocks}, {k_blocks}) blocks of {block} "
            f"in q {tuple(q.shape)}, k {tuple(k.shape)}"
        )
    if causal and queries != keys:
        raise ValueError(f"causal blocks need as many queries as keys: q {tuple(q.shape)}, k {tuple(k.shape)}")
    if not queries or not keys:
        # zeros that stay in the graph
        return v.new_zeros(batch, heads, queries, v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum())
    t = dim**-0.5 if softmax_temp is None else softmax_temp
    layout = layout.to(q.device)
    exact, lse = routed_attention(
        q, k, v, RouteMask(layout[None, None], block, block), causal=causal, key_mask=key_mask, scale=t, return_lse=True
    )

    def blocks(x: Tensor, count: int) -> Tensor:  # (batch, heads, count, block, ·)
        return F.pad(x, (0, 0, 0, count * block - x.shape[2])).unflatten(2, (count, block))

    prime_q, prime_k = blocks(features.q, q_blocks), blocks(features.k, k_blocks)
    values = blocks(torch.cat([v, torch.ones_like(v[..., :1])], dim=-1), k_blocks)  # the last channel sums the weights
    outside = ~layout
    if causal:
        outside = outside & torch.ones_like(layout).tril(-1)
    # per block of queries (a) the sum of the states φ(k)ᵀ v of all blocks of keys (b) that it does not see exactly
    states = torch.einsum("ab,xhbmd->xhamd", outside.to(q.dtype), prime_k.mT @ values)
    low = prime_q @ states
    if causal:  # what a query's own block holds, where the layout leaves it out
        own = (prime_q @ prime_k.mT).tril() @ values
        low = low + own * (~layout.diagonal())[:, None, None]
    low = low.flatten(2, 3)[:, :, :queries]
    scale = features.log_scale
    lse = lse[..., None]
    # both parts in the scale of the larger one: exp(lse) weighs the exact part, exp(log_scale) the low-rank one
    top = torch.maximum(lse.detach(), scale.detach())
    exact_share, low_share = (lse - top).exp(), (scale - top).exp()
    total = exact_share + low[..., -1:] * low_share
    return (exact * exact_share + low[..., :-1] * low_share) / total.masked_fill(total == 0, 1)


class SBBlockAttention(ScatterbrainAttention):
    """Scatterbrain over a fixed layout of blocks.

    Args:
        dim: channels of a head.
        layout: the name of a layout that fits any length (``"longformer"``, ``"bigbird"``, ``"fixed"``), or the blocks themselves.
        block: tokens in a block; 16 or 32 in the published code.
        device, dtype: of parameters and buffers.

    The other arguments are those of `SBLocalAttention`; there is no dropout.
    """

    @placed
    def __init__(
        self,
        dim: int,
        layout: str | Layout = "bigbird",
        *,
        block: int = 32,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(dim, **options)
        if self.dropout:
            raise ValueError(f"dropout of the exact weights is not available over blocks, got {self.dropout}")
        if isinstance(layout, str) and layout not in LAYOUTS:
            raise ValueError(f"unknown layout {layout!r}: {', '.join(LAYOUTS)}, or a bool tensor of blocks")
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        self.layout, self.block = layout, block

    def choose(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """The layout of this length; the random blocks of ``"bigbird"`` are the same in each call."""
        if isinstance(self.layout, Tensor):
            return self.layout.to(q.device)
        q_blocks, k_blocks = -(-q.shape[2] // self.block), -(-k.shape[2] // self.block)
        if self.layout == "bigbird":
            layout = bigbird_layout(q_blocks, k_blocks, generator=torch.Generator().manual_seed(0))
        else:
            layout = LAYOUTS[self.layout](q_blocks, k_blocks)
        return layout.to(q.device)

    def pairs(self, choice: Tensor, rows: Int[Tensor, " rows"], keys: int) -> Bool[Tensor, "rows keys"]:
        return choice[rows // self.block].repeat_interleave(self.block, dim=-1)[:, :keys]

    def attend(self, q, k, v, features: Features, choice: Tensor, mask: Tensor | None) -> Tensor:
        return scatterbrain_block_attention(
            q,
            k,
            v,
            features,
            choice,
            block=self.block,
            softmax_temp=self.softmax_temp,
            causal=self.causal,
            key_mask=mask,
        )


LAYOUTS = {"bigbird": bigbird_layout, "fixed": fixed_layout, "longformer": longformer_layout}
