"""The cells of a boundary-matching map, and the constant matrix that reads each cell's features from a sequence.

A cell is a segment: it starts at step i and ends at the end of step j. Its features are read at N·P points spread evenly over the segment and a
margin on both sides; each of N bins is the mean of its P points, and a point reads its two neighbouring steps by linear interpolation.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

Layout = Literal["start_end", "duration_start"]


@dataclass(frozen=True)
class Cells:
    """Which segments a map holds, and where.

    Attributes:
        steps: T of the sequence.
        longest: the most steps of a segment; the map has no cell for longer ones.
        layout: rows and columns of the map: start and end step (JJBOY's code), or duration and start (the paper).
    """

    steps: int
    longest: int
    layout: Layout = "start_end"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        if self.layout == "start_end":
            return self.steps, self.steps
        return self.longest, self.steps

    @property
    def pairs(self) -> NDArray[np.int64]:
        """(cells, 2): start and end step of every cell, both included."""
        starts, ends = np.triu_indices(self.steps)
        short = ends - starts < self.longest
        return np.stack([starts[short], ends[short]], 1)

    @property
    def places(self) -> NDArray[np.int64]:
        """The flat position of every cell in the map."""
        starts, ends = self.pairs.T
        rows, columns = starts, ends
        if self.layout == "duration_start":
            rows, columns = ends - starts, starts
        return rows * self.shape[1] + columns

    def read(self, values: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch cells"]:
        """The values of a map at its cells."""
        return values.flatten(-2)[..., torch.from_numpy(self.places).to(values.device)]

    def mask(self, device: Any = None) -> Float[Tensor, "rows columns"]:
        """1 at the cells of the map, 0 where it has none."""
        mask = torch.zeros(self.shape[0] * self.shape[1], device=device)
        mask[torch.from_numpy(self.places).to(mask.device)] = 1
        return mask.view(self.shape)


@dataclass(frozen=True)
class Sampling:
    """How a cell's features are read.

    Attributes:
        bins: N.
        points: P, samples of a bin.
        margin: on both sides, as a share of the segment's length.
        widened: count a segment's length from step i to j + 1, and one more, as JJBOY's code does; otherwise as OpenTAD's does.
    """

    bins: int = 32
    points: int = 3
    margin: float = 0.5
    widened: bool = True


def sampling_matrix(cells: Cells, sampling: Sampling) -> csr_array:
    """The weights by which cells read steps: (cells, steps · bins), sparse; the column of bin n and step t is ``n · steps + t``.

    A point between two steps counts on both. One before the first step counts on it alone while it is less than a step away; one behind
    the last step keeps the share of that step; others count nothing.
    """
    # in float64 and in this order of operations, as published: a point that lies at -1 up to rounding counts wholly or not at all
    pairs = cells.pairs.astype(np.float64)
    starts, ends = pairs[:, 0], pairs[:, 1] + 1
    lengths = ends - starts + 1
    if not sampling.widened:
        ends = ends - 1
        lengths = ends - starts
    first, last = starts - lengths * sampling.margin, ends + lengths * sampling.margin
    count = sampling.bins * sampling.points
    gaps = (last - first) / max(1, count - 1)
    points = first[:, None] + gaps[:, None] * np.arange(count)  # (cells, points)
    below, above = np.trunc(points), np.ceil(points)  # the former towards zero, as published
    share = points - below
    # a bin spans a few steps from that of its first point: its weights are summed there, in `width` places
    shape = (len(pairs), sampling.bins, sampling.points)
    base = below.reshape(shape)[:, :, :1]
    width = int((above.reshape(shape)[:, :, -1:] - base).max()) + 1
    row = np.arange(len(pairs) * sampling.bins).reshape(*shape[:2], 1) * width
    place = (row + (below.reshape(shape) - base).astype(np.int64)).ravel()
    sums = np.zeros(len(pairs) * sampling.bins * width)
    for step, weight, where in ((below, 1 - share, place), (above, share, place + (above > below).ravel())):
        weight[(points <= -1) | (step < 0) | (step >= cells.steps)] = 0.0
        sums += np.bincount(where, weight.ravel(), len(sums))
    entries = np.flatnonzero(sums)
    bins = entries // width  # numbered through all cells
    steps = base.ravel()[bins].astype(np.int64) + entries % width
    columns = bins % sampling.bins * cells.steps + steps
    pointers = np.concatenate([[0], np.bincount(bins // sampling.bins, minlength=len(pairs)).cumsum()])
    size = (len(pairs), cells.steps * sampling.bins)
    return csr_array((sums[entries] / sampling.points, columns, pointers), shape=size)


@lru_cache(4)
def sampling_tensors(cells: Cells, sampling: Sampling) -> tuple[Tensor, ...]:
    """`sampling_matrix` and its transpose as (row pointers, columns, values) twice, for `Reading`."""
    matrix = sampling_matrix(cells, sampling)
    parts: list[Tensor] = []
    for each in (matrix, matrix.T.tocsr()):
        parts += [torch.from_numpy(each.indptr.astype(np.int32)), torch.from_numpy(each.indices.astype(np.int32))]
        parts.append(torch.from_numpy(each.data.astype(np.float32)))
    return tuple(parts)


def dense_mask(cells: Cells, sampling: Sampling) -> Float[Tensor, "steps places"]:
    """The published constant ``sample_mask``: (steps, bins · rows · columns)."""
    matrix = sampling_matrix(cells, sampling)
    places = cells.shape[0] * cells.shape[1]
    bins, steps = np.divmod(matrix.indices, cells.steps)
    of_cell = np.repeat(cells.places, np.diff(matrix.indptr))
    mask = np.zeros(cells.steps * sampling.bins * places, np.float32)
    mask[(steps * sampling.bins + bins) * places + of_cell] = matrix.data
    return torch.from_numpy(mask.reshape(cells.steps, -1))


def _csr(parts: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
    pointers, columns, values = parts[:3]
    with torch.sparse.check_sparse_tensor_invariants(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse matrices are in beta, which torch says once
        return torch.sparse_csr_tensor(pointers, columns, values.to(dtype), (len(pointers) - 1, width))


class Reading(torch.autograd.Function):
    """A constant sparse matrix times a dense one. The gradient is the transposed matrix times the output's gradient, and nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, parts: Sequence[Tensor]) -> Tensor:
        ctx.parts = parts
        return _csr(parts, y.shape[0], y.dtype) @ y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        parts = ctx.parts
        return Reading.apply(grads[0], (*parts[3:], *parts[:3])), None  # type: ignore[return-value]
