"""Masks of lines to centre-lines: skeleton, graph, spurs pruned, gaps bridged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Point


def centre_lines(
    mask: NDArray[np.bool_], *, spur: float = 10.0, gap: float = 0.0, angle: float = 40.0
) -> list[LineString]:
    """Centre-lines of a mask, in pixel coordinates (pixel centres are at .5), from junction to junction.

    Args:
        mask: where the feature is.
        spur: dead ends shorter than this many pixels that hang on a junction are pruned.
        gap: ends at most this many pixels apart that point at each other are joined; 0 joins none.
        angle: degrees by which each end may point past the other.
    """
    from skimage.morphology import skeletonize

    if not mask.any():
        return []
    lines = _traced(skeletonize(np.ascontiguousarray(mask)))
    lines = pruned(lines, spur)
    if gap > 0:
        lines = pruned(bridged(lines, gap, angle), spur)
    return [line for line in lines if line.length > 0]


_STRIP = 256  # rows of a skeleton traced at once
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns) to the neighbours that come later


def _traced(skeleton: NDArray[np.bool_]) -> list[LineString]:
    """The pixel graph of a skeleton as lines between junctions; a diagonal step only where no straight steps connect the same pixels.

    A strip of rows at a time: a line object for every step of a large network would take a hundred bytes per pixel.
    """
    padded = np.pad(skeleton, 1)
    degree = _degrees(padded)
    lines: list[LineString] = []
    for top in range(0, len(padded) - 1, _STRIP):
        lines += _traced_strip(padded, degree, top, min(top + _STRIP, len(padded) - 1))
    return _merged(lines)


def _steps(padded: NDArray[np.bool_], top: int, bottom: int) -> Iterator[tuple[NDArray, NDArray, int, int]]:
    """For each kind of step: rows and columns of the pixels (between two rows) that have that later neighbour, and the step."""
    y, x = np.nonzero(padded[top:bottom])
    y = y + top
    for dy, dx in _STEPS:
        there = padded[y + dy, x + dx]
        if dy and dx:
            there &= ~padded[y + dy, x] & ~padded[y, x + dx]
        yield y[there], x[there], dy, dx


def _degrees(padded: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Number of steps that meet at each pixel of a skeleton."""
    degree = np.zeros(padded.shape, np.uint8)
    for top in range(0, len(padded) - 1, _STRIP):
        for y, x, dy, dx in _steps(padded, top, min(top + _STRIP, len(padded) - 1)):
            # numpy adds once per index; steps of one kind leave, and reach, a pixel at most once
            degree[y, x] += 1
            degree[y + dy, x + dx] += 1
    return degree


def _traced_strip(padded: NDArray[np.bool_], degree: NDArray[np.uint8], top: int, bottom: int) -> list[LineString]:
    """The lines of the steps that begin in some rows, between junctions, ends and the rows where the next strip begins."""
    segments = []
    for kind, (y, x, dy, dx) in enumerate(_steps(padded, top, bottom)):
        ends = np.stack([np.stack([x, y], 1), np.stack([x + dx, y + dy], 1)], 1).astype(np.float64)
        for last in (0, 1):
            columns, rows = ends[:, last, 0].astype(int), ends[:, last, 1].astype(int)
            fixed = (degree[rows, columns] != 2) | (rows == top) | (rows == bottom)
            # line_merge joins where two ends are equal: at a fixed pixel each step gets an end of its own, undone below by rounding
            ends[fixed, last, 0] += 1e-3 * (2 * kind + last + 1)
        segments.append(ends)
    merged = _merged(np.asarray(shapely.linestrings(np.concatenate(segments)), dtype=object).tolist())
    # the padding takes one pixel off, the centre adds a half
    return [shapely.transform(line, lambda points: np.round(points) - 0.5) for line in merged]


def _merged(lines: list[LineString]) -> list[LineString]:
    """Joined at every point where exactly two meet."""
    if not lines:
        return []
    merged = shapely.line_merge(shapely.multilinestrings(lines))
    return [line for line in shapely.get_parts(merged) if line.length > 0]


def _ends(lines: list[LineString]) -> NDArray:
    """First and last points (lines, 2, 2), rounded so that equal ones compare equal."""
    return np.round([[line.coords[0], line.coords[-1]] for line in lines], 6)


def pruned(lines: list[LineString], spur: float) -> list[LineString]:
    """Without dead ends shorter than `spur` that hang on a junction, the shortest of each junction first."""
    # a junction that has lost a spur is a point within a line, and that line may now be a short dead end itself
    for _ in range(10):
        if spur <= 0 or not lines:
            return lines
        ends = _ends(lines)
        _, number, count = np.unique(ends.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True)
        number = number.reshape(-1, 2)
        degree = count[number]
        hanging = (degree.min(1) == 1) & (degree.max(1) > 1)
        short = [i for i in np.flatnonzero(hanging) if lines[i].length < spur]
        if not short:
            return lines
        # one spur per junction and round: of two short branches of a fork one is the end of the line
        junctions: set[int] = set()
        spurs = set()
        for i in sorted(short, key=lambda i: lines[i].length):
            junction = int(number[i][degree[i].argmax()])
            if junction not in junctions:
                junctions.add(junction)
                spurs.add(i)
        lines = _merged([line for i, line in enumerate(lines) if i not in spurs])
    return lines


def bridged(lines: list[LineString], gap: float, angle: float) -> list[LineString]:
    """With straight pieces between dead ends that are near and point at each other, the nearest pairs first."""
    from scipy.spatial import KDTree

    if len(lines) < 2:
        return lines
    ends = _ends(lines).reshape(-1, 2)
    _, number, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    # end i is of line i // 2: its first point where i is even, its last where it is odd
    dead = np.flatnonzero(count[number.reshape(-1)] == 1)
    if len(dead) < 2:
        return lines
    points = ends[dead]
    outward = np.array([_direction(lines[i // 2], last=bool(i % 2)) for i in dead])
    pairs = KDTree(points).query_pairs(gap, output_type="ndarray")
    if not len(pairs):
        return lines
    step = points[pairs[:, 1]] - points[pairs[:, 0]]
    distance = np.linalg.norm(step, axis=1)
    unit = step / np.maximum(distance, 1e-9)[:, None]
    # both ends must point at each other: cosines between the gap and either direction
    least = np.cos(np.radians(angle))
    from_first = (unit * outward[pairs[:, 0]]).sum(1)
    from_second = (-unit * outward[pairs[:, 1]]).sum(1)
    facing = (from_first >= least) & (from_second >= least)
    joined: set[int] = set()
    bridges = []
    for i in np.argsort(distance):
        first, second = map(int, pairs[i])
        near_enough = facing[i] or distance[i] < 1.5  # neighbouring pixels have no direction to speak of
        of_one_line = dead[first] // 2 == dead[second] // 2
        if near_enough and not of_one_line and not joined & {first, second}:
            joined |= {first, second}
            bridges.append(LineString([points[first], points[second]]))
    return _merged([*lines, *bridges])


def _direction(line: LineString, *, last: bool, reach: float = 12.0) -> NDArray:
    """Unit vector out of a line's end, over its last `reach` pixels: single steps of a skeleton go only in eight directions."""
    if last:
        end = Point(line.coords[-1])
        back = line.interpolate(max(line.length - reach, 0))
    else:
        end = Point(line.coords[0])
        back = line.interpolate(min(reach, line.length))
    vector = np.array([end.x - back.x, end.y - back.y])
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
