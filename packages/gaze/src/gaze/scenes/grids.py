"""Objects in equal cells of a grid, row by row: shelves, pages of covers, a screen cut into parts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError

MOST_CELLS = 10_000


@dataclass(frozen=True)
class Grid:
    """Rows and columns of equal cells.

    Attributes:
        rows, columns: how many.
        cell: height and width of one, in pixels.
        top, left: where the first begins, in pixels from the upper left corner.
    """

    rows: int
    columns: int
    cell: tuple[float, float]
    top: float = 0.0
    left: float = 0.0

    def boxes(self) -> NDArray[np.float64]:
        """(cells, 4): left, top, width and height of each, in pixels."""
        height, width = self.cell
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        size = np.broadcast_to([width, height], (len(row), 2))
        return np.column_stack([self.left + column * width, self.top + row * height, size])

    def places(self) -> NDArray[np.float64]:
        """(cells, 2): row and column of each."""
        return np.stack(np.divmod(np.arange(self.rows * self.columns), self.columns), 1).astype(np.float64)


def equal_grid(rows: int, columns: int, size: tuple[int, int]) -> Grid:
    """A grid that fills a picture.

    Args:
        rows, columns: of the grid.
        size: width and height of the picture, in pixels.

    Raises:
        UserError: no cell, more than `MOST_CELLS`, or cells smaller than a pixel.
    """
    if rows < 1 or columns < 1:
        raise UserError(f"a grid of {rows} rows and {columns} columns holds nothing", "write it as ROWS,COLUMNS")
    if rows * columns > MOST_CELLS or rows > size[1] or columns > size[0]:
        raise UserError(
            f"a grid of {rows} × {columns} cells is too fine for {size[0]} × {size[1]} pixels",
            f"take at most {MOST_CELLS:,} cells, each of a pixel or more",
        )
    return Grid(rows, columns, (size[1] / rows, size[0] / columns))


def grid_centres(
    rows: int, columns: int, cell: tuple[float, float], *, top: float = 0.0, left: float = 0.0
) -> NDArray[np.float64]:
    """(cells, 2): x and y of the middle of each cell, in pixels."""
    boxes = Grid(rows, columns, cell, top, left).boxes()
    return boxes[:, :2] + boxes[:, 2:] / 2
