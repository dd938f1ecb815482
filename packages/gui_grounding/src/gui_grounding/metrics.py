"""The field's measures of points and attention against targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gui_grounding.items.item import Item, Target

Point = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """One item with its answer.

    Attributes:
        hit1, hitk: whether the first, or any of the first k points is in a target; of a refusal whether the model abstained.
        mass: attention on the cells that a target covers; NaN without attention, or for a refusal.
        overlap: whether the cell of the highest attention meets a target; NaN likewise.
        distance: of the first point from the nearest target's centre, in units of that target's half sizes; NaN for refusals.
    """

    hit1: float
    hitk: float
    mass: float
    overlap: float
    distance: float

    def values(self) -> dict[str, float]:
        return {
            "hit@1": self.hit1,
            "hit@k": self.hitk,
            "mass": self.mass,
            "overlap": self.overlap,
            "distance": self.distance,
        }


MEASURES = ("hit@1", "hit@k", "mass", "overlap", "distance")


def judge(
    item: Item, points: Sequence[Point], *, abstains: bool = False, scores: NDArray[np.floating] | None = None
) -> Judged:
    """Judges an answer.

    Args:
        item: the question.
        points: x, y as shares of the screenshot, best first; none: the answer had the wrong format, a miss.
        abstains: the model says that the target is not there: a miss, except of a refusal.
        scores: (rows, columns) attention over the cells.
    """
    if item.refuses:
        right = float(abstains)
        return Judged(right, right, np.nan, np.nan, np.nan)
    hits = [any(target.holds(*point) for target in item.targets) for point in points]
    if abstains:
        hits = []
    mass, overlap = np.nan, np.nan
    if scores is not None:
        covered = covered_cells(item.targets, scores.shape)
        mass = float(scores[covered].sum())
        overlap = float(covered.ravel()[int(scores.argmax())])
    distance = np.nan
    if points:
        distance = min(distance_of(points[0], target) for target in item.targets)
    return Judged(float(any(hits[:1])), float(any(hits)), mass, overlap, distance)


def covered_cells(targets: Sequence[Target], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(rows, columns): the cells that a target's box meets, in shares of the screenshot, so that the sides count alike."""
    rows, columns = shape
    covered = np.zeros((rows, columns), bool)
    left, top = np.arange(columns) / columns, np.arange(rows) / rows
    for target in targets:
        x1, y1, x2, y2 = target.box
        across = (left + 1 / columns > x1) & (left < x2)
        down = (top + 1 / rows > y1) & (top < y2)
        covered |= down[:, None] & across[None]
    return covered


def distance_of(point: Point, target: Target) -> float:
    """From the centre of the target's box, in half sizes: 1 is the edge."""
    x1, y1, x2, y2 = target.box
    across = abs(point[0] - (x1 + x2) / 2) / ((x2 - x1) / 2)
    down = abs(point[1] - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return max(across, down)


def means(judged: Sequence[Judged]) -> Mapping[str, float]:
    """Means over items; of a measure over those that have it."""
    table = {}
    for name in MEASURES:
        values = np.array([each.values()[name] for each in judged], np.float64)
        known = values[~np.isnan(values)]
        table[name] = float(known.mean()) if len(known) else float("nan")
    return table


def calibration(probabilities: Sequence[float | None], hits: Sequence[float]) -> Mapping[str, float] | None:
    """How far probabilities of a hit can be believed; None where the model gave none.

    Returns:
        ``items``; ``mean probability`` beside ``hit@1``, which are alike for a calibrated model; ``Brier``, the mean squared error (0.25 for
        always one half); ``hit@1 of the surer half``.
    """
    pairs = [(p, hit) for p, hit in zip(probabilities, hits, strict=True) if p is not None]
    if not pairs:
        return None
    probability, hit = np.array(pairs, np.float64).T
    surer = np.argsort(-probability, kind="stable")[: max(1, len(pairs) // 2)]
    return {
        "items": float(len(pairs)),
        "mean probability": float(probability.mean()),
        "hit@1": float(hit.mean()),
        "Brier": float(((probability - hit) ** 2).mean()),
        "hit@1 of the surer half": float(hit[surer].mean()),
    }
