"""Masks that add something to the scores; gradients flow into their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core_attention.masks.checking import as_matrix, check_integer, check_matrix, check_tensor, fits, one_or, part_of
from core_attention.masks.mask import Mask, Part, Run, Size, pick, positions


@dataclass(frozen=True, eq=False)
class Additive(Mask):
    """A written-out bias that is added to the scaled scores (−inf hides), broadcastable to (batch, heads, queries, keys).

    Gradients flow into it. Its last dimension may be 1 or keys, the one before it 1 or queries: (1, keys) is a bias of each key.
    """

    values: Float[Tensor, "*shape"]

    def __post_init__(self) -> None:
        check_tensor("Additive's values", self.values)

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        _add_to(totals[0], part, grad)

    def check(self, size: Size) -> None:
        if not self.values.is_floating_point():
            raise ValueError(
                f"Additive needs a float tensor, got {self.values.dtype}; a bool tensor of visible pairs is Dense"
            )
        check_matrix("Additive", self.values, size)

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return part_of(self.values.to(device), part)


def _add_to(total: Tensor, part: Part, grad: Tensor) -> None:
    """Adds the gradient of a part's scores to that of the matrix that was broadcast to them."""
    total = as_matrix(total)
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
            if tensor.ndim != 4 or tensor.shape[2] != size.queries or not fits(tensor.shape[:3], expected):
                raise ValueError(
                    f"Factorised {name} of shape {tuple(tensor.shape)} does not fit (batch, heads, queries) = {expected}"
                )
        if height * width != size.keys:
            raise ValueError(
                f"Factorised over a grid of {height} × {width} = {height * width} keys, but there are {size.keys} keys"
            )

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        of_queries = part._replace(keys=None)
        rows = part_of(self.rows.to(device), of_queries)
        columns = part_of(self.columns.to(device), of_queries)
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
        check_tensor("Alibi's slopes", self.slopes)
        check_integer("Alibi's offset", self.offset)

    @classmethod
    def geometric(cls, heads: int, offset: int = 0) -> Alibi:
        """The paper's slopes, ``2 ** (-8 h / heads)``; where `heads` is not a power of two, those of every other place between them follow."""
        power = 2 ** ((heads).bit_length() - 1)
        slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
        slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
        return cls(torch.tensor(slopes), offset)

    def check(self, size: Size) -> None:
        if self.slopes.ndim != 1 or not one_or(self.slopes.shape[0], size.heads) or not self.slopes.is_floating_point():
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
        check_tensor("RelativePosition's table", self.table)
        check_integer("RelativePosition's offset", self.offset)

    def check(self, size: Size) -> None:
        shape = tuple(self.table.shape)
        if (
            len(shape) != 2
            or not one_or(shape[0], size.heads)
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
