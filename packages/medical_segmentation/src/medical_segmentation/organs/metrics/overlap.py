"""Measures of a mask beside its truth: overlap, volumes, distances between surfaces in millimetres.

A surface is made of the voxels that have a background voxel (or the end of the volume) at one of their faces. Where one side is empty no
distance exists: it is NaN. Where both are empty, Dice and volume similarity are 1 (nothing was to be found, and nothing was).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Overlap(NamedTuple):
    """Measures of one class in one case.

    Attributes:
        dice: ``2|A∩B| / (|A|+|B|)``.
        volume_similarity: ``1 − ||A|−|B|| / (|A|+|B|)``.
        asd_prediction: mean distance (mm) from the prediction's surface to the truth's.
        asd_truth: the same from the truth's surface.
        msd: both directed distances pooled: their sum over the number of surface voxels (medpy's ASSD).
        hausdorff: the largest of all distances.
        hausdorff95: their 95th percentile, pooled.
        surface_dice: share of both surfaces within the tolerance of the other.
    """

    dice: float
    volume_similarity: float
    asd_prediction: float
    asd_truth: float
    msd: float
    hausdorff: float
    hausdorff95: float
    surface_dice: float


def dice(prediction: Mask, truth: Mask) -> float:
    """``2|A∩B| / (|A|+|B|)``; 1 where both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    if total == 0:
        return 1.0
    return 2 * int((prediction & truth).sum()) / total


def volume_similarity(prediction: Mask, truth: Mask) -> float:
    """``1 − ||A|−|B|| / (|A|+|B|)``; 1 where both are empty."""
    a, b = int(prediction.sum()), int(truth.sum())
    if a + b == 0:
        return 1.0
    return 1 - abs(a - b) / (a + b)


def surface_distances(prediction: Mask, truth: Mask, spacing: Sequence[float]) -> tuple[NDArray, NDArray]:
    """Distances (mm) from every surface voxel of the prediction to the truth's surface, and the other way round.

    Both are empty where one of the masks is.
    """
    from scipy import ndimage

    if not prediction.any() or not truth.any():
        return np.zeros(0), np.zeros(0)
    # only the box that holds both matters: distances beyond it are never asked for
    (box,) = ndimage.find_objects((prediction | truth).astype(np.uint8))
    padded = [np.pad(mask[box], 1) for mask in (prediction, truth)]
    faces = ndimage.generate_binary_structure(prediction.ndim, 1)
    surfaces = [mask & ~np.asarray(ndimage.binary_erosion(mask, faces), dtype=bool) for mask in padded]
    directed = []
    for own, other in ((0, 1), (1, 0)):
        distance = ndimage.distance_transform_edt(~surfaces[other], sampling=spacing)
        directed.append(np.asarray(distance)[surfaces[own]])
    return directed[0], directed[1]


def measure(prediction: Mask, truth: Mask, spacing: Sequence[float], *, tolerance: float = 2.0) -> Overlap:
    """All measures of one class.

    Args:
        prediction, truth: masks of one shape.
        spacing: millimetres of a voxel along each axis.
        tolerance: millimetres within which two surfaces agree.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of different shapes: {prediction.shape} and {truth.shape}")
    forward, backward = surface_distances(prediction, truth, spacing)
    pooled = np.concatenate([forward, backward])
    same = dice(prediction, truth), volume_similarity(prediction, truth)
    if not pooled.size:
        nan = float("nan")
        both_empty = not prediction.any() and not truth.any()
        return Overlap(*same, nan, nan, nan, nan, nan, 1.0 if both_empty else 0.0)
    means = float(forward.mean()), float(backward.mean())
    return Overlap(
        *same,
        *means,
        float(pooled.mean()),
        float(pooled.max()),
        float(np.percentile(pooled, 95)),
        float((pooled <= tolerance).mean()),
    )
