"""From heat to a mask, a box and a point."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vision_language.results import Box

Threshold = Literal["otsu", "half"]


def otsu(heat: NDArray[np.floating]) -> float:
    """The threshold between two groups of values with the greatest variance between them (Otsu 1979), on 256 levels."""
    low, high = float(heat.min()), float(heat.max())
    if high <= low:
        return high
    counts, edges = np.histogram(heat, bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total, sums = below[-1], np.cumsum(counts * centres)
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between)
    best = np.flatnonzero(between == between.max())  # a gap between the groups has one variance: its middle
    return float(centres[best].mean())


def mask_of(
    heat: NDArray[np.floating], threshold: float, *, holding: tuple[float, float] | None = None
) -> NDArray[np.bool_]:
    """What is above the threshold; of several pieces the one that holds a point (x, y), else the one with the most heat."""
    from scipy import ndimage

    mask = heat > threshold
    labelled: Any = ndimage.label(mask)
    labels, count = labelled
    if count < 2:
        return mask
    if holding is not None:
        row, column = min(int(holding[1]), heat.shape[0] - 1), min(int(holding[0]), heat.shape[1] - 1)
        if labels[row, column]:
            return labels == labels[row, column]
    sums = ndimage.sum_labels(heat, labels, np.arange(1, count + 1))
    return labels == 1 + int(np.argmax(sums))


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """left, top, right, bottom in pixels, right and bottom behind the last; None of an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def peak_of(heat: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """The centre of the warmest pixel, (x, y), of those of a mask where it has some; of equal ones the first."""
    if mask is not None and mask.any():
        heat = np.where(mask, heat, -np.inf)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return float(column) + 0.5, float(row) + 0.5
