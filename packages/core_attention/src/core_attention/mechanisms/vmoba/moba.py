"""Mixture of block attention for language models (MoBA): causal, packed sequences, and decoding with running block means.

Source: Lu et al., "MoBA: Mixture of Block Attention for Long-Context LLMs", 2025.

A query attends to its own block, causally, and to the k − 1 earlier blocks with the largest gate ``q · mean(k)``; to all of them
if there are fewer. k = 1 is attention inside the own block (where the published fast path falls back to full attention).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.capture.recording import active, paused, record
from core_attention.masks import Causal
from core_attention.measuring.example import Example
from core_attention.mechanisms.vmoba.block_selection import block_means, gate
from core_attention.parts.cache import SETTING, Cache, Rows, check_crop
from core_attention.parts.one_node import one_node
from core_attention.routed.attention import Backend, routed_attention
from core_attention.routed.routes import RouteMask, check_heads

ROWS = 4096  # queries whose gates exist at once


@dataclass
class MoBACache(Cache):
    """Keys and values of a decoding batch, and the running sum of each block's keys.

    Attributes:
        block: tokens of a block, that of the layer.
        rows: keys and values.
        sums: of the keys of each block, (batch, kv heads, blocks, dim), float32 or wider.

    Raises:
        ValueError: a block of no token.
    """

    block: int = field(metadata=SETTING)
    rows: Rows = field(default_factory=Rows)
    sums: Tensor | None = None

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"a block holds at least one token, got {self.block}")

    @property
    def length(self) -> int:
        """Tokens read."""
        return self.rows.length

    def append(
        self, k: Float[Tensor, "batch kv_heads new dim"], v: Float[Tensor, "batch kv_heads new value_dim"]
    ) -> tuple[Tensor, Tensor]:
        """Adds the next tokens, and returns all keys and values.

        Raises:
            ValueError: another batch, number of heads or width than before.
        """
        if k.shape[:3] != v.shape[:3]:
            raise ValueError(f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit each other")
        start = self.length
        keys, values = self.rows.extend(k, v)
        self._add(k.detach(), start)
        return keys, values

    def _add(self, k: Tensor, start: int) -> None:
        """Adds keys, of which the first stands at `start`, to the sums of their blocks."""
        wide = torch.promote_types(k.dtype, torch.float32)
        count = -(-(start + k.shape[2]) // self.block)
        if self.sums is None:
            self.sums = k.new_zeros(*k.shape[:2], 0, k.shape[3], dtype=wide)
        self.sums = nn.functional.pad(self.sums, (0, 0, 0, count - self.sums.shape[2]))
        owner = torch.arange(start, start + k.shape[2], device=k.device) // self.block
        self.sums.index_add_(2, owner, k.to(wide))

    def crop(self, length: int) -> None:
        """Forgets the tokens from `length` on."""
        check_crop(length, self.length)
        self.rows.crop(length)
        if self.sums is not None:
            whole = length // self.block
            self.sums = self.sums[:, :, :whole]
            self._add(self.rows.rows[0][:, :, whole * self.block :], whole * self.block)

    @property
    def means(self) -> Tensor:
        """(batch, kv heads, blocks, dim), float32 or wider; the last block's over the tokens it has so far."""
        assert self.sums is not None
        starts = torch.arange(self.sums.shape[2], device=self.sums.device) * self.block
        tokens = (self.length - starts).clamp(max=self.block)  # so far, in each block
        return self.sums / tokens[:, None]


def moba_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    *,
    block: int,
    topk: int,
    cache: MoBACache | None = None,
    full_below: int = 0,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Causal mixture of block attention; queries are the last of the keys.

    Args:
        q: queries; with a cache or a longer `k` the newest ones.
        k: keys; with `cache` only the new ones, as many as queries.
        v: values, likewise.
        block: tokens of a block.
        topk: blocks of a query, its own counted.
        cache: keys so far; the new ones are appended, and block means are kept running instead of being taken anew.
        full_below: plain causal attention for fewer keys than this.
        scale: of the scores, default ``dim ** -0.5``. Gates are unscaled.
        backend: see `routed_attention`.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, more queries than keys, a block or topk below 1, a cache with another block.
    """
    if block < 1 or topk < 1:
        raise ValueError(f"block and topk must be at least 1, got {block} and {topk}")
    if cache is not None:
        if cache.block != block:
            raise ValueError(f"the cache has blocks of {cache.block} tokens, not {block}")
        k, v = cache.append(k, v)
    if q.shape[2] > k.shape[2]:
        raise ValueError(f"more queries {tuple(q.shape)} than keys {tuple(k.shape)}")
    check_heads(q, k, v)
    if not q.numel():
        return v.new_zeros(*q.shape[:3], v.shape[3])
    if k.shape[2] < full_below:
        return attention(q, k, v, mask=Causal(k.shape[2] - q.shape[2]), scale=scale)
    with torch.no_grad():
        if cache is None and torch.compiler.is_compiling():
            (selected,) = _select_in_graph([q, k], {"block": block, "topk": topk})
        else:
            means = block_means(k, block) if cache is None else cache.means
            selected = _select_causal(q, means, block, topk, k.shape[2])
    if active():
        _record(q, k, selected, block, scale)
    with paused():
        return routed_attention(q, k, v, RouteMask(selected, 1, block), causal=True, scale=scale, backend=backend)


def moba_attention_packed(
    q: Float[Tensor, "tokens heads dim"],
    k: Float[Tensor, "tokens kv_heads dim"],
    v: Float[Tensor, "tokens kv_heads value_dim"],
    cu_seqlens: Int[Tensor, " sequences_and_1"],
    *,
    block: int,
    topk: int,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "tokens heads value_dim"]:
    """`moba_attention` of sequences packed one after another: sequence i holds tokens ``cu_seqlens[i] … cu_seqlens[i + 1]``.

    Blocks start anew with each sequence. The sequences are computed one by one.

    Raises:
        ValueError: boundaries that do not run from 0 to the number of tokens, or fall.
    """
    bounds = cu_seqlens.tolist()
    if bounds[:1] != [0] or bounds[-1] != q.shape[0] or bounds != sorted(bounds):
        raise ValueError(f"boundaries {bounds} do not rise from 0 to the tokens of {tuple(q.shape)}")
    parts = []
    for start, stop in pairwise(bounds):
        if start == stop:
            continue
        # (tokens, heads, dim) → (1, heads, tokens, dim), and back
        sequence = (t[start:stop].transpose(0, 1)[None] for t in (q, k, v))
        out = moba_attention(*sequence, block=block, topk=topk, scale=scale, backend=backend)
        parts.append(out[0].transpose(0, 1))
    if not parts:
        return v.new_empty(0, q.shape[1], v.shape[2])
    return torch.cat(parts)


def _select_causal(q: Tensor, means: Tensor, block: int, topk: int, keys: int) -> Tensor:
    """(batch, heads, queries, blocks): the own block and the best of those that lie wholly before it."""
    heads, queries = q.shape[1:3]
    count = means.shape[2]
    heads_per_key = heads // means.shape[1]
    own = (torch.arange(queries, device=q.device) + keys - queries) // block  # queries are the last of the keys
    order = torch.arange(count, device=q.device)
    selected = torch.zeros_like(q[..., :1], dtype=torch.bool).repeat(1, 1, 1, count)
    for h, start in product(range(heads), range(0, queries, ROWS)):  # the gates of a few queries of one head at a time
        rows = slice(start, start + ROWS)
        g = gate(q[:, h, None, rows], means[:, h // heads_per_key, None])[:, 0]
        g = g.masked_fill((order >= own[rows, None]) | ~g.isfinite(), -torch.inf)
        best, place = g.sort(dim=-1, descending=True, stable=True)
        # a query with fewer earlier blocks than topk − 1 sorts its −∞ among the best: those are not selected
        best, place = best[..., : topk - 1], place[..., : topk - 1]
        selected[:, h, rows] = torch.zeros_like(g, dtype=torch.bool).scatter(-1, place, best > -torch.inf)
    return selected | (order == own[:, None])


def _selected(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    """What queries choose of keys that stand from the beginning: runs of queries, which a graph holds as one node."""
    q, k = tensors
    return [_select_causal(q, block_means(k, settings["block"]), settings["block"], settings["topk"], k.shape[2])]


def _empty_selected(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    q, k = tensors
    blocks = -(-k.shape[2] // settings["block"])
    return [q.new_empty(*q.shape[:3], blocks, dtype=torch.bool)]


_select_in_graph = one_node("moba_selection", _selected, _empty_selected)


def _record(q: Tensor, k: Tensor, selected: Tensor, block: int, scale: float | None) -> None:
    """Offers "blocks" (queries × blocks) and "weights" (queries × keys)."""
    batch, query_heads, queries, dim = q.shape
    keys, heads_per_key = k.shape[2], query_heads // k.shape[1]
    position = torch.arange(keys, device=q.device)
    factor = dim**-0.5 if scale is None else scale

    def weights(rows: Tensor, heads: Tensor) -> Tensor:
        scores = q[:, heads][:, :, rows].float() @ k[:, heads // heads_per_key].float().transpose(2, 3)
        visible = selected[:, heads][:, :, rows][..., position // block]
        visible = visible & (position <= (rows + keys - queries)[:, None])
        return (scores * factor).masked_fill(~visible, -torch.inf).softmax(-1)

    record("weights", weights, shape=(batch, query_heads, queries, keys), device=q.device)
    shape = (batch, query_heads, queries, selected.shape[3])
    record("blocks", lambda rows, heads: selected[:, heads][:, :, rows], shape=shape, device=q.device)


class MoBA(nn.Module):
    """`moba_attention` as a layer without weights.

    Args:
        block: tokens of a block.
        topk: blocks of a query, its own counted.
        full_below: plain causal attention for fewer keys than this.
        backend: see `routed_attention`.
    """

    def __init__(self, *, block: int = 512, topk: int = 3, full_below: int = 0, backend: Backend = "auto"):
        super().__init__()
        self.block, self.topk, self.full_below = block, topk, full_below
        self.backend: Backend = backend

    def new_cache(self) -> MoBACache:
        """An empty cache; one for each generation."""
        return MoBACache(self.block, rows=Rows())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, cache: MoBACache | None = None) -> Tensor:
        """See `moba_attention`.

        Returns:
            the output, (batch, heads, queries, value_dim).
        """
        options = {"block": self.block, "topk": self.topk, "full_below": self.full_below, "backend": self.backend}
        return moba_attention(q, k, v, cache=cache, **options)


def example(tokens: int) -> Example:
    """Blocks of 64 tokens, three per query, for `core_attention.registry.catalogue`."""
    layer, dense = MoBA(block=64, topk=3), MoBA(block=64, topk=3, backend="reference")
    inputs = tuple(torch.randn(1, 4, tokens, 64) for _ in range(3))
    return Example(layer, inputs, tokens, reference=dense)
