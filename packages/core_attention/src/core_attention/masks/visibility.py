"""Masks that say which pairs are visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core_attention.masks.checking import check_integer, check_matrix, check_tensor, fits, one_or, part_of, readable
from core_attention.masks.mask import Mask, Part, Size, joined, pick, positions


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

    def __post_init__(self) -> None:
        for name, value in (("left", self.left), ("right", self.right), ("offset", self.offset)):
            if name == "offset" or value is not None:
                check_integer(f"Window's {name}", value)

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

    Args:
        offset: how far the first query stands behind the first key.
        align: ``"start"``: first query and first key stand together, as with torch's ``is_causal``; ``"end"``: the last ones do, as
            where queries continue a cache of keys (`offset` is counted from there).
    """

    offset: int = 0
    align: Literal["start", "end"] = "start"

    def __post_init__(self) -> None:
        check_integer("Causal's offset", self.offset)
        if self.align not in ("start", "end"):
            raise ValueError(f"Causal's align is 'start' or 'end', got {self.align!r}")

    def at(self, size: Size) -> Mask:
        return Causal(self.shift(size.queries, size.keys)) if self.align == "end" else self

    def shift(self, queries: int, keys: int) -> int:
        """How far the first query stands behind the first key."""
        return self.offset + keys - queries if self.align == "end" else self.offset

    @property
    def band(self) -> tuple[int | None, int | None]:
        if self.align == "end":
            raise ValueError('Causal(align="end") has a band only for a size: use mask.at(size)')
        return None, self.offset

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return in_band((None, self.shift(size.queries, size.keys)), size, part, device)


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

    def __post_init__(self) -> None:
        check_tensor("KeyLengths' lengths", self.lengths)

    def check(self, size: Size) -> None:
        if self.lengths.ndim != 1 or not one_or(self.lengths.shape[0], size.batch) or self.lengths.is_floating_point():
            raise ValueError(
                f"KeyLengths needs one integer per sample, shape ({size.batch},): got {self.lengths.dtype} of shape {tuple(self.lengths.shape)}"
            )
        if readable(self.lengths) and self.lengths.numel():
            least, most = int(self.lengths.min()), int(self.lengths.max())
            if least < 0 or most > size.keys:
                raise ValueError(f"KeyLengths counts from 0 to the {size.keys} keys there are: got {least} … {most}")

    @property
    def by_key(self) -> bool:
        return True

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

    def __post_init__(self) -> None:
        check_tensor("Segments' query ids", self.query)
        if self.key is not None:
            check_tensor("Segments' key ids", self.key)

    @classmethod
    def from_cu_seqlens(
        cls,
        queries: Int[Tensor, " borders"],
        length: int,
        keys: Int[Tensor, " borders"] | None = None,
        key_length: int = 0,
    ) -> Segments:
        """The segments of packed rows that are described as FlashAttention's variable-length calls describe them.

        Args:
            queries: ``cu_seqlens_q``: 0, and behind each sequence the tokens so far; what stands behind the last border is padding.
            length: tokens of the packed row of queries.
            keys: ``cu_seqlens_k``; None: as `queries`.
            key_length: tokens of the packed row of keys, where `keys` is given.
        """
        of_queries = _ids_between(queries, length)
        return cls(of_queries) if keys is None else cls(of_queries, _ids_between(keys, key_length))

    @property
    def keys(self) -> Tensor:
        return self.query if self.key is None else self.key

    def check(self, size: Size) -> None:
        for name, ids, length in (("query", self.query, size.queries), ("key", self.keys, size.keys)):
            if (
                ids.ndim != 2
                or not one_or(ids.shape[0], size.batch)
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


def _ids_between(borders: Tensor, length: int) -> Tensor:
    """(1, length): which sequence each token belongs to; −1 behind the last."""
    check_tensor("cu_seqlens", borders)
    if borders.ndim != 1 or borders.shape[0] < 1 or borders.is_floating_point():
        raise ValueError(
            f"cu_seqlens holds integers, (sequences + 1,): got {borders.dtype} of shape {tuple(borders.shape)}"
        )
    if readable(borders) and (int(borders[0]) != 0 or bool((borders.diff() < 0).any()) or int(borders[-1]) > length):
        raise ValueError(f"cu_seqlens rises from 0 to at most the {length} tokens of the row: got {borders.tolist()}")
    ids = torch.searchsorted(borders[1:].contiguous(), torch.arange(length, device=borders.device), right=True)
    return ids.masked_fill(ids >= borders.shape[0] - 1, -1)[None]


@dataclass(frozen=True, eq=False)
class Blocks(Mask):
    """Query block ``i // block`` sees key block ``j // block`` where `visible` says so; the last blocks may be short.

    Args:
        visible: (batch or 1, heads or 1, query blocks, key blocks).
        block: positions in a block, or (queries in a query block, keys in a key block).
    """

    visible: Bool[Tensor, "b h queryblocks keyblocks"]
    block: int | tuple[int, int]

    def __post_init__(self) -> None:
        check_tensor("Blocks' visible", self.visible)
        for side in self.sides:
            check_integer("Blocks' block", side)
            if side < 1:
                raise ValueError(f"Blocks' block holds at least 1 position, got {self.block!r}")

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
            or not fits(shape, expected)
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


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A written-out mask: True where the query sees the key; broadcastable to (batch, heads, queries, keys).

    A mask of keys, (batch, 1, 1, keys), is what `attention` makes of its `key_mask`.
    """

    visible: Bool[Tensor, "*shape"]

    def __post_init__(self) -> None:
        check_tensor("Dense's visible", self.visible)

    @property
    def by_key(self) -> bool:
        """Whether it says the same for every head and query: padding."""
        return self.visible.ndim >= 1 and all(n == 1 for n in self.visible.shape[-3:-1])

    def check(self, size: Size) -> None:
        if self.visible.dtype != torch.bool:
            raise ValueError(
                f"Dense needs a bool tensor, got {self.visible.dtype}; a float tensor that is added to the scores is Additive"
            )
        check_matrix("Dense", self.visible, size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return part_of(self.visible.to(device), part)
