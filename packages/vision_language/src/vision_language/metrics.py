"""The measures of this field; each a function of plain arrays and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def overlap(predicted: Mask, truth: Mask) -> tuple[int, int]:
    """Pixels in both, and in either.

    Raises:
        ValueError: masks of different sizes.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"masks of {predicted.shape} and {truth.shape}")
    return int((predicted & truth).sum()), int((predicted | truth).sum())


def iou(predicted: Mask, truth: Mask) -> float:
    """Intersection over union; 1 where both are empty, 0 where one is."""
    both, either = overlap(predicted, truth)
    return 1.0 if either == 0 else both / either


def overall_iou(pairs: Sequence[tuple[int, int]]) -> float:
    """oIoU: all intersections over all unions of a split."""
    either = sum(pair[1] for pair in pairs)
    return 1.0 if either == 0 else sum(pair[0] for pair in pairs) / either


def precision_at(ious: Sequence[float], threshold: float) -> float:
    """Share of items whose IoU exceeds a threshold."""
    return sum(value > threshold for value in ious) / len(ious)


def points_in(point: tuple[float, float], truth: Mask) -> bool:
    """The pointing game: whether (x, y) in pixels is meant."""
    height, width = truth.shape
    column, row = min(width - 1, int(point[0])), min(height - 1, int(point[1]))
    return bool(truth[row, column])


def pixel_scores(predicted: Mask, truth: Mask) -> dict[str, float]:
    """Precision, recall and F1 of pixels; NaN where undefined."""
    both = int((predicted & truth).sum())
    precision = both / int(predicted.sum()) if predicted.any() else float("nan")
    recall = both / int(truth.sum()) if truth.any() else float("nan")
    total = int(predicted.sum()) + int(truth.sum())
    return {"precision": precision, "recall": recall, "f1": 2 * both / total if total else float("nan")}


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """AP of a ranking, best first; NaN where nothing is relevant."""
    places = np.flatnonzero(relevant)
    if not len(places):
        return float("nan")
    return float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))


def scaled_average_precision(relevant: NDArray[np.bool_]) -> float:
    """``(AP − prevalence) / (1 − prevalence)``: 0 by chance, 1 at best."""
    prevalence = float(np.mean(relevant))
    if prevalence in (0.0, 1.0):
        return float("nan")
    return (average_precision(relevant) - prevalence) / (1 - prevalence)


def recall_at(rank: int, k: int) -> float:
    """Whether the target's rank, counted from 0, is among the first k."""
    return float(rank < k)


def yes_no_scores(answers: Sequence[str | None], labels: Sequence[str]) -> dict[str, float]:
    """POPE's measures over answers "yes" and "no"; an ambiguous answer (None) is wrong, and counted apart.

    Precision and recall are of "yes"; the share of yes is of all answers.
    """
    count = len(labels)
    pairs = list(zip(answers, labels, strict=True))
    hits = sum(answer == label for answer, label in pairs)
    true_yes = sum(answer == "yes" == label for answer, label in pairs)
    said_yes = sum(answer == "yes" for answer in answers)
    are_yes = sum(label == "yes" for label in labels)
    precision = true_yes / said_yes if said_yes else float("nan")
    recall = true_yes / are_yes if are_yes else float("nan")
    f1 = 2 * true_yes / (said_yes + are_yes) if said_yes + are_yes else float("nan")
    ambiguous = sum(answer is None for answer in answers)
    return {
        "accuracy": hits / count,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes": said_yes / count,
        "ambiguous": ambiguous / count,
    }
