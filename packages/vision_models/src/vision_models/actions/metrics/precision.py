"""Average precision of detected segments, per class and tIoU (ActivityNet's and OpenTAD's evaluation)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from vision_models.actions.model.targets import segment_iou

THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7)
ACTIVITYNET = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())


def match(
    truth: Float[NDArray[np.float64], "n 3"],
    predicted: Float[NDArray[np.float64], "m 3"],
    thresholds: Sequence[float] | NDArray[np.float64],
) -> Bool[NDArray[np.bool_], "thresholds m"]:
    """Which predictions of one class are true, by tIoU.

    Args:
        truth: rows (video, start, end).
        predicted: rows (video, start, end), best score first.
        thresholds: a prediction is true where it reaches this tIoU with an action of its video that no better prediction has taken; of
            several it takes the one it fits best.
    """
    limits = np.asarray(thresholds, float)
    true = np.zeros((len(limits), len(predicted)), bool)
    rows = np.arange(len(limits))
    for video in np.unique(predicted[:, 0]):
        actions = truth[truth[:, 0] == video, 1:]
        if not len(actions):
            continue
        members = np.flatnonzero(predicted[:, 0] == video)
        overlaps = segment_iou(predicted[members, 1:], actions)
        free = np.ones((len(limits), len(actions)), bool)
        # a prediction that reaches no action at the lowest tIoU cannot be true
        for place in np.flatnonzero(overlaps.max(1) >= limits.min()):
            fits = np.where(free & (overlaps[place] >= limits[:, None]), overlaps[place], -1.0)
            best = fits.argmax(1)
            hit = fits[rows, best] >= 0
            true[hit, members[place]] = True
            free[rows[hit], best[hit]] = False
    return true


def area(true: Bool[NDArray[np.bool_], " m"], actions: float) -> float:
    """Area under the precision envelope over recall, of predictions with the best score first."""
    if not len(true):
        return 0.0
    hits = np.cumsum(true)
    recall = hits / actions
    precision = hits / np.arange(1, len(true) + 1)
    # the envelope: the best precision at this recall or a higher one
    precision = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1][:-1]
    return float((np.diff(np.concatenate([[0.0], recall])) * precision).sum())


def average_precision(
    truth: Float[NDArray[np.float64], "n 4"],
    predicted: Float[NDArray[np.float64], "m 5"],
    thresholds: Sequence[float] | NDArray[np.float64],
    classes: int,
) -> Float[NDArray[np.float64], "thresholds classes"]:
    """Average precision by tIoU and class; NaN for a class without an action.

    Args:
        truth: rows (video, start, end, class).
        predicted: rows (video, start, end, class, score).
        thresholds: tIoU.
        classes: their number.
    """
    ap = np.full((len(thresholds), classes), np.nan)
    for label in range(classes):
        actions = truth[truth[:, 3] == label]
        if not len(actions):
            continue
        own = predicted[predicted[:, 3] == label]
        own = own[np.argsort(-own[:, 4], kind="stable")]
        true = match(actions[:, :3], own[:, :3], thresholds)
        for row in range(len(thresholds)):
            ap[row, label] = area(true[row], len(actions))
    return ap
