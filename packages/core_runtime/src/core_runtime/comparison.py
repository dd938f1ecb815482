"""The verb `compare`: every two of some evaluations on the items that both have, by paired tests, corrected for their number.

A domain reads its evaluations into tables, run → item → values, and says which values are measures and which name the independent group.

Needs NumPy (``attention-suite-core-runtime[statistics]``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Seed, check_value

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison(Outcome):
    """Paired tests of every two runs on the items that both have.

    Attributes:
        rows: first, second, measure, difference of means with its interval (low, high), p and Holm's p, whether it is the least that
            so many resamples can tell, whether every way of swapping was tried, items and groups.
        left_out: items that only one side has, by pair.
        differing: items that were judged by something else on either side, by pair.
        item, group: what an item and an independent group is called ("trial", "scene").
    """

    rows: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, int]
    item: str
    group: str
    differing: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {
            "tests": list(self.rows),
            "left_out": dict(self.left_out),
            "differing": dict(self.differing),
            "by": self.group,
        }

    def lines(self) -> Iterable[str]:
        yield (
            f"Difference of means (first - second), 95 % interval, and p by swapping whole {self.group}s, corrected after Holm"
        )
        for row in self.rows:
            pair = f"{row['first']} - {row['second']}"
            interval = f"({row['low']:+.3f} to {row['high']:+.3f})"
            behind = f"({row['items']} {self.item}s, {row['groups']} {self.group}s)"
            p = f"p {'≤' if row['p_is_least'] else '='} {row['p_holm']:.4f}"
            yield f"{row['measure']:16} {pair:44} {row['difference']:+.3f} {interval}  {p}  {behind}"
        few = [row["groups"] for row in self.rows if row["p_is_exact"]]
        if few:
            least = 2.0 ** (1 - min(few))
            yield f"Note: with {min(few)} {self.group}s no p can be below {least:.2g}, even before it is corrected"
        for pair, count in self.left_out.items():
            yield f"Note: {pair}: {count} {self.item}s of one side only, left out"
        for pair, count in self.differing.items():
            yield f"Note: {pair}: {count} {self.item}s were not judged by the same on both sides, left out"


def compare_runs(
    runs: Mapping[str, Rows],
    measures: Sequence[str],
    *,
    by: str,
    same: Sequence[str] = (),
    item: str = "item",
    group: str = "",
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Tests every measure between every two runs.

    Args:
        runs: run → item → its values. A measure is a number or its text; None, "" and NaN say that it cannot be told of this item.
        measures: names of the values to compare.
        by: name of the value that says whose an item is: what is swapped and resampled whole.
        same: names of values that say by what an item was judged (its target, its question). Where they differ, the two are not
            answers to one question: such items are left out and counted.
        item, group: what they are called in the printed lines; `group` is `by` where it is not given.
        resamples: of the tests and intervals.
        seed: of both.

    Raises:
        UserError: no two runs share items of at least two groups on any of the measures; a measure is not a number; a negative seed.
    """
    check_value("seed", Seed, seed)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, int] = {}
    differing: dict[str, int] = {}
    for first, second in combinations(runs, 2):
        one, other = runs[first], runs[second]
        common = [name for name in one if name in other]
        of_one_side = len(one) + len(other) - 2 * len(common)
        if of_one_side:
            left_out[f"{first} and {second}"] = of_one_side
        alike = [name for name in common if all(one[name].get(value) == other[name].get(value) for value in same)]
        if len(alike) < len(common):
            differing[f"{first} and {second}"] = len(common) - len(alike)
            common = alike
        for measure in measures:
            test = _test(one, other, common, measure, by, resamples, seed)
            if test is not None:
                rows.append({"first": first, "second": second, "measure": measure, **test})
    if not rows and differing:
        pair, count = next(iter(differing.items()))
        raise UserError(
            f"{pair}: {count} {item}s were not judged by the same on both sides ({', '.join(same)})",
            f"evaluate them on the same {item}s",
        )
    if not rows:
        raise UserError(
            f"the evaluations have no {item}s in common that both can be judged on",
            f"evaluate them on the same {item}s",
        )
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return Comparison(rows, left_out, item, group or by, differing)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected after Holm (1979): the chance of a single false find among all tests stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        # never smaller than that of a smaller p, or the order of the tests would turn round
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _test(
    one: Rows, other: Rows, common: Sequence[str], measure: str, by: str, resamples: int, seed: int
) -> dict[str, Any] | None:
    """None where fewer than two groups can be judged on this measure."""
    import numpy as np

    from core_runtime.statistics import EXACT, paired_test

    first = np.array([_number(one[name].get(measure)) for name in common], float)
    second = np.array([_number(other[name].get(measure)) for name in common], float)
    known = ~(np.isnan(first) | np.isnan(second))
    groups = [one[name][by] for name, usable in zip(common, known, strict=True) if usable]
    if len(set(groups)) < 2:
        return None

    def mean(values: Any, indices: Any) -> float:
        return float(values.mean())

    result = paired_test(mean, first[known], second[known], groups, resamples=resamples, seed=seed)
    return {
        "difference": result.difference,
        "low": result.interval.low,
        "high": result.interval.high,
        "p": result.p,
        "p_is_least": result.groups > EXACT and result.p <= 1 / (resamples + 1),
        "p_is_exact": result.groups <= EXACT,
        "items": int(known.sum()),
        "groups": result.groups,
    }


def _number(value: Any) -> float:
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"an evaluation holds {value!r:.60} where a number is expected", "evaluate again") from None


__all__ = ["Comparison", "compare_runs", "holm"]
