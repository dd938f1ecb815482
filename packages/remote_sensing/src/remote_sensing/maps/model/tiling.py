"""Where tiles lie on a sheet, and how much each of their pixels counts."""

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
    """Where tiles lie on a sheet: starts of rows and columns, strips of rows that become final together.

    Args:
        grid: of the sheet.
        side: pixels of the sheet in one tile of the model, before `options.scale`.
        options: overlap and scale.
        shift: pixels by which the grid of tiles is moved.
    """

    def __init__(self, grid: Grid, side: int, options: SegmentOptions, *, shift: int = 0) -> None:
        self.side = max(8, round(side * options.scale))
        self.stride = max(1, round(self.side * (1 - options.overlap)))
        self.around = math.ceil(self.side / self.stride) - 1  # tile rows above that reach into a strip
        self.shift, self.grid = shift, grid

    def strip(self, number: int) -> slice:
        """Rows of the sheet that become final after the tile row of that number."""
        top = self.start(number)
        return slice(max(top, 0), min(top + self.stride, self.grid.height))

    def strips_of(self, rows: slice) -> range:
        """Numbers of the strips that touch some rows."""
        return range((rows.start + self.shift) // self.stride, (rows.stop - 1 + self.shift) // self.stride + 1)

    def start(self, number: int) -> int:
        """Where the tile row (or column) of that number begins; may be outside of the sheet."""
        return number * self.stride - self.shift

    def columns_of(self, columns: slice) -> range:
        """Numbers of the tile columns that touch some columns."""
        first = (columns.start + self.shift) // self.stride - self.around
        last = (columns.stop - 1 + self.shift) // self.stride
        return range(first, last + 1)

    def count(self, part: Part) -> int:
        """How many tiles a part needs."""
        return (len(self.strips_of(part.rows)) + self.around) * len(self.columns_of(part.columns))
