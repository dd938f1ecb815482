"""Typed masks and biases for `core_attention.attention`: each says what a query may see without being written out.

A mask is a small frozen object. Masks combine with ``&`` (a pair must be allowed by all, biases add up), ``|`` (by one of them) and
``~`` (what was hidden is visible). A backend asks a mask for the part it needs, so that no (queries, keys) matrix exists unless the
mask itself is one::

    attention(q, k, v, mask=Causal() & Segments(ids))
    attention(q, k, v, mask=Causal(align="end") & (Window(64, 0) | ~Dense(far)), bias=Alibi.geometric(heads))

Positions are counted from 0; query ``i`` and key ``j`` stand on the same axis, shifted by `offset` where a mask has one.
Dimensions that are the same for all samples or heads may have size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


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
    keys: Where = None


class Mask:
    """What a query may see. Subclasses override `allowed` (which pairs), `bias` (what is added to their scores), or both."""

    def __and__(self, other: Mask) -> Mask:
        return All(tuple(parts(self)) + tuple(parts(other)))

    def __or__(self, other: Mask) -> Mask:
        return Either((self, other))

    def __invert__(self) -> Mask:
        return Not(self)

    def at(self, size: Size) -> Mask:
        """This mask for a problem of `size`: ``Causal(align="end")`` gets its offset."""
        return self

    def check(self, size: Size) -> None:
        """Raises ValueError, quoting both shapes, if this mask does not fit a problem of `size`."""

    def allowed(self, size: Size, part: Part, device: torch.device) -> Bool[Tensor, "b h rows keys"] | None:
        """Which pairs of `part` are visible, broadcastable to its shape; None: all of them."""
        return None

    def bias(self, size: Size, part: Part, device: torch.device) -> Float[Tensor, "b h rows keys"] | None:
        """What is added to the scores of `part`, broadcastable to its shape; None: nothing."""
        return None

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        """Adds to `totals`, the gradients of this mask's tensors, what the gradient of the scores of `part` brings to them."""


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


def tensors_of(mask: Mask | None) -> list[Tensor]:
    """The tensors that the top masks of `mask` hold, in their order."""
    fields = [getattr(part, name) for part in parts(mask) for name in getattr(part, "__match_args__", ())]
    return [value for value in fields if isinstance(value, Tensor)]


def learnable(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors of a mask that can have a gradient."""
    return [t for t in tensors if t.is_floating_point()]


def names(mask: Mask | None) -> tuple[str, ...]:
    """The kinds that a mask is made of, as `core-attention why` prints them."""
    return tuple(type(part).__name__ for part in parts(mask))


@dataclass(frozen=True, eq=False)
class All(Mask):
    """A pair is visible if all `masks` allow it; their biases add up. Made by ``a & b``."""

    masks: tuple[Mask, ...]

    def at(self, size: Size) -> Mask:
        return All(tuple(mask.at(size) for mask in self.masks))

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


def _refuse_bias(mask: Mask, sign: str) -> None:
    if type(mask).bias is not Mask.bias and not isinstance(mask, All):
        raise ValueError(f"{type(mask).__name__} is added to scores: it combines with & only, not with {sign}")
    for part in mask.masks if isinstance(mask, All) else ():
        _refuse_bias(part, sign)


@dataclass(frozen=True, eq=False)
class Either(Mask):
    """A pair is visible if one of `masks` allows it. Made by ``a | b``; written out in pieces."""

    masks: tuple[Mask, ...]

    def __post_init__(self) -> None:
        for mask in self.masks:
            _refuse_bias(mask, "|")

    def at(self, size: Size) -> Mask:
        return Either(tuple(mask.at(size) for mask in self.masks))

    def check(self, size: Size) -> None:
        for mask in self.masks:
            mask.check(size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        found = [mask.allowed(size, part, device) for mask in self.masks]
        if any(one is None for one in found):
            return None
        return joined(found, torch.logical_or)


@dataclass(frozen=True, eq=False)
class Not(Mask):
    """A pair is visible if `mask` hides it. Made by ``~a``; written out in pieces."""

    mask: Mask

    def __post_init__(self) -> None:
        _refuse_bias(self.mask, "~")

    def __invert__(self) -> Mask:
        return self.mask

    def at(self, size: Size) -> Mask:
        return Not(self.mask.at(size))

    def check(self, size: Size) -> None:
        self.mask.check(size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        found = self.mask.allowed(size, part, device)
        if found is None:  # everything was visible
            return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
        return ~found


def _check_integer(name: str, value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool):
        return  # also a length that torch.compile keeps symbolic
    if isinstance(value, bool | float) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} is a whole number of positions, got {value!r}")


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
                _check_integer(f"Window's {name}", value)

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
        _check_integer("Causal's offset", self.offset)
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


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}: write torch.tensor({value!r})")


def readable(tensor: Tensor) -> bool:
    """Whether values of `tensor` may be read here: not while torch traces or transforms, and not from a device, which would wait."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not transformed(tensor)


def transformed(tensor: Tensor) -> bool:
    """Whether `tensor` has no values of its own: under vmap and its kin, FakeTensorMode, or make_fx."""
    modes = torch._C._TorchDispatchModeKey
    return (
        torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._get_dispatch_mode(modes.FAKE) is not None
        or torch._C._get_dispatch_mode(modes.PROXY) is not None
        or isinstance(tensor, FakeTensor)
    )


@dataclass(frozen=True, eq=False)
class KeyLengths(Mask):
    """Sample ``b`` has ``lengths[b]`` keys; those behind are padding. A sample of length 0 gives zeros."""

    lengths: Int[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_tensor("KeyLengths' lengths", self.lengths)

    def check(self, size: Size) -> None:
        if self.lengths.ndim != 1 or self.lengths.shape[0] not in (1, size.batch) or self.lengths.is_floating_point():
            raise ValueError(
                f"KeyLengths needs one integer per sample, shape ({size.batch},): got {self.lengths.dtype} of shape {tuple(self.lengths.shape)}"
            )
        if readable(self.lengths) and self.lengths.numel():
            least, most = int(self.lengths.min()), int(self.lengths.max())
            if least < 0 or most > size.keys:
                raise ValueError(f"KeyLengths counts from 0 to the {size.keys} keys there are: got {least} … {most}")

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
        _check_tensor("Segments' query ids", self.query)
        if self.key is not None:
            _check_tensor("Segments' key ids", self.key)

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


def _ids_between(borders: Tensor, length: int) -> Tensor:
    """(1, length): which sequence each token belongs to; −1 behind the last."""
    _check_tensor("cu_seqlens", borders)
    if borders.ndim != 1 or borders.shape[0] < 1 or borders.is_floating_point():
        raise ValueError(
            f"cu_seqlens holds integers, (sequences + 1,): got {borders.dtype} of shape {tuple(borders.shape)}"
        )
    if readable(borders) and (int(borders[0]) != 0 or bool((borders.diff() < 0).any()) or int(borders[-1]) > length):
        raise ValueError(f"cu_seqlens rises from 0 to at most the {length} tokens of the row: got {borders.tolist()}")
    ids = torch.searchsorted(borders[1:].contiguous(), torch.arange(length, device=borders.device), right=True)
    return ids.masked_fill(ids >= borders.shape[0] - 1, -1)[None]


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

    def __post_init__(self) -> None:
        _check_tensor("Blocks' visible", self.visible)
        for side in self.sides:
            _check_integer("Blocks' block", side)
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
    """A written-out mask: True where the query sees the key; broadcastable to (batch, heads, queries, keys).

    A mask of keys, (batch, 1, 1, keys), is what `attention` makes of its `key_mask`.
    """

    visible: Bool[Tensor, "*shape"]

    def __post_init__(self) -> None:
        _check_tensor("Dense's visible", self.visible)

    @property
    def by_key(self) -> bool:
        """Whether it says the same for every head and query: padding."""
        return self.visible.ndim >= 1 and all(n == 1 for n in self.visible.shape[-3:-1])

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

    def __post_init__(self) -> None:
        _check_tensor("Additive's values", self.values)

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        _add_to(totals[0], part, grad)

    def check(self, size: Size) -> None:
        if not self.values.is_floating_point():
            raise ValueError(
                f"Additive needs a float tensor, got {self.values.dtype}; a bool tensor of visible pairs is Dense"
            )
        _check_matrix("Additive", self.values, size)

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return _part_of(self.values.to(device), part)


def _add_to(total: Tensor, part: Part, grad: Tensor) -> None:
    """Adds the gradient of a part's scores to that of the matrix that was broadcast to them."""
    total = _matrix(total)
    grad = grad.sum_to_size([grad.shape[dim] if total.shape[dim] > 1 else 1 for dim in range(4)])
    scattered = False
    for dim, where in enumerate(part):
        if isinstance(where, Run) and total.shape[dim] > 1:
            total = total.narrow(dim, where.start, where.stop - where.start)
        scattered |= isinstance(where, Tensor) and total.shape[dim] > 1
    if not scattered:
        total.add_(grad)
        return
    places = []
    for dim, where in enumerate(part):
        where = where if isinstance(where, Tensor) and total.shape[dim] > 1 else None
        places.append(positions(where, total.shape[dim], grad.device).view([-1 if d == dim else 1 for d in range(4)]))
    total.index_put_(tuple(places), grad, accumulate=True)


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
        if part.keys is None or (isinstance(part.keys, Run) and part.keys == (0, size.keys)):
            return (rows[..., :, None] + columns[..., None, :]).flatten(-2)
        width = self.columns.shape[-1]
        key = positions(part.keys, size.keys, device)
        return rows.index_select(3, key // width) + columns.index_select(3, key % width)

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        place, width = positions(part.keys, size.keys, grad.device), self.columns.shape[-1]
        for total, index in zip(totals, (place // width, place % width), strict=True):
            folded = grad.new_zeros(*grad.shape[:3], total.shape[-1]).index_add_(3, index, grad)
            _add_to(total, part._replace(keys=None), folded)


def distances(size: Size, part: Part, offset: int, device: torch.device) -> Int[Tensor, "rows keys"]:
    """``key - query`` of a part, with the first query `offset` behind the first key."""
    query = positions(part.rows, size.queries, device) + offset
    return positions(part.keys, size.keys, device) - query[:, None]


@dataclass(frozen=True, eq=False)
class Alibi(Mask):
    """A bias that falls with the distance, ``-slopes[head] · |key - query|`` (Press et al. 2022, "Train short, test long").

    Gradients flow into the slopes.

    Args:
        slopes: one per head.
        offset: how far the first query stands behind the first key.
    """

    slopes: Float[Tensor, " heads"]
    offset: int = 0

    def __post_init__(self) -> None:
        _check_tensor("Alibi's slopes", self.slopes)
        _check_integer("Alibi's offset", self.offset)

    @classmethod
    def geometric(cls, heads: int, offset: int = 0) -> Alibi:
        """The paper's slopes, ``2 ** (-8 h / heads)``; where `heads` is no power of two, those of every other place between them follow."""
        power = 2 ** ((heads).bit_length() - 1)
        slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
        slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
        return cls(torch.tensor(slopes), offset)

    def check(self, size: Size) -> None:
        if self.slopes.ndim != 1 or self.slopes.shape[0] not in (1, size.heads) or not self.slopes.is_floating_point():
            raise ValueError(
                f"Alibi needs one float slope per head, ({size.heads},): got {self.slopes.dtype} of shape {tuple(self.slopes.shape)}"
            )

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        slopes = pick(self.slopes.to(device), 0, part.heads)
        return -slopes[None, :, None, None] * distances(size, part, self.offset, device).abs()

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        each = -(grad * distances(size, part, self.offset, grad.device).abs()).sum((0, 2, 3))
        totals[0].add_(each.sum_to_size(totals[0].shape))


@dataclass(frozen=True, eq=False)
class RelativePosition(Mask):
    """A learned bias for each head and distance, ``table[head, clamp(key - query, -reach, reach) + reach]`` (Shaw et al. 2018, T5).

    Gradients flow into the table.

    Args:
        table: (heads or 1, 2 · reach + 1); distances beyond its ends take its last entries.
        offset: how far the first query stands behind the first key.
    """

    table: Float[Tensor, "heads distances"]
    offset: int = 0

    def __post_init__(self) -> None:
        _check_tensor("RelativePosition's table", self.table)
        _check_integer("RelativePosition's offset", self.offset)

    def check(self, size: Size) -> None:
        shape = tuple(self.table.shape)
        if (
            len(shape) != 2
            or shape[0] not in (1, size.heads)
            or shape[1] % 2 == 0
            or not self.table.is_floating_point()
        ):
            raise ValueError(
                f"RelativePosition needs a float table ({size.heads}, 2 · reach + 1): got {self.table.dtype} of shape {shape}"
            )

    def _entries(self, size: Size, part: Part, device: torch.device) -> Tensor:
        reach = self.table.shape[1] // 2
        return distances(size, part, self.offset, device).clamp(-reach, reach) + reach

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return pick(self.table.to(device), 0, part.heads)[:, self._entries(size, part, device)][None]

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        entries = self._entries(size, part, grad.device).flatten()
        each = grad.sum(0).flatten(1)
        totals[0].index_add_(1, entries, each.sum(0, keepdim=True) if totals[0].shape[0] == 1 else each)


def as_mask(
    mask: Mask | Tensor | None, bias: Mask | Tensor | None, size: Size, key_mask: Tensor | None = None
) -> Mask | None:
    """The mask that a call's `mask`, `bias` and `key_mask` make together, checked against `size`.

    A bool tensor is short for `Dense`, a float tensor as `bias` for `Additive`.

    Raises:
        ValueError: a float tensor as `mask`, a bool tensor as `bias`, a shape that does not fit, or one that could be read in two ways.
    """
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask is a bool tensor (True: visible) or a typed mask, got {mask.dtype}; pass what is added to scores as bias="
            )
        if mask.ndim == 2:
            _refuse_ambiguous(mask, size)
        mask = Dense(mask)
    if isinstance(bias, Tensor):
        if not bias.is_floating_point():
            raise ValueError(
                f"bias is a float tensor or a typed bias, got {bias.dtype}; pass which pairs are visible as mask="
            )
        bias = Additive(bias)
    given: list[Mask] = []
    for one in (mask, bias):
        if isinstance(one, Mask):
            given.append(one)
        elif one is not None:
            raise ValueError(f"a mask is a bool tensor or a mask of core_attention.masks, got {type(one).__name__}")
    if key_mask is not None:
        given.append(_of_keys(key_mask, size))
    both = together(given)
    if both is None:
        return None
    both.check(size)
    return both.at(size)


def _refuse_ambiguous(mask: Tensor, size: Size) -> None:
    """A (batch, keys) mask of padding is no (queries, keys) mask, and where batch == queries nobody can tell."""
    shape, as_pairs, as_keys = tuple(mask.shape), (size.queries, size.keys), (size.batch, size.keys)
    if shape != as_keys or size.batch == 1:
        return
    if shape == as_pairs:
        raise ValueError(
            f"mask of shape {shape} could be (queries, keys) or (batch, keys): write mask=mask[None, None] for the first, "
            "key_mask=mask for the second"
        )
    raise ValueError(
        f"mask of shape {shape} is (batch, keys), but mask= is (queries, keys) = {as_pairs}: pass it as key_mask="
    )


def _of_keys(visible: Tensor, size: Size) -> Dense:
    _check_tensor("key_mask", visible)
    if visible.dtype != torch.bool:
        raise ValueError(
            f"key_mask is a bool tensor (True: the key is there), got {visible.dtype}: write key_mask.bool()"
        )
    if visible.ndim != 2 or visible.shape[0] not in (1, size.batch) or visible.shape[1] != size.keys:
        raise ValueError(f"key_mask has shape (batch, keys) = {(size.batch, size.keys)}, got {tuple(visible.shape)}")
    return Dense(visible[:, None, None])
