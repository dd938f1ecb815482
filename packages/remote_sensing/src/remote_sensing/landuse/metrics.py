"""Measures of a land-use network: accuracy, kappa, confusion, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torchmetrics.functional import classification as measures


@dataclass(frozen=True)
class Metrics:
    """Measures of predictions against labels.

    Attributes:
        kappa: Cohen's, (p_o − p_e) / (1 − p_e).
        recall: recognised share of each class's tiles (the published "per-class accuracy" is this).
        confusion: rows are the true classes.
        pairs: the largest off-diagonal entries: (true, predicted, tiles).
        confidence_gap: mean highest probability of right answers minus that of wrong ones, in percent; NaN if all are right or all wrong.
        ece: expected calibration error over 15 bins.
        bins: (confidence, accuracy, tiles) of each bin of the reliability diagram.
    """

    tiles: int
    accuracy: float
    kappa: float
    mcc: float
    precision: float
    recall_macro: float
    f1: float
    recall: dict[str, float]
    confusion: list[list[int]]
    pairs: list[tuple[str, str, int]]
    confidence_gap: float
    ece: float
    bins: list[tuple[float, float, int]]

    def plain(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        plain = asdict(self)
        for name, value in plain.items():
            if isinstance(value, float) and math.isnan(value):
                plain[name] = None
        return plain


def measure(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """All measures from probabilities (tiles, classes) and labels (tiles,)."""
    classes, n = list(classes), len(classes)
    predicted = probabilities.argmax(1)
    options: Any = {"num_classes": n, "average": "macro"}
    confusion = measures.multiclass_confusion_matrix(predicted, labels, n)
    recall = measures.multiclass_recall(predicted, labels, n, average="none")
    confidence, right = probabilities.max(1).values, predicted == labels
    gap = 100 * (confidence[right].mean() - confidence[~right].mean()).item()
    # confusions, the largest first: entry i of the flat matrix is row i // n, column i % n
    errors = confusion.clone().fill_diagonal_(0).flatten()
    pairs = []
    for i in errors.argsort(descending=True)[:5].tolist():
        if errors[i] > 0:
            pairs.append((classes[i // n], classes[i % n], int(errors[i])))
    return Metrics(
        tiles=len(labels),
        accuracy=right.double().mean().item(),
        kappa=cohen_kappa(confusion),
        mcc=measures.multiclass_matthews_corrcoef(predicted, labels, n).item(),
        precision=measures.multiclass_precision(predicted, labels, **options).item(),
        recall_macro=measures.multiclass_recall(predicted, labels, **options).item(),
        f1=measures.multiclass_f1_score(predicted, labels, **options).item(),
        recall=dict(zip(classes, recall.tolist(), strict=True)),
        confusion=confusion.tolist(),
        pairs=pairs,
        confidence_gap=gap,
        ece=measures.multiclass_calibration_error(probabilities, labels, n, n_bins=15).item(),
        bins=_reliability(confidence, right),
    )


def cohen_kappa(confusion: Tensor) -> float:
    """``(p_o − p_e) / (1 − p_e)`` of a confusion matrix; NaN where only one class occurs on either side."""
    share = confusion.double() / confusion.sum()
    expected = float(share.sum(1) @ share.sum(0))
    if expected == 1:
        return float("nan")
    return (float(share.trace()) - expected) / (1 - expected)


def _reliability(confidence: Tensor, right: Tensor, bins: int = 15) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, tiles) of each bin of confidence that holds tiles."""
    number = (confidence * bins).long().clamp(max=bins - 1)  # a confidence of 1 belongs to the last bin
    curve = []
    for i in range(bins):
        here = number == i
        if here.any():
            curve.append((confidence[here].mean().item(), right[here].double().mean().item(), int(here.sum())))
    return curve
