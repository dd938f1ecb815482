"""MultiMatch (Jarodzka et al. 2010; Dewhurst et al. 2012): how alike two paths are in shape, direction, length, position and duration.

Equal to multimatch-gaze 0.1.3 without its simplification. All pairs are aligned together: the cheapest monotone path through the matrix of
differences between saccade vectors, one antidiagonal of all matrices at a time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_CELLS = 4_000_000  # of all matrices aligned together: about 200 MB


@dataclass(frozen=True)
class Similarity:
    """Between 0 and 1 each, 1 for equal paths; all NaN where a path has fewer than three fixations.

    Attributes:
        vector: of the saccade vectors.
        direction: of their angles.
        length: of their lengths.
        position: of the fixations from which saccades start.
        duration: of these fixations; NaN without durations.
    """

    vector: float
    direction: float
    length: float
    position: float
    duration: float


def multimatch(first: Points, second: Points, size: tuple[float, float], *, legacy_pad: bool = False) -> Similarity:
    """Two paths.

    Args:
        first, second: (fixations, 2) with x and y in pixels, or (fixations, 3) with the duration behind.
        size: width and height of the screen, in pixels.
        legacy_pad: fill paths of fewer than three fixations with the point (1, 1), as OAT's published evaluation does.
    """
    row = multimatch_pairs([first], [second], size, legacy_pad=legacy_pad)[0]
    return Similarity(*row.tolist())


def multimatch_pairs(
    first: Sequence[Points], second: Sequence[Points], size: tuple[float, float], *, legacy_pad: bool = False
) -> NDArray[np.float64]:
    """Many pairs; (pairs, 5) in the order of `Similarity`'s fields."""
    if len(first) != len(second):
        raise ValueError(f"pairs need as many first as second paths, got {len(first)} and {len(second)}")
    paths_a = [_prepared(path, legacy_pad) for path in first]
    paths_b = [_prepared(path, legacy_pad) for path in second]
    result = np.full((len(paths_a), len(fields(Similarity))), np.nan)
    usable = [i for i in range(len(paths_a)) if len(paths_a[i]) >= 3 and len(paths_b[i]) >= 3]
    # pairs of similar size together, so that little is padded
    usable.sort(key=lambda i: (len(paths_a[i]), len(paths_b[i])))
    for chunk in _chunks(usable, paths_a, paths_b):
        similarity = _compare([paths_a[i] for i in chunk], [paths_b[i] for i in chunk])
        result[chunk] = similarity
    diagonal = float(np.hypot(*size))
    scale = np.array([2 * diagonal, np.pi, diagonal, diagonal, 1.0])
    return 1 - result / scale


def _prepared(path: Points, legacy_pad: bool) -> Points:
    path = np.asarray(path, np.float64)
    if path.ndim != 2 or path.shape[1] not in (2, 3):
        raise ValueError(f"a path has the shape (fixations, 2) or (fixations, 3), got {path.shape}")
    if path.shape[1] == 2:
        path = np.column_stack([path, np.full(len(path), np.nan)])
    missing = 3 - len(path)
    if legacy_pad and missing > 0:
        path = np.concatenate([path, np.broadcast_to([1.0, 1.0, np.nan], (missing, 3))])
    return path


def _chunks(order: Sequence[int], first: Sequence[Points], second: Sequence[Points]) -> Iterator[list[int]]:
    """Pairs whose padded matrices fit into memory together."""
    chunk: list[int] = []
    rows, columns = 0, 0
    for i in order:
        larger = max(rows, len(first[i])), max(columns, len(second[i]))
        if chunk and (len(chunk) + 1) * larger[0] * larger[1] > _CELLS:
            yield chunk
            chunk, larger = [], (len(first[i]), len(second[i]))
        chunk.append(i)
        rows, columns = larger
    if chunk:
        yield chunk


@dataclass(frozen=True)
class _Saccades:
    """Of many paths, padded: all of shape (paths, longest)."""

    count: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    duration: NDArray[np.float64]


def _saccades(paths: Sequence[Points]) -> _Saccades:
    count = np.array([len(path) - 1 for path in paths])
    padded = np.zeros((5, len(paths), count.max()))
    for i, path in enumerate(paths):
        step = np.diff(path[:, :2], axis=0)
        padded[:2, i, : count[i]] = path[:-1, :2].T
        padded[2:4, i, : count[i]] = step.T
        padded[4, i, : count[i]] = path[:-1, 2]
    return _Saccades(count, *padded)


def _compare(first: Sequence[Points], second: Sequence[Points]) -> NDArray[np.float64]:
    """Medians of the differences along the alignment of each pair, (pairs, 5), not yet scaled."""
    a, b = _saccades(first), _saccades(second)
    # the same operation as multimatch-gaze's, so that ties fall alike
    cost = np.sqrt((a.dx[:, :, None] - b.dx[:, None]) ** 2 + (a.dy[:, :, None] - b.dy[:, None]) ** 2)
    rows, columns, there = _align(cost, a.count, b.count)
    pair = np.arange(len(first))[:, None]
    vector = cost[pair, rows, columns]
    angle_a, angle_b = np.arctan2(a.dy, a.dx)[pair, rows], np.arctan2(b.dy, b.dx)[pair, columns]
    turn = np.abs(angle_a % (2 * np.pi) - angle_b % (2 * np.pi))
    direction = np.minimum(turn, 2 * np.pi - turn)
    length = np.abs(np.hypot(a.dx, a.dy)[pair, rows] - np.hypot(b.dx, b.dy)[pair, columns])
    position = np.hypot(a.x[pair, rows] - b.x[pair, columns], a.y[pair, rows] - b.y[pair, columns])
    lasted, other = a.duration[pair, rows], b.duration[pair, columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        duration = np.abs(lasted - other) / np.maximum(lasted, other)
    return np.stack([_median(values, there) for values in (vector, direction, length, position, duration)], 1)


def _median(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the first entries of each row; NaN among them gives NaN."""
    count = there.sum(1)
    ordered = np.sort(np.where(there, values, np.inf), axis=1)
    row = np.arange(len(values))
    middle = (ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2
    return np.where((np.isnan(values) & there).any(1), np.nan, middle)


def _align(
    cost: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The cheapest way from the first to the last cell of each matrix, right, down or diagonally, paying for each cell entered.

    Of equally cheap ways it takes the one that comes diagonally, else from above, else from the left: as the published code does.

    Returns:
        Rows and columns of the cells (pairs, longest way), from the last to the first, and which entries are there.
    """
    pairs, height, width = cost.shape
    steps = height + width - 1
    # antidiagonals as rows: entry [s, row] is the cell (row, s - row), so that a step reads and writes whole slices
    s, row = np.arange(steps)[:, None], np.arange(height)
    inside = (s >= row) & (s - row < width)
    slanted = np.full((steps, pairs, height), np.inf)
    s_in, row_in = np.nonzero(inside)
    slanted[s_in, :, row_in] = cost[:, row_in, s_in - row_in].T
    total = np.full((steps + 1, pairs, height + 1), np.inf)  # one step and one row before the first
    total[1, :, 1] = 0  # the first cell is entered by nobody
    for step in range(1, steps):
        before = total[step]
        best = total[step + 1, :, 1:]
        np.minimum(before[:, :-1], before[:, 1:], out=best)  # from above, from the left
        np.minimum(best, total[step - 1, :, :-1], out=best)  # diagonally
        best += slanted[step]
    if pairs == 1:
        return _walk_back_one(total[:, 0], int(rows[0]), int(columns[0]))
    return _walk_back(total, rows, columns)


def _walk_back_one(
    total: NDArray[np.float64], rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """`_walk_back` of a single pair: arrays of one entry cost more than what is computed with them."""
    costs = total.tolist()
    row, column = rows - 1, columns - 1
    way = [(row, column)]
    while row or column:
        s = row + column
        diagonal = math.inf
        if s > 1:
            diagonal = costs[s - 1][row]
        up, left = costs[s][row], costs[s][row + 1]
        if diagonal <= up and diagonal <= left:
            row, column = row - 1, column - 1
        elif up <= left:
            row -= 1
        else:
            column -= 1
        way.append((row, column))
    cells = np.array(way)[None]
    return cells[..., 0], cells[..., 1], np.ones((1, len(way)), bool)


def _walk_back(
    total: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The ways that led to the least totals; `total` is indexed by antidiagonal + 1 and row + 1."""
    pairs = total.shape[1]
    longest = total.shape[0] - 1
    ways = np.zeros((2, pairs, longest), np.int64)
    there = np.zeros((pairs, longest), bool)
    pair = np.arange(pairs)
    row, column = rows - 1, columns - 1
    for step in range(longest):
        ways[0, pair, step], ways[1, pair, step], there[pair, step] = row, column, True
        going = (row > 0) | (column > 0)
        if not going.all():
            pair, row, column = pair[going], row[going], column[going]
        if not len(pair):
            break
        s = row + column
        # outside the matrix every total is infinite; the first antidiagonals have no diagonal neighbour
        diagonal = np.where(s > 1, total[np.maximum(s - 1, 0), pair, row], np.inf)
        up, left = total[s, pair, row], total[s, pair, row + 1]
        from_diagonal = (diagonal <= up) & (diagonal <= left)
        from_above = ~from_diagonal & (up <= left)
        row = row - (from_diagonal | from_above)
        column = column - (from_diagonal | ~from_above)
    return ways[0], ways[1], there
