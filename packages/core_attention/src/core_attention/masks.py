"""Typed masks and biases for `core_attention.attention`: each says what a query may see without being written out.

A mask is a small frozen object; masks combine with ``&`` (a pair must be allowed by all, biases add up). A backend asks a mask for
the part it needs, so that no (queries, keys) matrix exists unless the mask itself is one::

    attention(q, k, v, mask=Causal() & Segments(ids))
    attention(q, k, v, mask=KeyLengths(lengths), bias=Factorised(rows, columns))

Positions are counted from 0; query ``i`` and key ``j`` stand on the same axis, shifted by `offset` where a mask has one.
Dimensions that are the same for all samples or heads may have size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Run(NamedTuple):
    """The positions ``start … stop - 1``."""

    start: int
    stop: int


Where = Run | Tensor | None  # a run of positions, a 1-D tensor of them, or all


def positions(where: Where, length: int, device: torch.device) -> Int[Tensor, "positions"]:
    """The positions that `where` picks out of ``range(length)``."""
    if isinstance(where, Tensor):
        return where.to(device)
    start, stop = (0, length) if where is None else where
    return torch.arange(start, stop, device=device)


def pick(tensor: Tensor, dim: int, where: Where) -> Tensor:
    """`tensor` at `where` along `dim`; a dimension of size 1 stands for every position and stays as it is."""
    if where is None or tensor.shape[dim] == 1:
        return tensor
    if isinstance(where, Tensor):
        return tensor.index_select(dim, where.to(tensor.device))
    return tensor.narrow(dim, where.start, where.stop - where.start)


class Size(NamedTuple):
    """The size of an attention problem as masks see it."""

    batch: int
    heads: int
    queries: int
    keys: int


class Part(NamedTuple):
    """The part of a problem that a mask is asked for: by default all of it."""

    batch: Run | None = None
    heads: Where = None
    rows: Where = None
    keys: Run | None = None


class Mask:
    """What a query may see. Subclasses override `allowed` (which pairs), `bias` (what is added to their scores), or both."""

    def __and__(self, other: Mask) -> Mask:
        return All(tuple(parts(self)) + tuple(parts(other)))

    def check(self, size: Size) -> None:
        """Raises ValueError, quoting both shapes, if this mask does not fit a problem of `size`."""

    def allowed(self, size: Size, part: Part, device: torch.device) -> Bool[Tensor, "b h rows keys"] | None:
        """Which pairs of `part` are visible, broadcastable to its shape; None: all of them."""
        return None

    def bias(self, size: Size, part: Part, device: torch.device) -> Float[Tensor, "b h rows keys"] | None:
        """What is added to the scores of `part`, broadcastable to its shape; None: nothing."""
        return None


def parts(mask: Mask | None) -> tuple[Mask, ...]:
    """The masks that `mask` is made of."""
    if mask is None:
        return ()
    return mask.masks if isinstance(mask, All) else (mask,)


def together(masks: Iterable[Mask]) -> Mask | None:
    """One mask of several; None of none."""
    flat: list[Mask] = []
    for mask in masks:
        flat += parts(mask)
    if not flat:
        return None
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def names(mask: Mask | None) -> tuple[str, ...]:
    """The kinds that a mask is made of, as `core-attention why` prints them."""
    return tuple(type(part).__name__ for part in parts(mask))


@dataclass(frozen=True, eq=False)
class All(Mask):
    """A pair is visible if all `masks` allow it; their biases add up. Made by ``a & b``."""

    masks: tuple[Mask, ...]

    def check(self, size: Size) -> None:
        for mask in self.masks:
            mask.check(size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return joined([mask.allowed(size, part, device) for mask in self.masks], torch.logical_and)

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return joined([mask.bias(size, part, device) for mask in self.masks], torch.add)


def joined(tensors: list[Tensor | None], join: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    """All tensors that are not None joined into one; None if there is none."""
    result = None
    for tensor in tensors:
        if result is None:
            result = tensor
        elif tensor is not None:
            result = join(result, tensor)
    return result


@dataclass(frozen=True)
class Window(Mask):
    """Query ``i`` sees keys ``i + offset - left … i + offset + right``; None: unbounded on that side.

    Args:
        left: keys before the query's own place, ≥ 0 (negative: the band ends right of it).
        right: keys after it.
        offset: how far the first query stands behind the first key (keys - queries when the last ones are aligned).
    """

    left: int | None
    right: int | None
    offset: int = 0

    @property
    def band(self) -> tuple[int | None, int | None]:
        """Lowest and highest visible ``key - query``."""
        low = None if self.left is None else self.offset - self.left
        return low, None if self.right is None else self.offset + self.right

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return in_band(self.band, size, part, device)


@dataclass(frozen=True)
class Causal(Mask):
    """Query ``i`` sees keys ``0 … i + offset``.

    With ``offset=0`` first query and first key are aligned, as torch's ``is_causal``; for a cache of past keys pass
    ``offset=keys - queries``, which aligns the last ones.
    """

    offset: int = 0

    @property
    def band(self) -> tuple[int | None, int | None]:
        return None, self.offset

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return in_band(self.band, size, part, device)


def in_band(band: tuple[int | None, int | None], size: Size, part: Part, device: torch.device) -> Tensor | None:
    """Where ``low <= key - query <= high``."""
    low, high = band
    query = positions(part.rows, size.queries, device)[:, None]
    key = positions(part.keys, size.keys, device)
    edges: list[Tensor | None] = []
    if high is not None:
        edges.append(key <= query + high)
    if low is not None:
        edges.append(key >= query + low)
    inside = joined(edges, torch.logical_and)
    return None if inside is None else inside[None, None]


@dataclass(frozen=True, eq=False)
class KeyLengths(Mask):
    """Sample ``b`` has ``lengths[b]`` keys; those behind are padding. A sample of length 0 gives zeros."""

    lengths: Int[Tensor, " batch"]

    def check(self, size: Size) -> None:
        if self.lengths.ndim != 1 or self.lengths.shape[0] not in (1, size.batch) or self.lengths.is_floating_point():
            raise ValueError(
                f"KeyLengths needs one integer per sample, shape ({size.batch},): got {self.lengths.dtype} of shape {tuple(self.lengths.shape)}"
            )

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        lengths = pick(self.lengths.to(device), 0, part.batch)
        return positions(part.keys, size.keys, device) < lengths[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Segments(Mask):
    """Several sequences packed into one row: a query sees the keys that carry its own id.

    Args:
        query: id of each query; negative: padding, which sees nothing and is seen by nothing. Any order is right, runs of equal
            ids are fast.
        key: id of each key; None: the same as `query`.
    """

    query: Int[Tensor, "#batch queries"]
    key: Int[Tensor, "#batch keys"] | None = None

    @property
    def keys(self) -> Tensor:
        return self.query if self.key is None else self.key

    def check(self, size: Size) -> None:
        for name, ids, length in (("query", self.query, size.queries), ("key", self.keys, size.keys)):
            if (
                ids.ndim != 2
                or ids.shape[0] not in (1, size.batch)
                or ids.shape[1] != length
                or ids.is_floating_point()
            ):
                raise ValueError(
                    f"Segments needs integer {name} ids of shape ({size.batch}, {length}): got {ids.dtype} of shape {tuple(ids.shape)}"
                )

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        query = pick(pick(self.query.to(device), 0, part.batch), 1, part.rows)
        key = pick(pick(self.keys.to(device), 0, part.batch), 1, part.keys)
        return ((query[:, :, None] == key[:, None, :]) & (query[:, :, None] >= 0))[:, None]


def _fits(shape: Iterable[int], full: Iterable[int]) -> bool:
    return all(size in (1, full_size) for size, full_size in zip(shape, full, strict=True))


@dataclass(frozen=True, eq=False)
class Blocks(Mask):
    """Query block ``i // block`` sees key block ``j // block`` where `visible` says so; the last blocks may be short.

    Args:
        visible: (batch or 1, heads or 1, query blocks, key blocks).
        block: positions in a block, or (queries in a query block, keys in a key block).
    """

    visible: Bool[Tensor, "b h queryblocks keyblocks"]
    block: int | tuple[int, int]

    @property
    def sides(self) -> tuple[int, int]:
        return self.block if isinstance(self.block, tuple) else (self.block, self.block)

    def check(self, size: Size) -> None:
        rows, columns = self.sides
        expected = (size.batch, size.heads, -(-size.queries // rows), -(-size.keys // columns))
        shape = tuple(self.visible.shape)
        if (
            len(shape) != 4
            or self.visible.dtype != torch.bool
            or shape[2:] != expected[2:]
            or not _fits(shape, expected)
        ):
            raise ValueError(
                f"Blocks of {rows} × {columns} over {size.queries} queries × {size.keys} keys needs bool of shape {expected} "
                f"(batch and heads may be 1): got {self.visible.dtype} of shape {shape}"
            )

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        rows, columns = self.sides
        visible = pick(pick(self.visible.to(device), 0, part.batch), 1, part.heads)
        by_query = visible.index_select(2, positions(part.rows, size.queries, device) // rows)
        return by_query.index_select(3, positions(part.keys, size.keys, device) // columns)


def _matrix(tensor: Tensor) -> Tensor:
    """`tensor` with its missing leading dimensions."""
    return tensor[(None,) * (4 - tensor.ndim)] if tensor.ndim < 4 else tensor


def _check_matrix(name: str, tensor: Tensor, size: Size) -> None:
    expected = (size.batch, size.heads, size.queries, size.keys)
    if not 2 <= tensor.ndim <= 4 or not _fits(tuple(_matrix(tensor).shape), expected):
        raise ValueError(
            f"{name} of shape {tuple(tensor.shape)} does not broadcast to (batch, heads, queries, keys) = {expected}"
        )


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A written-out mask: True where the query sees the key; broadcastable to (batch, heads, queries, keys)."""

    visible: Bool[Tensor, "*shape"]

    def check(self, size: Size) -> None:
        if self.visible.dtype != torch.bool:
            raise ValueError(
                f"Dense needs a bool tensor, got {self.visible.dtype}; a float tensor that is added to the scores is Additive"
            )
        _check_matrix("Dense", self.visible, size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return _part_of(self.visible.to(device), part)


@dataclass(frozen=True, eq=False)
class Additive(Mask):
    """A written-out bias that is added to the scaled scores (−inf hides), broadcastable to (batch, heads, queries, keys).

    Gradients flow into it. Its last dimension may be 1 or keys, the one before it 1 or queries: (1, keys) is a bias of each key.
    """

    values: Float[Tensor, "*shape"]

    def check(self, size: Size) -> None:
        if not self.values.is_floating_point():
            raise ValueError(
                f"Additive needs a float tensor, got {self.values.dtype}; a bool tensor of visible pairs is Dense"
            )
        _check_matrix("Additive", self.values, size)

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return _part_of(self.values.to(device), part)


def _part_of(tensor: Tensor, part: Part) -> Tensor:
    """`tensor` at the samples, heads, rows and keys of `part`."""
    tensor = pick(pick(_matrix(tensor), 0, part.batch), 1, part.heads)
    return pick(pick(tensor, 2, part.rows), 3, part.keys)


@dataclass(frozen=True, eq=False)
class Factorised(Mask):
    """A bias for keys on a grid, the sum of a part for the key's row and a part for its column.

    ``bias[i, y * width + x] = rows[i, y] + columns[i, x]``: the decomposed relative position of image encoders (MViTv2 eq. 4,
    Segment Anything). It is never written out: `sdpa` and `triton` append `rows` and `columns` to the queries and one-hot places to
    the keys, so that the product adds them. Gradients flow into both.
    """

    rows: Float[Tensor, "#b #h queries height"]
    columns: Float[Tensor, "#b #h queries width"]

    def check(self, size: Size) -> None:
        height, width = self.rows.shape[-1], self.columns.shape[-1]
        for name, tensor in (("rows", self.rows), ("columns", self.columns)):
            expected = (size.batch, size.heads, size.queries)
            if tensor.ndim != 4 or tensor.shape[2] != size.queries or not _fits(tensor.shape[:3], expected):
                raise ValueError(
                    f"Factorised {name} of shape {tuple(tensor.shape)} does not fit (batch, heads, queries) = {expected}"
                )
        if height * width != size.keys:
            raise ValueError(
                f"Factorised over a grid of {height} × {width} = {height * width} keys, but there are {size.keys} keys"
            )

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        of_queries = part._replace(keys=None)
        rows = _part_of(self.rows.to(device), of_queries)
        columns = _part_of(self.columns.to(device), of_queries)
        if part.keys is None or part.keys == (0, size.keys):
            return (rows[..., :, None] + columns[..., None, :]).flatten(-2)
        width = self.columns.shape[-1]
        key = positions(part.keys, size.keys, device)
        return rows.index_select(3, key // width) + columns.index_select(3, key % width)


def as_mask(mask: Mask | Tensor | None, bias: Mask | Tensor | None, size: Size) -> Mask | None:
    """The mask that a call's `mask` and `bias` make together, checked against `size`.

    A bool tensor is short for `Dense`, a float tensor as `bias` for `Additive`.

    Raises:
        ValueError: a float tensor as `mask`, a bool tensor as `bias`, or a shape that does not fit.
    """
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask is a bool tensor (True: visible) or a typed mask, got {mask.dtype}; pass what is added to scores as bias="
            )
        mask = Dense(mask)
    if isinstance(bias, Tensor):
        if not bias.is_floating_point():
            raise ValueError(
                f"bias is a float tensor or a typed bias, got {bias.dtype}; pass which pairs are visible as mask="
            )
        bias = Additive(bias)
    both = together(m for m in (mask, bias) if m is not None)
    if both is not None:
        both.check(size)
    return both
