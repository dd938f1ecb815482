"""Recurrence quantification of a path (Anderson et al. 2013): how often, in what order and how early places are looked at again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Recurrence:
    """In percent; NaN where there is no recurrence to describe.

    Attributes:
        rate: of all pairs of fixations, those at the same place.
        determinism: of the recurrences, those in diagonals of at least two: places looked at again in the same order.
        laminarity: of the recurrences, those in vertical or horizontal lines: places looked at in detail.
        corm: centre of recurrence mass: how far apart in time recurrences are.
    """

    rate: float
    determinism: float
    laminarity: float
    corm: float


def recurrence_of_objects(path: Sequence[int], *, shortest: int = 2) -> Recurrence:
    """Of object indices: the same object is the same place."""
    objects = np.asarray(path)
    return _measures(objects[:, None] == objects, shortest)


def recurrence_of_points(points: NDArray[np.float64], radius: float, *, shortest: int = 2) -> Recurrence:
    """Of points (fixations, 2) in pixels: nearer than `radius` is the same place."""
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    return _measures(distance <= radius, shortest)


def _measures(same: NDArray[np.bool_], shortest: int) -> Recurrence:
    count = len(same)
    upper = np.triu(same, 1)
    total = int(upper.sum())
    if count < 2 or not total:
        return Recurrence(0.0 if count >= 2 else np.nan, np.nan, np.nan, np.nan)
    pairs = count * (count - 1) / 2
    in_diagonals = sum(_in_runs(np.diagonal(upper, k), shortest) for k in range(1, count))
    in_lines = sum(_in_runs(row, shortest) for row in upper) + sum(_in_runs(column, shortest) for column in upper.T)
    row, column = np.nonzero(upper)
    corm = 100 * (column - row).sum() / ((count - 1) * total)
    return Recurrence(100 * total / pairs, 100 * in_diagonals / total, 100 * in_lines / (2 * total), float(corm))


def _in_runs(values: NDArray[np.bool_], shortest: int) -> int:
    """How many true values stand in runs of at least `shortest`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= shortest].sum())
