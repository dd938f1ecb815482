"""From a BMN's maps to proposals: which cells are candidates, what they score, and soft-NMS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from vision_models.actions.model.cells import Cells

Candidates = Literal["all", "peaks"]
Score = Literal["s*e*cls*reg", "cls*reg"]


def soft_nms(
    segments: Float[NDArray[np.float64], "n 2"],
    scores: Float[NDArray[np.float64], " n"],
    *,
    alpha: float = 0.4,
    low: float = 0.5,
    high: float = 0.9,
    most: int = 101,
    extent: float = 1.0,
    keep_last: bool = False,
) -> tuple[Int[NDArray[np.int64], " kept"], Float[NDArray[np.float64], " kept"]]:
    """Proposals in the order in which they are taken, and their scores then: each one taken lowers the scores of those it overlaps.

    A score becomes ``score · exp(-IoU² / alpha)`` where the IoU exceeds ``low + (high - low) · width``: the width of the one taken, as a
    share of the video.

    Args:
        segments: starts and ends.
        scores: at least 0.
        alpha: the smaller, the harder.
        low, high: the IoU that is tolerated beside a very short and beside a full-length segment.
        most: how many are taken at most.
        extent: the length of the video in the unit of the segments.
        keep_last: also take the last one left; the published code drops it.

    Returns:
        Their indices, and their scores when taken. Of equal scores the first is taken.
    """
    order = np.argsort(-scores, kind="stable")
    starts, ends = segments[order, 0].copy(), segments[order, 1].copy()
    left = scores[order].astype(np.float64)
    lengths = ends - starts
    kept: list[int] = []
    final: list[float] = []
    remaining = len(left)
    while remaining > (0 if keep_last else 1) and len(kept) < most:
        best = int(left.argmax())
        kept.append(int(order[best]))
        final.append(float(left[best]))
        common = np.minimum(ends, ends[best]) - np.maximum(starts, starts[best])
        limit = low + (high - low) * lengths[best] / extent
        near = np.flatnonzero(common > 0)  # few of many: the rest keeps its scores
        shared = common[near]
        iou = shared / (lengths[near] + lengths[best] - shared)
        lowered = iou > limit
        left[near[lowered]] *= np.exp(-np.square(iou[lowered]) / alpha)
        left[best] = -np.inf
        remaining -= 1
    return np.array(kept, np.int64), np.array(final)


@dataclass(frozen=True)
class Selection:
    """Which cells become candidates.

    Attributes:
        candidates: all cells, or those whose start and end are a boundary: a local peak, or above half the greatest (the paper).
        score: of a candidate.
        to_the_end: also segments that end with the sequence; the published code never proposes these.
    """

    candidates: Candidates = "all"
    score: Score = "s*e*cls*reg"
    to_the_end: bool = True


class Proposed(NamedTuple):
    """Candidates of one sequence.

    Attributes:
        segments: (n, 2) as shares of the sequence.
        scores: (n,).
    """

    segments: NDArray[np.float64]
    scores: NDArray[np.float64]


def candidates_of(
    confidence: Float[NDArray[np.floating], "2 rows columns"],
    start: Float[NDArray[np.floating], " steps"],
    end: Float[NDArray[np.floating], " steps"],
    cells: Cells,
    selection: Selection = Selection(),
) -> Proposed:
    """The candidates of one sequence with ``p_s[i] · p_e[j + 1] · cls · reg``, or ``cls · reg``.

    The end probability behind the last step does not exist: the last step's stands for it.
    """
    steps = cells.steps
    pairs = cells.pairs
    values = np.asarray(confidence, np.float64).reshape(2, -1)[:, cells.places]
    at_end = np.minimum(pairs[:, 1] + 1, steps - 1)
    possible = np.ones(len(pairs), bool)
    if not selection.to_the_end:
        possible &= pairs[:, 1] + 1 < steps
    if selection.candidates == "peaks":
        is_start, is_end = boundaries(start), boundaries(end)
        is_start[0] = is_end[-1] = True
        possible &= is_start[pairs[:, 0]] & is_end[at_end]
    scores = values[0] * values[1]
    if selection.score == "s*e*cls*reg":
        scores = np.asarray(start, np.float64)[pairs[:, 0]] * np.asarray(end, np.float64)[at_end] * scores
    segments = np.stack([pairs[:, 0], pairs[:, 1] + 1], 1)[possible] / steps
    return Proposed(segments, scores[possible])


def boundaries(probability: Float[NDArray[np.floating], " steps"]) -> NDArray[np.bool_]:
    """Steps above half of the greatest probability, and local peaks among three."""
    p = np.asarray(probability)
    peak = np.zeros(len(p), bool)
    peak[1:-1] = (p[1:-1] > p[:-2]) & (p[1:-1] > p[2:])
    return peak | (p > 0.5 * p.max())
