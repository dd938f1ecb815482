"""From attention over cells to points: 4-connected regions of cells near the maximum, their scores and centres."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scoring = Literal["max", "mean"]


@dataclass(frozen=True)
class Region:
    """Connected cells that the model looks at.

    Attributes:
        x, y: the centre, as shares of the image.
        score: the largest attention of a cell (V2P), or the mean (GUI-Actor).
        mass: sum of the attention over its cells.
        cells: their numbers, row by row.
    """

    x: float
    y: float
    score: float
    mass: float
    cells: NDArray[np.int64]


def find_regions(
    scores: NDArray[np.floating],
    columns: int,
    rows: int,
    *,
    threshold: float = 0.3,
    scoring: Scoring = "max",
    rect_center: bool = False,
) -> Sequence[Region]:
    """The regions of one row of attention, best first; the click is the first one's centre.

    Args:
        scores: (rows · columns,) attention over the cells, row by row.
        columns, rows: of the grid of cells.
        threshold: cells above this share of the maximum belong to a region.
        scoring: ``max`` as V2P, ``mean`` as GUI-Actor.
        rect_center: centre of the distinct columns and of the distinct rows, instead of the mean weighted by attention.

    Raises:
        ValueError: another number of scores, scores that are not finite or none above 0, or a threshold that no cell passes.
    """
    from scipy import ndimage

    if scores.shape != (rows * columns,):
        raise ValueError(
            f"the scores have shape {scores.shape}, expected {rows * columns} for {rows} × {columns} cells"
        )
    if not 0 <= threshold < 1:
        raise ValueError(f"the threshold is {threshold}, expected a share of the maximum below 1")
    weights = scores.astype(np.float64)
    if not np.isfinite(weights).all() or weights.max() <= 0:
        raise ValueError("the attention is not finite, or 0 everywhere")
    grid = weights.reshape(rows, columns)
    names = np.zeros((rows, columns), np.int32)
    ndimage.label(grid > threshold * grid.max(), output=names)
    count = int(names.max())
    of_cell = names.ravel()
    active = np.flatnonzero(of_cell)
    # cells by region, each region's row by row
    order = active[np.argsort(of_cell[active], kind="stable")]
    begins = np.searchsorted(of_cell[order], np.arange(1, count + 1))
    inside = weights[order]
    x, y = (order % columns + 0.5) / columns, (order // columns + 0.5) / rows
    sizes = np.diff(begins, append=len(order))
    masses = np.add.reduceat(inside, begins)
    scored = np.maximum.reduceat(inside, begins) if scoring == "max" else masses / sizes
    centres_x = np.add.reduceat(inside * x, begins) / masses
    centres_y = np.add.reduceat(inside * y, begins) / masses
    regions = []
    # of equal scores the region that begins first comes first
    for rank in np.argsort(-scored, kind="stable").tolist():
        begin, end = int(begins[rank]), int(begins[rank] + sizes[rank])
        centre = float(centres_x[rank]), float(centres_y[rank])
        if rect_center:
            centre = float(np.unique(x[begin:end]).mean()), float(np.unique(y[begin:end]).mean())
        regions.append(Region(*centre, float(scored[rank]), float(masses[rank]), order[begin:end]))
    return regions


def entropy_of(scores: NDArray[np.floating]) -> float:
    """Entropy of a distribution over cells as a share of the largest possible: 0 for one cell, 1 for all alike."""
    if len(scores) < 2:
        return 0.0
    positive = scores[scores > 0].astype(np.float64)
    return float(-(positive * np.log(positive)).sum() / math.log(len(scores)))
