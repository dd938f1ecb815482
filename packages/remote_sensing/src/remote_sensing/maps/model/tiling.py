"""The positions of tiles on a sheet, and the weight of each of their pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.sheets.grid import Grid
from remote_sensing.maps.sheets.parts import Part


def taper(side: int) -> NDArray[np.float32]:
    """(side, side) weights of a tile: a Hann bell that never reaches zero, so that every pixel is covered, at the sheet's edge too."""
    bell = 0.02 + 0.98 * np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.outer(bell, bell).astype(np.float32)


class Tiles:
    """The positions of tiles on a sheet: starts of rows and columns, strips of rows that become final together.

    The grid of tiles is anchored to the coordinates: a part cut out as a file of its own has its tiles where the whole has them. A sheet without
    coordinates is its own anchor.

    Args:
        grid: of the sheet.
        side: pixels of the sheet in one tile of the model, before `options.scale`.
        options: overlap and scale.
    """

    def __init__(self, grid: Grid, side: int, options: SegmentOptions) -> None:
        self.side = max(8, round(side * options.scale))
        self.stride = max(1, round(self.side * (1 - options.overlap)))
        self.around = math.ceil(self.side / self.stride) - 1  # tile rows above that reach into a strip
        self.grid = grid
        row, column = corner_in_world(grid)
        self.row_shift, self.column_shift = row % self.stride, column % self.stride

    def row(self, number: int) -> int:
        """Where the tile row of that number begins; may be outside of the sheet."""
        return number * self.stride - self.row_shift

    def column(self, number: int) -> int:
        """Where the tile column of that number begins; may be outside of the sheet."""
        return number * self.stride - self.column_shift

    def strip(self, number: int) -> slice:
        """Rows of the sheet that become final after the tile row of that number."""
        top = self.row(number)
        return slice(max(top, 0), min(top + self.stride, self.grid.height))

    def strips_of(self, rows: slice) -> range:
        """Numbers of the strips that touch some rows."""
        first = (rows.start + self.row_shift) // self.stride
        last = (rows.stop - 1 + self.row_shift) // self.stride
        return range(first, last + 1)

    def columns_of(self, columns: slice) -> range:
        """Numbers of the tile columns that touch some columns."""
        first = (columns.start + self.column_shift) // self.stride - self.around
        last = (columns.stop - 1 + self.column_shift) // self.stride
        return range(first, last + 1)

    def count(self, part: Part) -> int:
        """How many tiles a part needs."""
        return (len(self.strips_of(part.rows)) + self.around) * len(self.columns_of(part.columns))


def corner_in_world(grid: Grid) -> tuple[int, int]:
    """Row and column of a sheet's first pixel on the lattice of its pixels that begins at the coordinates' origin."""
    if not grid.georeferenced:
        return 0, 0
    # the transform maps (column, row) to (a column + b row + c, d column + e row + f); its inverse at the origin is the corner, negated
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    determinant = a * e - b * d
    column, row = (e * c - b * f) / determinant, (a * f - d * c) / determinant
    # corners lie mostly on the lattice or in the middle between: rounding to a quarter is safe for both
    return math.floor(row + 0.25), math.floor(column + 0.25)
