"""Mixture-of-block attention for video (VMoBA): every query attends only to key blocks that its head selects.

Source: Wu, Hou, Yang, Tao, Tian, Wan, Zhang, Tong, "VMoBA: Mixture-of-Block Attention for Video Diffusion Models", 2025.

Blocks are temporal slabs (1D), spatial tiles (2D) or space-time cubes (3D), taken in turn by the layers of a network.
``g[c, h, s] = mean_{j∈c} k_j,h · q_s,h``; blocks are chosen by `block_selection.select_blocks` (the paper: the largest gates
of a whole head until they hold the share τ), the query's own block always; then one exact softmax over the chosen blocks.
The causal ancestor for language models is in `mechanisms/moba.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.capture.recording import active, paused, record
from core_attention.measuring.example import Example
from core_attention.mechanisms.vmoba.block_selection import Group, Pool, block_means, gate, select_blocks
from core_attention.parts.transforms import vmap_one_by_one
from core_attention.routed.attention import Backend, routed_attention
from core_attention.routed.routes import RouteMask, check_heads

Grid = tuple[int, int, int]
Chunk = int | float | tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True)
class Partition:
    """How the tokens of a (time, height, width) grid, in row-major order, fall into blocks.

    Attributes:
        grid: the grid of the tokens.
        padded: the grid that the blocks tile; larger where a side does not divide.
        cell: (time, height, width) of a block; None for 1D, whose blocks are runs of tokens.
        block: tokens of a block; the last of a 1D partition may be shorter.
        blocks: how many.
    """

    grid: Grid
    padded: Grid
    cell: Grid | None
    block: int
    blocks: int

    @property
    def tokens(self) -> int:
        """Tokens of the grid, without padding."""
        return math.prod(self.grid)

    def permute(self, x: Shaped[Tensor, "batch heads tokens dim"]) -> Shaped[Tensor, "batch heads padded dim"]:
        """Tokens block after block, zeros where the grid was padded."""
        if self.cell is None:
            return x
        x = x.unflatten(2, self.grid)
        if self.padded != self.grid:
            (t, h, w), (padded_t, padded_h, padded_w) = self.grid, self.padded
            x = nn.functional.pad(x, (0, 0, 0, padded_w - w, 0, padded_h - h, 0, padded_t - t))
        # n: how many cells lie along an axis, c: the cell's length along it
        (nt, nh, nw), (ct, ch, cw) = self._cells_per_axis(), self.cell
        x = x.reshape(*x.shape[:2], nt, ct, nh, ch, nw, cw, x.shape[-1])
        return x.permute(0, 1, 2, 4, 6, 3, 5, 7, 8).flatten(2, 7)

    def inverse(self, x: Shaped[Tensor, "batch heads padded dim"]) -> Shaped[Tensor, "batch heads tokens dim"]:
        """Tokens in their original order, padding dropped."""
        if self.cell is None:
            return x
        (nt, nh, nw), (ct, ch, cw) = self._cells_per_axis(), self.cell
        x = x.unflatten(2, (nt, nh, nw, ct, ch, cw)).permute(0, 1, 2, 5, 3, 6, 4, 7, 8)
        x = x.reshape(*x.shape[:2], *self.padded, x.shape[-1])
        t, h, w = self.grid
        return x[:, :, :t, :h, :w].flatten(2, 4)

    def places(self, device: torch.device | str = "cpu") -> Int[Tensor, " tokens"]:
        """Where the tokens of the grid stand among the padded ones in block order, ascending."""
        places = torch.arange(math.prod(self.padded), device=device)
        if self.padded == self.grid:
            return places
        return self.inverse(places.view(1, 1, -1, 1))[0, 0, :, 0].sort().values

    def real(self, device: torch.device | str = "cpu") -> Bool[Tensor, " padded"] | None:
        """In block order, which tokens are not padding; None if there is no padding."""
        if self.padded == self.grid:
            return None
        return self.permute(torch.ones(1, 1, self.tokens, 1, device=device))[0, 0, :, 0] > 0

    def _cells_per_axis(self) -> Grid:
        assert self.cell is not None
        (t, h, w), (ct, ch, cw) = self.padded, self.cell
        return t // ct, h // ch, w // cw


@lru_cache(maxsize=256)
def partition(grid: Grid, chunk: Chunk) -> Partition:
    """The blocks of a grid of tokens.

    Args:
        grid: (time, height, width).
        chunk: a number: 1D, in frames; a block is ``floor(chunk · height · width)`` consecutive tokens. Two numbers (height,
            width): 2D, spatial tiles over all frames. Three (time, height, width): 3D. Sides that do not divide are padded;
            padded keys have no weight and count in no mean.

    Raises:
        ValueError: an empty grid, or blocks without a token.
    """
    if len(grid) != 3 or min(grid) < 1:
        raise ValueError(f"a grid is (time, height, width), each at least 1, got {grid}")
    if isinstance(chunk, int | float):
        tokens = math.prod(grid)
        block = min(math.floor(chunk * grid[1] * grid[2]), tokens)
        if block < 1:
            raise ValueError(f"a chunk of {chunk} frames of {grid[1]} × {grid[2]} tokens holds no token")
        return Partition(grid, grid, None, block, -(-tokens // block))
    if len(chunk) not in (2, 3) or min(chunk) < 1:
        raise ValueError(f"a chunk is a number of frames, (height, width) or (time, height, width), got {chunk}")
    chunk = (grid[0], *chunk) if len(chunk) == 2 else chunk
    cell, padded = [], []
    for side, length in zip(grid, chunk, strict=True):
        length = min(length, side)
        cell.append(length)
        padded.append(-(-side // length) * length)
    block = math.prod(cell)
    return Partition(grid, tuple(padded), tuple(cell), block, math.prod(padded) // block)  # type: ignore[arg-type]


def _partition(grid: Sequence[int], chunk: int | float | Sequence[int]) -> Partition:
    """`partition` of sequences of any kind."""
    if isinstance(chunk, Sequence):
        chunk = tuple(chunk)
    arguments: Any = tuple(grid), chunk
    if torch.compiler.is_compiling():  # a compiler's symbolic sides cannot be keys of a cache
        return partition.__wrapped__(*arguments)
    return partition(*arguments)


def choose_blocks(
    q: Float[Tensor, "batch heads padded dim"],
    k: Float[Tensor, "batch kv_heads padded dim"],
    blocks: Partition,
    *,
    tau: float | None = 0.25,
    topk: int | None = None,
    group: Group = "head_global",
    include_self: bool = True,
    pool: Pool = "sample",
) -> Bool[Tensor, "batch heads padded blocks"]:
    """The blocks that each query attends to, tokens in block order; padding chooses none. See `select_blocks` for the options."""
    # tokens of the grid among the padded ones, in block order
    order = blocks.places(q.device)
    own = order // blocks.block
    padded = blocks.padded != blocks.grid
    with torch.no_grad():
        means = block_means(k, blocks.block, blocks.real(q.device))
        queries = q[:, :, order] if padded else q  # padding must not compete in the groups
        selected = _select(queries, means, own, tau, topk, group, include_self, pool)
    if not padded:
        return selected
    whole = torch.zeros(*selected.shape[:2], q.shape[2], blocks.blocks, dtype=torch.bool, device=q.device)
    return whole.index_copy(2, order, selected)


@torch.library.custom_op("core_attention::choose_blocks", mutates_args=())
def _select(
    q: Tensor,
    means: Tensor,
    own: Tensor,
    tau: float | None,
    topk: int | None,
    group: str,
    include_self: bool,
    pool: str,
) -> Tensor:
    """`select_blocks` on the gates of q and block means; opaque, because sums of gates decide how many are sorted."""
    options: Any = {"tau": tau, "topk": topk, "group": group, "include_self": include_self, "pool": pool}
    if pool != "sample" or group not in ("query_head", "head_global"):
        return select_blocks(gate(q, means), own, **options)
    # one head's gates at a time: nothing of heads × queries × blocks floats is ever alive
    selected = torch.zeros(*q.shape[:3], means.shape[2], dtype=torch.bool, device=q.device)
    heads_per_key = q.shape[1] // means.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = gate(q[b : b + 1, h : h + 1], means[b : b + 1, h // heads_per_key, None])
            selected[b, h] = select_blocks(g, own, **options)[0, 0]
    return selected


@_select.register_fake
def _(q, means, own, tau, topk, group, include_self, pool):
    return q.new_empty(*q.shape[:3], means.shape[2], dtype=torch.bool)


vmap_one_by_one(_select)


@overload
def mixture_of_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid,
    chunk: Chunk,
    tau: float | None = 0.25,
    topk: int | None = None,
    group: Group = "head_global",
    include_self: bool = True,
    pool: Pool = "sample",
    full_below: int = 0,
    scale: float | None = None,
    backend: Backend = "auto",
    return_lse: Literal[False] = False,
) -> Tensor: ...
@overload
def mixture_of_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid,
    chunk: Chunk,
    tau: float | None = 0.25,
    topk: int | None = None,
    group: Group = "head_global",
    include_self: bool = True,
    pool: Pool = "sample",
    full_below: int = 0,
    scale: float | None = None,
    backend: Backend = "auto",
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def mixture_of_blocks(
    q: Float[Tensor, "batch heads tokens dim"],
    k: Float[Tensor, "batch kv_heads tokens dim"],
    v: Float[Tensor, "batch kv_heads tokens value_dim"],
    *,
    grid: Grid,
    chunk: Chunk,
    tau: float | None = 0.25,
    topk: int | None = None,
    group: Group = "head_global",
    include_self: bool = True,
    pool: Pool = "sample",
    full_below: int = 0,
    scale: float | None = None,
    backend: Backend = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of video tokens to the blocks that their head selects.

    Args:
        q: queries, tokens in (time, height, width) row-major order, after any rotary embedding.
        k: keys; grouped-query attention without repeating them.
        v: values.
        grid: (time, height, width) of the tokens.
        chunk: the partition, see `partition`.
        tau: share of the group's gates to keep (the paper: 0.25 with "head_global"). 1 or more: full attention.
        topk: choose blocks by number instead, the own one counted.
        group: what competes: "head_global" (the paper), "query_head" (the published default), "block", "overall".
        include_self: always attend to the own block.
        pool: "sample": each sample alone. "packed": groups pool over the batch, as the published code does.
        full_below: plain attention for fewer tokens than this.
        scale: of the scores, default ``dim ** -0.5``. Gates are unscaled.
        backend: see `routed_attention`.
        return_lse: also return each row's log-sum-exp, (batch, heads, tokens).

    Returns:
        the output, (batch, heads, tokens, value_dim) in the dtype of `q`; with `return_lse` also the log-sum-exp, (batch, heads, tokens).

    Raises:
        ValueError: the grid does not hold the tokens, shapes that do not fit, or options that exclude one another.
    """
    if math.prod(grid) != q.shape[2] or q.shape[2] != k.shape[2]:
        raise ValueError(
            f"a grid of {grid} holds {math.prod(grid)} tokens: queries {tuple(q.shape)}, keys {tuple(k.shape)}"
        )
    check_heads(q, k, v)
    if q.shape[2] < full_below:
        if return_lse:
            return attention(q, k, v, scale=scale, return_lse=True)
        return attention(q, k, v, scale=scale)
    blocks = _partition(grid, chunk)
    query, key, value = blocks.permute(q), blocks.permute(k), blocks.permute(v)
    options = {"tau": tau, "topk": topk, "group": group, "include_self": include_self, "pool": pool}
    selected = choose_blocks(query, key, blocks, **options)
    if active():
        _record(q, k, selected, blocks, scale)
    real = blocks.real(q.device)
    key_mask = None if real is None else real.expand(q.shape[0], -1)
    route = RouteMask(selected, 1, blocks.block)  # each query has its own blocks
    with paused():
        out, lse = routed_attention(
            query, key, value, route, key_mask=key_mask, scale=scale, backend=backend, return_lse=True
        )
    out = blocks.inverse(out)
    if return_lse:
        return out, blocks.inverse(lse[..., None])[..., 0]
    return out


def _record(q: Tensor, k: Tensor, selected: Tensor, blocks: Partition, scale: float | None) -> None:
    """Offers "blocks" (queries × blocks) and "weights" (queries × keys), tokens in their original order."""
    batch, query_heads, tokens, dim = q.shape
    selected = blocks.inverse(selected)
    # the block of each token, in the original order (`inverse` changes nothing in 1D, whose blocks are runs of tokens)
    places = torch.arange(math.prod(blocks.padded), device=q.device).view(1, 1, -1, 1)
    owner = (blocks.inverse(places) // blocks.block).flatten()
    heads_per_key = query_heads // k.shape[1]
    factor = dim**-0.5 if scale is None else scale

    def weights(rows: Tensor, heads: Tensor) -> Tensor:
        query, key = q[:, heads][:, :, rows].float(), k[:, heads // heads_per_key].float()
        scores = query @ key.transpose(2, 3) * factor
        visible = selected[:, heads][:, :, rows][..., owner]
        return scores.masked_fill(~visible, -torch.inf).softmax(-1)

    record("weights", weights, shape=(batch, query_heads, tokens, tokens), device=q.device)
    shape = (batch, query_heads, tokens, blocks.blocks)
    record("blocks", lambda rows, heads: selected[:, heads][:, :, rows], shape=shape, device=q.device)


class MixtureOfBlocks(nn.Module):
    """`mixture_of_blocks` as a layer without weights: its partition is `chunks[layer % len(chunks)]`.

    Args:
        chunks: the partitions that layers take in turn, e.g. ``(3, (6, 8), (3, 6, 8))``: 1D, 2D, 3D.
        layer: the layer's number.
        tau, topk, group, include_self, pool, full_below, scale, backend: see `mixture_of_blocks`.
    """

    def __init__(self, chunks: Sequence[Chunk], *, layer: int = 0, **options):
        super().__init__()
        if not chunks:
            raise ValueError("at least one chunk is needed")
        self.chunk = chunks[layer % len(chunks)]
        unknown = set(options) - {"tau", "topk", "group", "include_self", "pool", "full_below", "scale", "backend"}
        if unknown:
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Tensor:
        """See `mixture_of_blocks`.

        Returns:
            the output, (batch, heads, tokens, value_dim).
        """
        return mixture_of_blocks(q, k, v, grid=grid, chunk=self.chunk, **self.options)


def example(tokens: int) -> Example:
    """A head-global layer over cubes of 4 × 4 × 4 tokens, for `core_attention.registry.catalogue`."""
    side = max(1, round((tokens / 4) ** 0.5))
    grid = (min(4, tokens), side, side)
    layer = MixtureOfBlocks([(4, 4, 4)])
    dense = MixtureOfBlocks([(4, 4, 4)], backend="reference")
    inputs = tuple(torch.randn(1, 4, math.prod(grid), 64) for _ in range(3))
    return Example(layer, (*inputs, grid), math.prod(grid), reference=dense)
