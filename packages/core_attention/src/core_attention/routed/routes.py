"""What each query may see: the three forms of a route, their checks, and the dense mask that defines them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RouteIndex:
    """The key blocks that each query block attends to, as indices.

    Args:
        index: key block numbers; −1 is an empty slot, a block named twice counts once. Batch and heads may be 1 (shared);
            heads may also be the number of key/value heads (shared within a group).
        query_block: tokens in a query block; the last block may be shorter.
        key_block: tokens in a key block; the last block may be shorter.
    """

    index: Int[Tensor, "route_batch route_heads query_blocks slots"]
    query_block: int
    key_block: int


@dataclass(frozen=True)
class RouteMask:
    """The key blocks that each query block attends to, as a boolean map; batch, heads and blocks as in `RouteIndex`."""

    mask: Bool[Tensor, "route_batch route_heads query_blocks key_blocks"]
    query_block: int
    key_block: int


@dataclass(frozen=True)
class RouteThreshold:
    """Query i sees key j when ``score[j] > threshold[i]``, or when both are equal and ``j >= tie[i]``.

    Two one-dimensional arrays for each (batch, head), never a matrix. Without `tie` every equal key is seen.
    A threshold of +inf sees nothing, one of −inf everything.

    Args:
        score: importance of each key. Batch and heads may be 1; heads may be the number of key/value heads.
        threshold: the limit of each query; same batch and heads.
        tie: the oldest key position that still counts at equality.
    """

    score: Float[Tensor, "route_batch route_heads keys"]
    threshold: Float[Tensor, "route_batch route_heads queries"]
    tie: Int[Tensor, "route_batch route_heads queries"] | None = None


Routes = RouteIndex | RouteMask | RouteThreshold


def blocks(length: int, size: int) -> int:
    """How many blocks of `size` cover `length` tokens, the last one possibly shorter."""
    return -(-length // size)


def heads_share(routes: Routes, q: Tensor, k: Tensor) -> bool:
    """Whether all heads have the same routes and their own keys, so that a block of tokens can be taken whole."""
    given = routes.score if isinstance(routes, RouteThreshold) else _given(routes)
    return bool(given.shape[1] == 1 and q.shape[1] == k.shape[1])


def _given(routes: RouteIndex | RouteMask) -> Tensor:
    return routes.index if isinstance(routes, RouteIndex) else routes.mask


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises a ValueError that quotes all shapes when these cannot be the queries, keys and values of one attention."""
    shapes = f"queries {tuple(q.shape)}, keys {tuple(k.shape)}, values {tuple(v.shape)}"
    if not (q.ndim == k.ndim == v.ndim == 4):
        raise ValueError(f"expected four axes (batch, heads, length, dim): {shapes}")
    if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"batch, key heads, keys and dim must agree: {shapes}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"the number of query heads must be a multiple of the key heads: {shapes}")
    if not q.shape[3] or not v.shape[3]:
        raise ValueError(f"an empty dim cannot be attended: {shapes}")
    if not (q.dtype == k.dtype == v.dtype) and not torch.is_autocast_enabled(q.device.type):
        raise ValueError(f"dtypes must agree: queries {q.dtype}, keys {k.dtype}, values {v.dtype}")
    if not q.is_floating_point():
        raise ValueError(f"queries, keys and values must be floating point, got {q.dtype}")


def check_routes(routes: Routes, q: Tensor, k: Tensor) -> None:
    """Raises a ValueError that quotes both shapes when `routes` cannot belong to queries `q` and keys `k`."""
    batch, heads, queries, _ = q.shape
    kv_heads, keys = k.shape[1:3]
    if isinstance(routes, RouteThreshold):
        leading, expected = routes.score.shape[:2], (queries,)
        if routes.score.shape[2] != keys:
            raise ValueError(
                f"route scores {tuple(routes.score.shape)} are not one per key: keys have shape {tuple(k.shape)}"
            )
        for name, value in (("threshold", routes.threshold), ("tie", routes.tie)):
            if value is not None and tuple(value.shape) != (*leading, *expected):
                raise ValueError(
                    f"route {name} {tuple(value.shape)} does not fit scores {tuple(routes.score.shape)} "
                    f"and queries {tuple(q.shape)}"
                )
        given = routes.score
    else:
        if routes.query_block < 1 or routes.key_block < 1:
            raise ValueError(f"block sizes must be positive, got {routes.query_block} and {routes.key_block}")
        given = _given(routes)
        leading = given.shape[:2]
        rows = blocks(queries, routes.query_block)
        if given.shape[2] != rows:
            raise ValueError(
                f"routes {tuple(given.shape)} name {given.shape[2]} query blocks; queries {tuple(q.shape)} in blocks "
                f"of {routes.query_block} have {rows}"
            )
        columns = blocks(keys, routes.key_block)
        if isinstance(routes, RouteMask) and given.shape[3] != columns:
            raise ValueError(
                f"route mask {tuple(given.shape)} names {given.shape[3]} key blocks; keys {tuple(k.shape)} in blocks "
                f"of {routes.key_block} have {columns}"
            )
    if leading[0] not in (1, batch) or leading[1] not in (1, kv_heads, heads):
        raise ValueError(
            f"routes {tuple(given.shape)} must have batch 1 or {batch} and heads 1, {kv_heads} or {heads}, "
            f"for queries {tuple(q.shape)} and keys {tuple(k.shape)}"
        )


def block_mask(
    routes: RouteIndex | RouteMask, keys: int
) -> Bool[Tensor, "route_batch route_heads query_blocks key_blocks"]:
    """Routes of blocks as a map."""
    if isinstance(routes, RouteMask):
        return routes.mask
    columns = blocks(keys, routes.key_block)
    slots = routes.index.long().masked_fill(routes.index < 0, columns)
    block_map = torch.zeros(*slots.shape[:3], columns + 1, dtype=torch.bool, device=slots.device)
    return block_map.scatter(3, slots, True)[..., :columns]


def dense_mask(
    routes: Routes, queries: int, keys: int, *, causal: bool = False, key_mask: Bool[Tensor, "batch keys"] | None = None
) -> Bool[Tensor, "route_batch route_heads queries keys"]:
    """The queries × keys mask that `routes` stands for: the definition, for small sizes and tests."""
    if isinstance(routes, RouteThreshold):
        score, threshold = routes.score[..., None, :], routes.threshold[..., :, None]
        mask = score >= threshold
        if routes.tie is not None:
            late = torch.arange(keys, device=score.device) >= routes.tie[..., :, None]
            mask = (score > threshold) | ((score == threshold) & late)
        mask &= threshold < torch.inf
    else:
        blocks = block_mask(routes, keys)
        mask = blocks.repeat_interleave(routes.query_block, 2).repeat_interleave(routes.key_block, 3)
        mask = mask[:, :, :queries, :keys]
    if causal:
        mask = mask & torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril(keys - queries)
    if key_mask is not None:
        mask = mask & key_mask[:, None, None, :]
    return mask


def sorted_index(
    routes: RouteIndex | RouteMask, queries: int, keys: int, *, causal: bool = False
) -> Int[Tensor, "route_batch route_heads query_blocks slots"]:
    """Key blocks of each query block, ascending, once each, empty slots (−1) last; blocks wholly in the future dropped.

    Raises:
        ValueError: an index beyond the last key block.
    """
    columns = blocks(keys, routes.key_block)
    if isinstance(routes, RouteMask):
        order = torch.arange(columns, device=routes.mask.device)
        index = torch.where(routes.mask, order, columns)
    else:
        index = routes.index.long()
        if index.numel() and int(index.max()) >= columns:
            raise ValueError(
                f"route index {int(index.max())} is beyond the last of {columns} key blocks "
                f"({keys} keys in blocks of {routes.key_block})"
            )
        index = index.masked_fill(index < 0, columns)
    if causal:
        last = (torch.arange(index.shape[2], device=index.device) + 1) * routes.query_block
        last = last.clamp(max=queries) - 1 + keys - queries
        index = index.masked_fill(index * routes.key_block > last[:, None], columns)
    index = index.sort(-1).values
    if isinstance(routes, RouteIndex) and index.shape[-1] > 1:
        again = index[..., 1:] == index[..., :-1]
        if bool((again & (index[..., 1:] < columns)).any()):
            index = torch.cat([index[..., :1], index[..., 1:].masked_fill(again, columns)], -1).sort(-1).values
    width = int((index < columns).sum(-1).max()) if index.numel() else 0
    return index[..., :width].masked_fill(index[..., :width] == columns, -1)
