"""Lesion-wise measures: every connected part of a class counts once, however large it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Lesions(NamedTuple):
    """Connected parts (26 neighbours) of one class in one case.

    Attributes:
        truths: parts of the truth.
        found: of them, those that share a voxel with the prediction.
        predictions: parts of the prediction.
        false: of them, those that share no voxel with the truth.
        dice: mean over the truth's parts of the Dice with all that touches it, and 0 for every false part (BraTS 2023).
    """

    truths: int
    found: int
    predictions: int
    false: int
    dice: float

    @property
    def sensitivity(self) -> float:
        """Share of the truth's parts that were found; NaN where there is none."""
        return self.found / self.truths if self.truths else float("nan")

    @property
    def f1(self) -> float:
        """Of found, missed and false parts; NaN where there is nothing on either side."""
        total = 2 * self.found + (self.truths - self.found) + self.false
        return 2 * self.found / total if total else float("nan")


def lesion_scores(prediction: Mask, truth: Mask, *, smallest: int = 1) -> Lesions:
    """Lesion-wise measures of one class.

    Args:
        prediction, truth: masks of one shape.
        smallest: voxels below which a part is not counted.
    """
    from scipy import ndimage

    neighbours = np.ones((3,) * truth.ndim, dtype=int)
    labelled: Any = [ndimage.label(mask, neighbours) for mask in (prediction, truth)]
    (ours, our_count), (theirs, their_count) = labelled
    our_sizes = np.bincount(ours.ravel(), minlength=our_count + 1)
    their_sizes = np.bincount(theirs.ravel(), minlength=their_count + 1)
    both = (ours > 0) & (theirs > 0)
    # (part of the prediction, part of the truth, voxels in common), once per pair
    pairs: Any
    pairs, shared = np.unique(np.stack([ours[both], theirs[both]], 1), axis=0, return_counts=True)
    large_truths = [part for part in range(1, their_count + 1) if their_sizes[part] >= smallest]
    large_ours = [part for part in range(1, our_count + 1) if our_sizes[part] >= smallest]
    scores, found = [], 0
    for part in large_truths:
        touching = pairs[pairs[:, 1] == part][:, 0]
        common = int(shared[pairs[:, 1] == part].sum())
        found += bool(common)
        scores.append(2 * common / (int(their_sizes[part]) + int(our_sizes[touching].sum())))
    touched = set(pairs[:, 0].tolist())
    false = sum(part not in touched for part in large_ours)
    scores += [0.0] * false
    mean = float(np.mean(scores)) if scores else float("nan")
    return Lesions(len(large_truths), found, len(large_ours), false, mean)
