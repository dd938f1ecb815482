"""How well people decided: by method, with intervals and tests in which the participant is what counts."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.comparison import holm
from core_runtime.statistics import Interval, intervals
from explainability.study.reading import Study

SUBSETS = ("all", "model right", "model wrong")


@dataclass(frozen=True)
class MethodResult:
    """Of those who saw one method.

    Attributes:
        method: what they saw.
        participants: how many.
        trials: how many in all.
        accuracy: share of right decisions of all trials, and of those where the model was right or wrong.
        ends: their 95 % intervals, by a bootstrap over participants.
        sd: of the participants' accuracies.
        confusion: trials: accepted right, rejected wrong, accepted wrong, rejected right answers of the model (TP, TN, FP, FN).
    """

    method: str
    participants: int
    trials: int
    accuracy: dict[str, float]
    ends: dict[str, Interval]
    sd: float
    confusion: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """Two methods.

    Attributes:
        first, second: the methods.
        difference: of the participants' mean accuracies, first less second.
        p: of a permutation of participants between the two.
        corrected: after Holm, over all pairs.
        needed: participants per method that would show a difference of 5 points with a power of 80 %.
    """

    first: str
    second: str
    difference: float
    p: float
    corrected: float
    needed: int


def describe(study: Study, *, resamples: int = 1000, seed: int = 0) -> list[MethodResult]:
    """Results by method, the greatest accuracy first."""
    results = []
    for method in study.methods:
        decisions = [decision for decision in study.decisions if decision.method == method]
        people = [decision.participant for decision in decisions]
        correct = np.array([decision.correct for decision in decisions])
        right = np.array([decision.model_right for decision in decisions])

        def shares(indices: Any, correct: Any = correct, right: Any = right) -> dict[str, float]:
            resampled, of_right = correct[indices], right[indices]
            parts = (resampled, resampled[of_right], resampled[~of_right])
            return {
                name: float(part.mean()) if len(part) else math.nan for name, part in zip(SUBSETS, parts, strict=True)
            }

        ends = intervals(shares, people, resamples=resamples, seed=seed)
        confusion = {
            "TP": int((right & correct).sum()),
            "TN": int((~right & correct).sum()),
            "FP": int((~right & ~correct).sum()),
            "FN": int((right & ~correct).sum()),
        }
        means = participant_means(study, method)
        sd = float(means.std(ddof=1)) if len(means) > 1 else math.nan
        everything = np.arange(len(decisions))
        results.append(MethodResult(method, len(means), len(decisions), shares(everything), ends, sd, confusion))
    return sorted(results, key=lambda result: -result.accuracy["all"])


def participant_means(study: Study, method: str) -> NDArray[np.floating]:
    """Accuracy of each participant who saw a method."""
    by_person: dict[str, list[bool]] = {}
    for decision in study.decisions:
        if decision.method == method:
            by_person.setdefault(decision.participant, []).append(decision.correct)
    return np.array([sum(answers) / len(answers) for answers in by_person.values()])


def permutation_test(
    first: NDArray[np.floating], second: NDArray[np.floating], *, permutations: int = 10_000, seed: int = 0
) -> float:
    """Probability of a difference of means at least as large if participants were interchangeable between the methods."""
    rng = np.random.default_rng(seed)
    everyone = np.concatenate([first, second])
    observed = abs(first.mean() - second.mean())
    order = rng.permuted(np.tile(np.arange(len(everyone)), (permutations, 1)), axis=1)
    shuffled = everyone[order]
    differences = shuffled[:, : len(first)].mean(1) - shuffled[:, len(first) :].mean(1)
    # the groups as they were count as one of the permutations
    return float((1 + (abs(differences) >= observed - 1e-12).sum()) / (permutations + 1))


def needed_participants(sd: float, *, difference: float = 0.05, power: float = 0.8, level: float = 0.05) -> int:
    """Participants per method for a two-sided test of a difference of means, by the normal approximation.

    ``2 (z_{1 − level / 2} + z_power)² sd² / difference²``.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return math.ceil(2 * (z * sd / difference) ** 2)


def compare_methods(study: Study, *, permutations: int = 10_000, seed: int = 0) -> list[Comparison]:
    """Every two methods, whose tests are corrected together. Methods of fewer than two participants are not compared."""
    means = {method: participant_means(study, method) for method in study.methods}
    names = [method for method, values in means.items() if len(values) > 1]
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    p_values = [permutation_test(means[a], means[b], permutations=permutations, seed=seed) for a, b in pairs]
    comparisons = []
    for (a, b), p, corrected in zip(pairs, p_values, holm(p_values), strict=True):
        difference = float(means[a].mean() - means[b].mean())
        sd = math.sqrt((means[a].var(ddof=1) + means[b].var(ddof=1)) / 2)
        comparisons.append(Comparison(a, b, difference, p, corrected, needed_participants(sd)))
    return comparisons
