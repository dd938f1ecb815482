"""How alike two sequences of fixated objects are: sequence score, edit distance, ScanMatch. Many pairs at once."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NEITHER = (-1, -2)  # paddings of the two sides, equal to no object and not to each other


def sequence_score(first: Sequence[int], second: Sequence[int]) -> float:
    """Needleman–Wunsch with match 1, mismatch 0 and gap 0, divided by the longer length: 1 for equal sequences.

    That is the longest common subsequence over the larger length. Two empty sequences score NaN.
    """
    return float(sequence_scores([first], [second])[0])


def sequence_scores(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """`sequence_score` of many pairs, one score each."""
    a, b, lengths = _padded(first, second)
    common = np.zeros((len(a), b.shape[1] + 1), np.int64)
    result = np.zeros(len(a), np.int64)
    for i in range(a.shape[1] + 1):
        if i:
            match = common[:, :-1] + (a[:, i - 1, None] == b)
            # a gap costs nothing: the best so far goes on to the right
            common[:, 1:] = np.maximum.accumulate(np.maximum(common[:, 1:], match), axis=1)
        ended = lengths[:, 0] == i
        result[ended] = common[ended, lengths[ended, 1]]
    longer = lengths.max(1)
    return np.divide(result, longer, out=np.full(len(a), np.nan), where=longer > 0)


def edit_distance(first: Sequence[int], second: Sequence[int], *, normalised: bool = False) -> float:
    """Levenshtein distance with unit costs; normalised: divided by the longer length."""
    return float(edit_distances([first], [second], normalised=normalised)[0])


def edit_distances(
    first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], *, normalised: bool = False
) -> NDArray[np.float64]:
    """`edit_distance` of many pairs."""
    a, b, lengths = _padded(first, second)
    columns = np.arange(b.shape[1] + 1)
    cost = np.broadcast_to(columns, (len(a), len(columns))).copy()
    result = np.zeros(len(a), np.float64)
    for i in range(a.shape[1] + 1):
        if i:
            replaced = cost[:, :-1] + (a[:, i - 1, None] != b)
            best = np.column_stack([np.full(len(a), i), np.minimum(cost[:, 1:] + 1, replaced)])
            # an insertion costs 1 per step to the right: without that slope it is a running minimum
            cost = np.minimum.accumulate(best - columns, axis=1) + columns
        ended = lengths[:, 0] == i
        result[ended] = cost[ended, lengths[ended, 1]]
    if not normalised:
        return result
    longer = lengths.max(1)
    return np.divide(result, longer, out=np.full(len(a), np.nan), where=longer > 0)


def scanmatch(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    size: tuple[float, float],
    *,
    bins: tuple[int, int] = (12, 8),
    threshold: float = 3.5,
    gap: float = 0.0,
    interval: float | None = 50.0,
) -> float:
    """ScanMatch (Cristino et al. 2010): alignment of the fixated parts of the screen, in which near parts match nearly.

    Args:
        first, second: (fixations, 3) with x and y in pixels and the duration in ms; without durations give two columns.
        size: width and height of the screen, in pixels.
        bins: parts of the screen in x and y.
        threshold: distance between parts, in parts, up to which they are more alike than not.
        gap: added for every gap.
        interval: a fixation counts once per this many ms (at least once); None, or two columns: once.

    Returns:
        1 for equal paths; 0 or less where nothing agrees; NaN where a path is empty.
    """
    scores = scanmatch_pairs([first], [second], size, bins=bins, threshold=threshold, gap=gap, interval=interval)
    return float(scores[0])


def scanmatch_pairs(
    first: Sequence[NDArray[np.float64]],
    second: Sequence[NDArray[np.float64]],
    size: tuple[float, float],
    *,
    bins: tuple[int, int] = (12, 8),
    threshold: float = 3.5,
    gap: float = 0.0,
    interval: float | None = 50.0,
) -> NDArray[np.float64]:
    """`scanmatch` of many pairs on one screen, one score each."""
    letters = [[_letters(path, size, bins, interval) for path in side] for side in (first, second)]
    a, b, lengths = _padded(*letters)
    alike = _substitution(bins, threshold)
    slope = np.arange(b.shape[1] + 1) * gap
    score = np.broadcast_to(slope, (len(a), len(slope))).copy()
    result = np.zeros(len(a), np.float64)
    for i in range(a.shape[1] + 1):
        if i:
            # what stands behind the end of a path may match anything: it is never read
            match = score[:, :-1] + alike[a[:, i - 1, None], b]
            best = np.column_stack([np.full(len(a), i * gap), np.maximum(score[:, 1:] + gap, match)])
            # a gap costs the same at every step to the right: without that slope it is a running maximum
            score = np.maximum.accumulate(best - slope, axis=1) + slope
        ended = lengths[:, 0] == i
        result[ended] = score[ended, lengths[ended, 1]]
    longer = lengths.max(1)
    usable = lengths.min(1) > 0
    return np.divide(result, alike.max() * longer, out=np.full(len(a), np.nan), where=usable)


def _letters(
    path: NDArray[np.float64], size: tuple[float, float], bins: tuple[int, int], interval: float | None
) -> NDArray[np.int64]:
    column = np.clip((path[:, 0] / size[0] * bins[0]).astype(int), 0, bins[0] - 1)
    row = np.clip((path[:, 1] / size[1] * bins[1]).astype(int), 0, bins[1] - 1)
    letters = row * bins[0] + column
    if interval is None or path.shape[1] < 3:
        return letters
    return np.repeat(letters, np.maximum(1, np.round(path[:, 2] / interval).astype(int)))


@lru_cache(8)
def _substitution(bins: tuple[int, int], threshold: float) -> NDArray[np.float64]:
    """Largest for the same part, falling with the distance, 0 at the threshold."""
    row, column = np.divmod(np.arange(bins[0] * bins[1]), bins[0])
    distance = np.hypot(row[:, None] - row, column[:, None] - column)
    return threshold - distance


def _padded(
    first: Sequence[Any], second: Sequence[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Both sides as (pairs, longest), and the lengths (pairs, 2)."""
    if len(first) != len(second):
        raise ValueError(f"pairs need as many first as second sequences, got {len(first)} and {len(second)}")
    lengths = np.array([[len(a), len(b)] for a, b in zip(first, second, strict=True)], np.int64).reshape(-1, 2)
    sides = []
    for sequences, side, padding in ((first, 0, _NEITHER[0]), (second, 1, _NEITHER[1])):
        padded = np.full((len(lengths), lengths[:, side].max(initial=0)), padding, np.int64)
        for row, sequence in enumerate(sequences):
            padded[row, : len(sequence)] = sequence
        sides.append(padded)
    return sides[0], sides[1], lengths
