"""Thresholding: the plainest segmentation, to be beaten. Every class gets the window of values that fits the training cases best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medical_segmentation.organs.cohort.dataset import Case, Dataset


def fit_thresholds(dataset: Dataset, cases: Sequence[Case], classes: int) -> list[tuple[float, float]]:
    """For every class but the background, the window of smoothed values with the best Dice on the training cases."""
    values, truths = [], []
    for case in cases:
        volume = dataset.image(case)
        values.append(smoothed(volume.array).ravel())
        truths.append(dataset.labels(case, volume).ravel())
    value, truth = np.concatenate(values), np.concatenate(truths)
    windows = []
    for number in range(1, classes):
        own = value[truth == number]
        best, score = (0.0, 0.0), -1.0
        for low, high in ((5, 95), (10, 90), (20, 80), (30, 70)):
            a, b = np.percentile(own, [low, high]) if own.size else (0.0, 0.0)
            chosen = (value >= a) & (value <= b)
            overlap = 2 * float((chosen & (truth == number)).sum()) / max(1, int(chosen.sum()) + own.size)
            if overlap > score:
                best, score = (float(a), float(b)), overlap
        windows.append(best)
    return windows


def smoothed(array: NDArray) -> NDArray:
    """Without the noise of single voxels."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(array.astype(np.float32), 1.0))


def threshold(array: NDArray, windows: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """Labels by the windows; where several fit, the one whose middle is nearest."""
    values = smoothed(array)
    labels = np.zeros(values.shape, np.uint8)
    nearest = np.full(values.shape, np.inf)
    for number, (low, high) in enumerate(windows, 1):
        distance = np.abs(values - (low + high) / 2)
        chosen = (values >= low) & (values <= high) & (distance < nearest)
        labels[chosen] = number
        nearest[chosen] = distance[chosen]
    return labels
