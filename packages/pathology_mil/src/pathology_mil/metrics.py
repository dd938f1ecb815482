"""Measures of a slide classifier, each named for what it is, with bootstrap intervals."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy, multiclass_f1_score

Interval = tuple[float, float]

_NAMES = {
    "auroc": "AUROC (macro, one vs rest)",
    "accuracy": "accuracy (= micro F1)",
    "f1_macro": "macro F1",
    "balanced_accuracy": "balanced accuracy",
}


@dataclass(frozen=True)
class Metrics:
    """Measures over slides; NaN where the slides cannot tell (one class only).

    auroc: one-vs-rest, macro over the classes that have slides on both sides (two classes: the usual area under the curve).
    accuracy: share of slides right, which is what micro F1 is.
    f1_macro, f1_micro: the published training script reports micro F1 under the plain name; the paper speaks of macro F1.
    balanced_accuracy: mean sensitivity of the classes that occur.
    sensitivity, specificity: of each class against the rest.
    interval: bootstrap 95 % interval of a measure, over slides.
    """

    slides: int
    auroc: float
    accuracy: float
    f1_macro: float
    f1_micro: float
    balanced_accuracy: float
    sensitivity: Mapping[str, float]
    specificity: Mapping[str, float]
    interval: Mapping[str, Interval]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> Iterable[str]:
        """For the terminal: name, value, interval."""
        for key, name in _NAMES.items():
            low, high = self.interval.get(key, (math.nan, math.nan))
            interval = "" if math.isnan(low) else f"   95 % interval {low:.3f} to {high:.3f}"
            yield f"  {name:30} {getattr(self, key):.3f}{interval}"
        for name in self.sensitivity:
            yield f"  {f'sensitivity {name}':30} {self.sensitivity[name]:.3f}"
            yield f"  {f'specificity {name}':30} {self.specificity[name]:.3f}"


def auroc(probabilities: Float[Tensor, "slides classes"], labels: Int[Tensor, " slides"]) -> float:
    """Macro one-vs-rest area under the ROC curve over the classes with slides on both sides; NaN if there is none."""
    classes = range(probabilities.shape[1]) if probabilities.shape[1] > 2 else [1]
    areas = []
    for c in classes:
        positive = labels == c
        if 0 < int(positive.sum()) < len(labels):
            areas.append(binary_auroc(probabilities[:, c], positive.long()).item())
    return sum(areas) / len(areas) if areas else math.nan


def f1(predicted: Int[Tensor, " slides"], labels: Int[Tensor, " slides"], n_class: int, average: str) -> float:
    """F1 score; ``macro`` averages over the classes that occur in the labels or the predictions."""
    return multiclass_f1_score(predicted, labels, n_class, average=average).item()  # pyright: ignore[reportArgumentType]


def measure(
    probabilities: Float[Tensor, "slides classes"],
    labels: Int[Tensor, " slides"],
    classes: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Metrics:
    """All measures; `resamples` = 0 leaves the intervals out."""
    probabilities, labels = probabilities.double().cpu(), labels.cpu()
    predicted, n = probabilities.argmax(1), len(classes)
    hits = torch.zeros(n, n, dtype=torch.long)
    hits.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    right, of_class, said = hits.diag(), hits.sum(1), hits.sum(0)
    rest_right = len(labels) - of_class - said + right
    sensitivity = {c: _share(right[i], of_class[i]) for i, c in enumerate(classes)}
    specificity = {c: _share(rest_right[i], len(labels) - of_class[i]) for i, c in enumerate(classes)}
    summaries: dict[str, Callable[[Tensor, Tensor], float]] = {
        "auroc": auroc,
        "accuracy": lambda p, y: multiclass_accuracy(p.argmax(1), y, n, average="micro").item(),
        "f1_macro": lambda p, y: f1(p.argmax(1), y, n, "macro"),
        "f1_micro": lambda p, y: f1(p.argmax(1), y, n, "micro"),
        "balanced_accuracy": _balanced,
    }
    values = {name: summary(probabilities, labels) for name, summary in summaries.items()}
    interval = (
        {name: _bootstrap(s, probabilities, labels, resamples, seed) for name, s in summaries.items()}
        if resamples
        else {}
    )
    return Metrics(len(labels), **values, sensitivity=sensitivity, specificity=specificity, interval=interval)


def _share(part: Tensor, whole: Tensor | int) -> float:
    return float(part) / float(whole) if float(whole) else math.nan


def _balanced(probabilities: Tensor, labels: Tensor) -> float:
    predicted = probabilities.argmax(1)
    return float(torch.stack([(predicted[labels == c] == c).double().mean() for c in labels.unique()]).mean())


def _bootstrap(
    summary: Callable[[Tensor, Tensor], float], probabilities: Tensor, labels: Tensor, resamples: int, seed: int
) -> Interval:
    """Percentile interval over resampled slides; resamples without two classes do not count for measures that need them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(labels), (resamples, len(labels)), generator=generator)
    values = torch.tensor([summary(probabilities[i], labels[i]) for i in drawn], dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return (math.nan, math.nan)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return (low, high)
