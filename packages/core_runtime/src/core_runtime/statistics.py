"""How sure a measure is, where items come in groups: intervals by group, and paired tests of two models on the same items.

The slides of one patient, or the hours of one recording, are not independent: what is resampled or swapped is always a whole group (a patient).

A bootstrap alone claims too much where data are few: its interval collapses to a point where a measure is 0 or 1, as if five patients proved it.
So where few independent groups stand behind a measure between 0 and 1, or it lies near one of these ends, its interval also covers
Wilson's interval for as many coin throws with that mean.
That is on the safe side: of all quantities between 0 and 1 with a given mean, a coin's outcome varies most.

Needs NumPy (``attention-suite-core-runtime[statistics]``).
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
FEW = 30  # independent groups below which a percentile bootstrap is too narrow (Hesterberg 2015)
RARE = 10  # the same where fewer groups than this would fail (or succeed): the bootstrap is then skewed
EXACT = 12  # up to this number of groups every way of swapping is tried (2**12 = 4,096)


@dataclass(frozen=True)
class Interval:
    """Where a measure lies, with the given confidence.

    Attributes:
        low, high: the ends; NaN where nothing can be said.
        level: confidence, 0.95 for a 95 % interval.
        groups: how many independent groups are behind the measure.
    """

    low: float
    high: float
    level: float
    groups: int

    def __str__(self) -> str:
        return f"{self.level * 100:g} % interval {self.low:.3f} to {self.high:.3f}"


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` independent items; it neither collapses to a point at 0 and 1 nor reaches beyond them.

    With p the share, n the count and z the quantile of the normal distribution,
    (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927).
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(max(0.0, share * (1 - share)) / count + z**2 / (4 * count**2))
    # the ends at 0 and 1 are exact; rounding must not exclude them
    low = 0.0 if share <= 0 else max(0.0, centre - half)
    high = 1.0 if share >= 1 else min(1.0, centre + half)
    return low, high


def resampled(groups: Sequence[Hashable], resamples: int, seed: int = 0) -> Iterator[Indices]:
    """Bootstrap samples of items by group: as many groups as there are, drawn with replacement, each with all of its items."""
    members = _members(groups)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = rng.integers(0, len(members), len(members))
        # a group drawn twice brings all of its items twice
        yield np.concatenate([members[i] for i in drawn])


def intervals(
    measures: Callable[[Indices], Mapping[str, float]],
    groups: Sequence[Hashable],
    *,
    independent: Mapping[str, int] | None = None,
    bounded: bool = True,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of measures over items that come in groups.

    Args:
        measures: of the items with these indices (repeats included), by name; NaN where a measure is undefined.
        groups: the group of each item (its patient).
        independent: by measure, how many independent groups stand behind it, where these are fewer than all: for a sensitivity the
            patients with the disease; for an area under the ROC curve the smaller class, since that many disjoint pairs can be formed.
        bounded: whether the measures lie between 0 and 1. Others have no interval for a single group.
        level: confidence.
        resamples: of the bootstrap.
        seed: of its draws.

    Returns:
        By name; with NaN ends where the measure itself is NaN.
    """
    estimates = measures(np.arange(len(groups)))
    samples: dict[str, list[float]] = {name: [] for name in estimates}
    for indices in resampled(groups, resamples, seed):
        for name, value in measures(indices).items():
            # A resample without a single case leaves some measures undefined: it says nothing about them.
            if not math.isnan(value):
                samples[name].append(value)
    total = len(set(groups))
    result = {}
    for name, estimate in estimates.items():
        behind = (independent or {}).get(name, total)
        low, high = _ends(estimate, samples[name], behind, bounded, level)
        result[name] = Interval(low, high, level, behind)
    return result


def _ends(estimate: float, samples: Sequence[float], groups: int, bounded: bool, level: float) -> tuple[float, float]:
    """The percentile interval; for few groups, and near 0 and 1, widened to Wilson's."""
    if math.isnan(estimate) or groups < 1 or (groups < 2 and not bounded):
        return math.nan, math.nan
    low, high = estimate, estimate
    if samples:
        tail = (1 - level) / 2
        low, high = (float(end) for end in np.quantile(samples, [tail, 1 - tail]))
    # `groups * min(share, 1 - share)` is the expected number of the rarer outcome
    share = min(1.0, max(0.0, estimate))
    if bounded and (groups < FEW or groups * min(share, 1 - share) < RARE):
        wilson_low, wilson_high = wilson(share, groups, level)
        low, high = min(low, wilson_low), max(high, wilson_high)
    return low, high


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same items.

    Attributes:
        difference: measure of the first minus that of the second.
        interval: of the difference, by a bootstrap over groups.
        p: probability of a difference at least as large if the models were interchangeable.
        groups: how many there are.
    """

    difference: float
    interval: Interval
    p: float
    groups: int


def paired_test(
    measure: Callable[[NDArray[Any], Indices], float],
    first: NDArray[Any],
    second: NDArray[Any],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedTest:
    """Compares two models on the same items: a randomisation test that swaps their answers in whole groups.

    Valid for any measure and any number of groups. With few groups every way of swapping is tried and p is exact: with five it is never
    below 1/16, because each swap and its mirror image differ equally.

    Args:
        measure: of answers and the indices of their items (for their truths).
        first, second: the models' answers (scores, labels, rows of probabilities), in the order of the items.
        groups: the group of each item (its patient).
        level: confidence of the interval.
        resamples: random swaps and bootstrap samples.
        seed: of both.
    """
    everything = np.arange(len(groups))
    difference = measure(first, everything) - measure(second, everything)
    members = _members(groups)
    larger, count = 0, 0
    for swap in _swaps(len(members), resamples, seed):
        one, other = first.copy(), second.copy()
        for i in np.flatnonzero(swap):
            rows = members[i]
            one[rows], other[rows] = second[rows], first[rows]
        swapped = measure(one, everything) - measure(other, everything)
        if not math.isnan(swapped):
            count += 1
            # Equal differences count; summed in another order, they may differ by rounding.
            larger += abs(swapped) >= abs(difference) - 1e-12
    # Random swaps: the answers as given count as one of them, so that p is never 0 (Phipson and Smyth 2010).
    if len(members) > EXACT:
        larger, count = larger + 1, count + 1
    bootstrap = intervals(
        lambda indices: {"difference": measure(first[indices], indices) - measure(second[indices], indices)},
        groups,
        bounded=False,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    p = math.nan
    if not math.isnan(difference):
        p = larger / count
    return PairedTest(difference, bootstrap["difference"], p, len(members))


def _swaps(groups: int, resamples: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Which groups are swapped: every way of few groups, else random ones."""
    if groups <= EXACT:
        for swap in product((False, True), repeat=groups):
            yield np.array(swap, bool)
        return
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(0, 2, groups).astype(bool)


def _members(groups: Sequence[Hashable]) -> list[Indices]:
    """The items of each group, in the order of first appearance."""
    places: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    return [np.array(indices, np.int64) for indices in places.values()]
