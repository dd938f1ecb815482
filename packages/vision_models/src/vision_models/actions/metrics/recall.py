"""Average recall over the mean number of proposals (ActivityNet's evaluation of proposals)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from vision_models.actions.model.targets import segment_iou

TIOU = np.linspace(0.5, 0.95, 10)
POINTS = 100  # of the curve


@dataclass(frozen=True)
class RecallCurve:
    """Recall over the mean number of proposals of a video.

    Attributes:
        recall: (tIoU, 100).
        proposals: (100,) mean proposals of a video.
    """

    recall: NDArray[np.float64]
    proposals: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Average recall: the mean over tIoU."""
        return self.recall.mean(0)

    @property
    def auc(self) -> float:
        """Area under the curve as a share of a curve of recall 1."""
        return float(np.trapezoid(self.mean, self.proposals) / self.proposals[-1])

    def at(self, number: float) -> float:
        """Average recall at a mean number of proposals (AR@AN); linear between the points of the curve."""
        return float(np.interp(number, self.proposals, self.mean))


def first_hits(
    truth: Float[NDArray[np.float64], "n 2"],
    proposals: Float[NDArray[np.float64], "m 2"],
    thresholds: Sequence[float] | NDArray[np.float64],
) -> NDArray[np.int64]:
    """(tIoU, n): how many of the proposals, best first, it takes to reach each action; m + 1 where none does."""
    overlaps = segment_iou(truth, proposals)
    hits = overlaps[None] >= np.asarray(thresholds)[:, None, None]
    first = np.full(hits.shape[:2], len(proposals) + 1, np.int64)
    if len(proposals):
        any_hit = hits.any(2)
        first[any_hit] = hits.argmax(2)[any_hit] + 1
    return first


def average_recall(
    truth: Float[NDArray[np.float64], "n 3"],
    proposals: Float[NDArray[np.float64], "m 4"],
    thresholds: Sequence[float] | NDArray[np.float64] = TIOU,
    *,
    most: float | None = None,
) -> RecallCurve:
    """The curve of a set of videos; proposals of videos without an action count only in the mean number.

    Args:
        truth: rows (video, start, end).
        proposals: rows (video, start, end, score).
        thresholds: tIoU.
        most: the mean number of proposals at the end of the curve; default: as many as there are.
    """
    videos = np.unique(truth[:, 0])
    if most is None:
        most = len(proposals) / len(videos)
    if not len(proposals):
        return RecallCurve(np.zeros((len(thresholds), POINTS)), np.arange(1, POINTS + 1) / POINTS * most)
    ratio = most * len(videos) / len(proposals)
    reached, counts = [], []
    for video in videos:
        own = proposals[proposals[:, 0] == video]
        own = own[np.argsort(-own[:, 3], kind="stable")]
        own = own[: min(int(len(own) * ratio), len(own))]
        reached.append(first_hits(truth[truth[:, 0] == video, 1:], own[:, 1:3], thresholds))
        counts.append(len(own))
    total = sum(counts)
    share = np.arange(1, POINTS + 1) / POINTS * (most * len(videos) / max(1, total))
    covered = np.zeros((len(thresholds), POINTS))
    for first, count in zip(reached, counts, strict=True):
        numbers = np.minimum((count * share).astype(int), count)  # proposals of this video at each point of the curve
        covered += (first[:, :, None] <= numbers).sum(1)
    return RecallCurve(covered / len(truth), share * (total / len(videos)))
