"""Measures of a slide classifier, with 95 % intervals over patients."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from core_runtime.statistics import Interval, intervals

LEVEL = 0.95
_NAMES = {
    "auroc": "AUROC (macro, one vs rest)",
    "accuracy": "accuracy (= micro F1)",
    "f1_macro": "macro F1",
    "balanced_accuracy": "balanced accuracy",
}


@dataclass(frozen=True)
class Metrics:
    """Measures over slides; NaN where they are undefined (one class only).

    Attributes:
        slides, patients: how many are behind them.
        auroc: one-vs-rest, macro over the classes that have slides on both sides (two classes: the usual area under the curve).
        accuracy: share of correctly classified slides, which equals micro F1.
        f1_macro, f1_micro: the published training script reports micro F1 as "F1"; the paper speaks of macro F1.
        balanced_accuracy: mean sensitivity of the classes that occur.
        sensitivity, specificity: of each class against the rest.
        interval: 95 % interval of each measure over patients, (low, high).
    """

    slides: int
    patients: int
    auroc: float
    accuracy: float
    f1_macro: float
    f1_micro: float
    balanced_accuracy: float
    sensitivity: Mapping[str, float]
    specificity: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> Iterable[str]:
        """For the terminal: name, value, interval."""
        rows = [(name, getattr(self, key), key) for key, name in _NAMES.items()]
        for name, value in self.sensitivity.items():
            rows.append((f"sensitivity {name}", value, f"sensitivity {name}"))
            rows.append((f"specificity {name}", self.specificity[name], f"specificity {name}"))
        for name, value, key in rows:
            low, high = self.interval.get(key, (math.nan, math.nan))
            interval = ""
            if not math.isnan(low):
                interval = f"   {LEVEL:.0%} interval {low:.3f} to {high:.3f}"
            yield f"  {name:30} {value:.3f}{interval}".replace("95%", "95 %")
        if self.interval:
            yield f"  (intervals over {self.patients} patients)"


def auroc(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Macro one-vs-rest area under the ROC curve over the classes with slides on both sides; NaN if there is none.

    By ranks (Mann-Whitney): ``(Σ rank of the positives − n₊(n₊+1)/2) / (n₊ n₋)``; ties count half.

    Args:
        probabilities: (slides, classes).
        labels: (slides,) class numbers.
    """
    classes = range(probabilities.shape[1])
    if len(classes) <= 2:  # the areas of two classes are equal
        classes = range(1, 2)
    areas = []
    for number in classes:
        positive = labels == number
        n = int(positive.sum())
        if 0 < n < len(labels):
            ranks = rankdata(probabilities[:, number])[positive].sum()
            areas.append((ranks - n * (n + 1) / 2) / (n * (len(labels) - n)))
    if not areas:
        return math.nan
    return float(np.mean(areas))


def confusion(predicted: NDArray[np.integer], labels: NDArray[np.integer], n_class: int) -> NDArray[np.int64]:
    """Counts by true class (rows) and predicted class (columns)."""
    # each pair of classes is one number, true class times n_class plus predicted class
    return np.bincount(labels * n_class + predicted, minlength=n_class**2).reshape(n_class, n_class)


def f1_macro(counts: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur in the labels or the predictions, from a confusion matrix."""
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is the class's row plus its column
    right, either = counts.diagonal(), counts.sum(0) + counts.sum(1)
    occurs = either > 0
    return float((2 * right[occurs] / either[occurs]).mean())


def measure(
    probabilities: Any,
    labels: Any,
    classes: Sequence[str],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Metrics:
    """All measures of class probabilities (slides, classes) against class numbers (slides,).

    Args:
        patients: the patient of each slide; default: each slide counts as a patient.
        resamples: of the bootstrap; 0 leaves the intervals out.
        seed: of its draws.
    """
    scores, truth = np.asarray(probabilities, np.float64), np.asarray(labels)
    predicted = scores.argmax(1)
    owners: list[Hashable] = list(range(len(truth)))
    if patients is not None:
        owners = list(patients)

    def values_of(indices: NDArray[np.int64]) -> dict[str, float]:
        counts = confusion(predicted[indices], truth[indices], len(classes))
        return {"auroc": auroc(scores[indices], truth[indices]), **_from_counts(counts, classes)}

    values = values_of(np.arange(len(truth)))
    interval_of: dict[str, Interval] = {}
    if resamples and len(truth):
        independent = _independent_patients(truth, owners, classes)
        interval_of = intervals(values_of, owners, independent=independent, level=LEVEL, resamples=resamples, seed=seed)
    return Metrics(
        slides=len(truth),
        patients=len(set(owners)),
        auroc=values["auroc"],
        accuracy=values["accuracy"],
        f1_macro=values["f1_macro"],
        f1_micro=values["f1_micro"],
        balanced_accuracy=values["balanced_accuracy"],
        sensitivity={name: values[f"sensitivity {name}"] for name in classes},
        specificity={name: values[f"specificity {name}"] for name in classes},
        interval={name: (interval.low, interval.high) for name, interval in interval_of.items()},
    )


def _from_counts(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """The measures that follow from a confusion matrix."""
    total = int(counts.sum())
    right, of_class = counts.diagonal(), counts.sum(1)
    wrongly_named = counts.sum(0) - right
    accuracy = _share(int(right.sum()), total)
    occurs = of_class > 0  # a class without slides has no sensitivity to average
    values = {
        "accuracy": accuracy,
        "f1_macro": f1_macro(counts),
        "f1_micro": accuracy,
        "balanced_accuracy": float((right[occurs] / of_class[occurs]).mean()),
    }
    for i, name in enumerate(classes):
        others = total - int(of_class[i])
        values[f"sensitivity {name}"] = _share(int(right[i]), int(of_class[i]))
        values[f"specificity {name}"] = _share(others - int(wrongly_named[i]), others)
    return values


def _share(part: int, whole: int) -> float:
    if not whole:
        return math.nan
    return part / whole


def _independent_patients(
    truth: NDArray[np.integer], patients: Sequence[Hashable], classes: Sequence[str]
) -> dict[str, int]:
    """The number of patients behind each measure: for measures that need every class, those of the rarest one."""
    independent = {}
    fewer_sides, occurring = [], []
    for number, name in enumerate(classes):
        positive, negative = set(), set()
        for patient, label in zip(patients, truth, strict=True):
            # a patient with slides of several classes is on both sides
            if label == number:
                positive.add(patient)
            else:
                negative.add(patient)
        independent[f"sensitivity {name}"] = len(positive)
        independent[f"specificity {name}"] = len(negative)
        if positive:
            occurring.append(len(positive))
        if positive and negative:
            fewer_sides.append(min(len(positive), len(negative)))
    independent["auroc"] = min(fewer_sides, default=0)
    independent["f1_macro"] = independent["balanced_accuracy"] = min(occurring)
    return independent
