"""How well a prediction says where people look: NSS, AUC, information gain."""

import numpy as np
from numpy.typing import NDArray


def nss(
    predicted: NDArray[np.float64], human: NDArray[np.float64], size: tuple[int, int], *, repeats: bool = False
) -> float:
    """Normalised scanpath saliency of predicted fixations: a map with ones there, standardised, read at people's fixations.

    The map is never made: its mean and deviation follow from the number of different pixels.

    Args:
        predicted, human: (fixations, 2) with x and y in pixels; those off the screen are left out.
        size: width and height of the screen, in pixels.
        repeats: a pixel that people fixate again counts again; published: once.

    Returns:
        NaN without fixations, or where every pixel was predicted.
    """
    marked, looked = (np.round(points).astype(np.int64) for points in (predicted, human))
    marked, looked = (points[((points >= 0) & (points < size)).all(1)] for points in (marked, looked))
    pixels = {(x, y) for x, y in marked.tolist()}
    share = len(pixels) / (size[0] * size[1])
    if not len(looked) or share in (0, 1):
        return float("nan")
    fixated = looked.tolist() if repeats else np.unique(looked, axis=0).tolist()
    hits = np.array([(x, y) in pixels for x, y in fixated])
    return float(((hits - share) / np.sqrt(share * (1 - share))).mean())


def auc(density: NDArray[np.float64], fixated: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> float:
    """Area under the ROC curve that tells fixated places from others by their density (Judd et al. 2009).

    Args:
        density: of each place (object or pixel).
        fixated: whether it was looked at.
        weights: of each place, such as its area; None: equal.

    Returns:
        NaN where all places, or none, were looked at.
    """
    if weights is None:
        weights = np.ones(len(density))
    positive, negative = weights * fixated, weights * ~fixated
    if not positive.sum() or not negative.sum():
        return float("nan")
    levels, inverse = np.unique(density, return_inverse=True)
    hits = np.bincount(inverse, positive, len(levels))
    others = np.bincount(inverse, negative, len(levels))
    below = np.concatenate([[0.0], np.cumsum(others)[:-1]])
    return float((hits * (below + others / 2)).sum() / (positive.sum() * negative.sum()))


def information_gain(log_probability: NDArray[np.float64], baseline: NDArray[np.float64]) -> float:
    """Bits per fixation by which a model predicts people better than a baseline (Kümmerer et al. 2015).

    Args:
        log_probability: natural, of each fixation under the model.
        baseline: the same under the baseline.
    """
    return float((np.asarray(log_probability) - np.asarray(baseline)).mean() / np.log(2))
