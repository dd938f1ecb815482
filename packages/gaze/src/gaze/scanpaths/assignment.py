"""Which object a fixation belongs to, and what a scanpath did with each object."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaze.scanpaths.aois import Areas
from gaze.scanpaths.scanpath import Scanpath

_POINTS_AT_A_TIME = 4096


def assign(areas: Areas, points: NDArray[np.float64], *, nearest: bool = False) -> NDArray[np.int64]:
    """Which object each fixation belongs to: the smallest that contains it, of equal ones the first.

    Left and top edges belong to a box, right and bottom ones do not.

    Args:
        areas: the objects.
        points: (fixations, 2), x and y in pixels.
        nearest: those in no object go to that with the nearest box centre, as published for the Amazon book covers.

    Returns:
        (fixations,): indices of objects, -1 for none.
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    indices = np.full(len(points), -1, np.int64)
    if not len(areas.names):
        return indices
    for start in range(0, len(points), _POINTS_AT_A_TIME):
        some = slice(start, start + _POINTS_AT_A_TIME)
        indices[some] = (
            _inside_labels(areas.labels, points[some]) if areas.labels is not None else _inside(areas, points[some])
        )
    lost = np.flatnonzero(indices < 0)
    if nearest and len(lost):
        centres = areas.centres
        for start in range(0, len(lost), _POINTS_AT_A_TIME):
            some = lost[start : start + _POINTS_AT_A_TIME]
            squares = (points[some, None, 0] - centres[:, 0]) ** 2 + (points[some, None, 1] - centres[:, 1]) ** 2
            indices[some] = squares.argmin(1)
    return indices


def _inside_labels(labels: NDArray[np.int32], points: NDArray[np.float64]) -> NDArray[np.int64]:
    height, width = labels.shape
    column, row = np.floor(points).astype(np.int64).T
    within = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    indices = np.full(len(points), -1, np.int64)
    indices[within] = labels[row[within], column[within]].astype(np.int64) - 1
    return indices


def _inside(areas: Areas, points: NDArray[np.float64]) -> NDArray[np.int64]:
    boxes = areas.boxes
    size = boxes[:, 2] * boxes[:, 3]
    for place, polygon in areas.polygons.items():
        size[place] = _polygon_size(polygon)
    order = np.argsort(size, kind="stable")  # the smallest first: the first that contains a point is its object
    left, top, width, height = boxes[order].T
    x, y = points[:, :1], points[:, 1:]
    contains = (x >= left) & (y >= top) & (x < left + width) & (y < top + height)
    place_of = np.argsort(order)
    for place, polygon in areas.polygons.items():
        column = place_of[place]
        candidates = np.flatnonzero(contains[:, column])
        contains[candidates, column] = in_polygon(polygon, points[candidates])
    first = contains.argmax(1)
    return np.where(contains[np.arange(len(points)), first], order[first], -1)


def _polygon_size(polygon: NDArray[np.float64]) -> float:
    """The shoelace formula."""
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def in_polygon(polygon: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points lie in a polygon: a ray to the right crosses its edges an odd number of times."""
    inside = np.zeros(len(points), bool)
    x, y = points.T
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def object_of_box(areas: Areas, box: Sequence[float]) -> int:
    """The object whose box overlaps the given one most (intersection over union); -1: none overlaps, such as an absent target's."""
    if not len(areas.names):
        return -1
    left, top, width, height = areas.boxes.T
    across = np.minimum(left + width, box[0] + box[2]) - np.maximum(left, box[0])
    down = np.minimum(top + height, box[1] + box[3]) - np.maximum(top, box[1])
    common = np.clip(across, 0, None) * np.clip(down, 0, None)
    union = width * height + box[2] * box[3] - common
    best = int(np.argmax(common / union))
    if common[best] > 0:
        return best
    return -1


def dwell(indices: Sequence[int] | NDArray[np.int64], scanpath: Scanpath, names: Sequence[str]) -> list[dict[str, Any]]:
    """What a scanpath did with each object that it visited, a row for each.

    Args:
        indices: (fixations,): of the objects, -1 for none, as from `assign`.
        scanpath: its durations and onsets.
        names: of the objects.

    Returns:
        Rows of area; fixations; entries (times that gaze came to it); revisits (entries after the first); dwell_ms (the sum of durations; None
        where one is not known); first_fixation (its number, 1 for the first of the path) and first_at_ms (None where it is not known).
    """
    places = np.asarray(indices, np.int64)
    if len(places) != len(scanpath):
        raise ValueError(f"{len(places)} indices for {len(scanpath)} fixations")
    on_object = places >= 0
    count = len(names)
    comes = on_object & np.concatenate([[True], np.diff(places) != 0])[: len(places)]
    fixations = np.bincount(places[on_object], minlength=count)
    entries = np.bincount(places[comes], minlength=count)
    durations = np.bincount(places[on_object], weights=scanpath.duration[on_object], minlength=count)
    visited, first = np.unique(places[on_object], return_index=True)
    numbers_of_fixations = np.flatnonzero(on_object)[first]
    rows = []
    for place, fixation in zip(visited, numbers_of_fixations, strict=True):
        onset, total = float(scanpath.onset[fixation]), float(durations[place])
        rows.append(
            {
                "area": names[place],
                "fixations": int(fixations[place]),
                "entries": int(entries[place]),
                "revisits": int(entries[place]) - 1,
                "dwell_ms": None if np.isnan(total) else total,
                "first_fixation": int(fixation) + 1,
                "first_at_ms": None if np.isnan(onset) else onset,
            }
        )
    return rows
