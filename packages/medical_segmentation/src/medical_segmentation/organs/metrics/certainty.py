"""Whether a confidence can be believed: calibration, temperature, and abstention with a bound on the risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 15
THRESHOLDS = np.concatenate([[0.0], np.linspace(0.3, 0.99, 70), [0.995, 0.999, 1.0]])  # confidences to abstain below


@dataclass
class Reliability:
    """Counts of voxels by confidence: how many, how sure, how often right.

    Voxels that are background in truth and prediction and surely so (99 % and more) are left out: there are so many that they would hide
    everything else.
    """

    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    right: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))

    def add(self, predicted: NDArray, truth: NDArray, confidence: NDArray) -> None:
        """Counts the voxels of a case."""
        sure = confidence.astype(np.float64)
        matters = (predicted > 0) | (truth > 0) | (sure < 0.99)
        place = np.minimum((sure[matters] * BINS).astype(int), BINS - 1)
        self.count += np.bincount(place, minlength=BINS)
        self.confidence += np.bincount(place, sure[matters], minlength=BINS)
        self.right += np.bincount(place, (predicted == truth)[matters].astype(float), minlength=BINS)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between confidence and share of right voxels, by voxels."""
        if not self.count.sum():
            return float("nan")
        return float(np.abs(self.confidence - self.right).sum() / self.count.sum())

    @property
    def bins(self) -> list[tuple[float, float, int]]:
        """(mean confidence, share right, voxels) of every bin that is not empty."""
        rows = []
        for count, confidence, right in zip(self.count, self.confidence, self.right, strict=True):
            if count:
                rows.append((float(confidence / count), float(right / count), int(count)))
        return rows


def risk_curve(predicted: NDArray, truth: NDArray, confidence: NDArray) -> NDArray[np.float64]:
    """Of one case, for every threshold: voxels that are wrong and not abstained from, as a share of those that are organ in truth or prediction.

    It falls as the threshold rises. 0 where there is no organ on either side.
    """
    organ = (predicted > 0) | (truth > 0)
    total = int(organ.sum())
    if not total:
        return np.zeros(len(THRESHOLDS))
    wrong = np.sort(confidence[organ & (predicted != truth)].astype(np.float64))
    kept = len(wrong) - np.searchsorted(wrong, THRESHOLDS, side="left")
    return kept / total


def conformal_threshold(curves: Sequence[NDArray], risk: float) -> float | None:
    """The least threshold whose risk on a new case is at most `risk` in expectation (conformal risk control, Angelopoulos et al. 2022).

    ``λ̂ = inf {λ : (n R̂(λ) + 1) / (n + 1) ≤ α}`` over n exchangeable cases. None where no threshold does it: with n cases no risk below
    ``1 / (n + 1)`` can be promised.
    """
    n = len(curves)
    if not n:
        return None
    bound = (np.sum(curves, axis=0) + 1) / (n + 1)
    fitting = np.flatnonzero(bound <= risk + 1e-12)
    return float(THRESHOLDS[fitting[0]]) if fitting.size else None


def fit_temperature(log_probabilities: NDArray, truth: NDArray) -> float:
    """The temperature that makes given voxels' truths most likely (Guo et al. 2017), between 0.25 and 8.

    Args:
        log_probabilities: (voxels, classes); a softmax of them over T is that of the logits over T.
        truth: classes.
    """
    from scipy.optimize import minimize_scalar

    if len(truth) < 100:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_probabilities / np.exp(log_temperature)
        top = scaled.max(1, keepdims=True)
        normal = top[:, 0] + np.log(np.exp(scaled - top).sum(1))
        return float((normal - scaled[np.arange(len(truth)), truth]).mean())

    result = minimize_scalar(loss, bounds=(np.log(0.25), np.log(8.0)), method="bounded")
    return float(np.exp(result.x))
