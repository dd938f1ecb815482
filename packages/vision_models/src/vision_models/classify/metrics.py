"""Measures of a classifier: accuracy, top 5, balanced accuracy, confusion, calibration, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import classification as measures

from core_runtime.statistics import intervals, wilson


@dataclass(frozen=True)
class Metrics:
    """Measures of predictions against labels.

    Attributes:
        accuracy, top5: share of images whose class is the first, or among the first five; top5 is None for five classes or fewer.
        balanced: mean over classes of the share of their images that is recognised.
        nll: mean of −log probability of the true class.
        ece: expected calibration error over 15 bins.
        recall: of each class.
        confusion: rows are the true classes.
        intervals: of accuracy and balanced accuracy, 95 %, over images.
        auc: area under the ROC curve, of two classes; None otherwise.
    """

    images: int
    accuracy: float
    top5: float | None
    balanced: float
    nll: float
    ece: float
    auc: float | None
    recall: dict[str, float]
    confusion: list[list[int]]
    intervals: dict[str, tuple[float, float]]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def confused(self, classes: Sequence[str], most: int = 5) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: true class, predicted class, images."""
        counts = np.array(self.confusion)
        np.fill_diagonal(counts, 0)
        pairs = []
        for place in np.argsort(-counts, axis=None)[:most]:
            true, predicted = np.unravel_index(place, counts.shape)
            if counts[true, predicted]:
                pairs.append((classes[int(true)], classes[int(predicted)], int(counts[true, predicted])))
        return pairs


def measure(probabilities: Tensor, labels: Sequence[int], classes: Sequence[str], *, resamples: int = 500) -> Metrics:
    """All measures from probabilities (images, classes) and labels."""
    truth = torch.tensor(labels)
    predicted = probabilities.argmax(1)
    right = predicted == truth
    count = len(classes)
    confusion = measures.multiclass_confusion_matrix(predicted, truth, count)
    recall = {}
    for number, name in enumerate(classes):
        members = truth == number
        if members.any():  # a class without images has no recall
            recall[name] = right[members].double().mean().item()
    accuracy = right.double().mean().item()
    top5 = None
    if count > 5:
        top5 = (probabilities.topk(5, 1).indices == truth[:, None]).any(1).double().mean().item()
    auc = None
    if count == 2 and 0 < int(truth.sum()) < len(truth):
        auc = measures.binary_auroc(probabilities[:, 1], truth).item()
    by_image = probabilities.clamp_min(1e-12).log()[torch.arange(len(truth)), truth]
    return Metrics(
        images=len(truth),
        accuracy=accuracy,
        top5=top5,
        balanced=float(np.mean(list(recall.values()))),
        nll=-by_image.double().mean().item(),
        ece=measures.multiclass_calibration_error(probabilities, truth, count).item(),
        auc=auc,
        recall=recall,
        confusion=confusion.tolist(),
        intervals={
            "accuracy": wilson(accuracy, len(truth)),
            "balanced": _balanced_interval(right.numpy(), truth.numpy(), resamples),
        },
    )


def _balanced_interval(right: Any, truth: Any, resamples: int) -> tuple[float, float]:
    """By resampling images."""

    def balanced(indices: Any) -> Mapping[str, float]:
        drawn, correct = truth[indices], right[indices]
        totals = np.bincount(drawn, minlength=truth.max() + 1)
        hits = np.bincount(drawn, weights=correct, minlength=truth.max() + 1)
        return {"balanced": float((hits[totals > 0] / totals[totals > 0]).mean())}

    interval = intervals(balanced, range(len(truth)), resamples=resamples)["balanced"]
    return interval.low, interval.high


def measure_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The measures of `Metrics.plain`, for the terminal."""
    lines = [f"Images: {metrics['images']}"]
    names = {
        "accuracy": "accuracy",
        "top5": "among the first five",
        "balanced": "balanced accuracy",
        "auc": "area under ROC",
        "nll": "negative log likelihood",
        "ece": "calibration error",
    }
    for key, name in names.items():
        if metrics[key] is None:
            continue
        interval = ""
        if key in metrics["intervals"]:
            low, high = metrics["intervals"][key]
            interval = f"  (95 % interval {low:.4f} to {high:.4f})"
        lines.append(f"  {name:24} {metrics[key]:.4f}{interval}")
    return lines
