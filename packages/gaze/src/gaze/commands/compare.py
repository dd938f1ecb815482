"""``gaze compare``."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError

MEASURES = ("sequence_score", "edit_distance", "scanmatch", "mm_vector", "mm_position", "nss", "bits", "auc")


@dataclass(frozen=True)
class Comparison(Outcome):
    """Paired tests of every two predictors on the trials that both have.

    Attributes:
        rows: first, second, measure, difference with its interval, p and Holm's p, pairs and groups.
        left_out: trials that only one side has, by pair.
        by: what is swapped and resampled.
    """

    rows: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, int]
    by: str

    def facts(self) -> dict[str, Any]:
        return {"tests": list(self.rows), "left_out": dict(self.left_out), "by": self.by}

    def lines(self) -> Iterable[str]:
        yield f"Difference of means (first - second), 95 % interval, and p by swapping whole {self.by}s, corrected after Holm"
        for row in self.rows:
            pair = f"{row['first']} - {row['second']}"
            span = f"({row['low']:+.3f} to {row['high']:+.3f})"
            behind = f"({row['trials']} trials, {row['groups']} {self.by}s)"
            yield f"{row['measure']:16} {pair:44} {row['difference']:+.3f} {span}  p = {row['p_holm']:.4f}  {behind}"
        for pair, count in self.left_out.items():
            yield f"Note: {pair}: {count} trials of one side only, left out"


def compare(
    runs: list[Path],
    /,
    *,
    by: Literal["scene", "subject"] = "scene",
    measures: list[str] | None = None,
    predictors: list[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares evaluations trial by trial: paired tests with a Holm-corrected table.

    Example: gaze compare run/evaluation other/evaluation --measures bits

    Args:
        runs: folders that 'gaze evaluate' wrote; one folder compares its own predictors.
        by: what is independent: scenes, or subjects.
        measures: which, the option once for each; default: all.
        predictors: names of those to compare, the option once for each; default: of one folder all, of several the models alone.
        resamples: of the tests and intervals.
        seed: of both.
    """
    from core_runtime.statistics import paired_test

    tables = _tables(runs, predictors)
    unknown = [name for name in measures or () if name not in MEASURES]
    if unknown:
        raise UserError(f"no measure is called {', '.join(unknown)}", f"known: {', '.join(MEASURES)}")
    rows: list[dict[str, Any]] = []
    left_out: dict[str, int] = {}
    for first, second in combinations(tables, 2):
        common = [trial for trial in tables[first] if trial in tables[second]]
        single = len(tables[first]) + len(tables[second]) - 2 * len(common)
        if single:
            left_out[f"{first} and {second}"] = single
        for measure in measures or MEASURES:
            row = _test(tables[first], tables[second], common, measure, by, paired_test, resamples, seed)
            if row is not None:
                rows.append({"first": first, "second": second, "measure": measure, **row})
    if not rows:
        raise UserError(
            "the evaluations have no trial in common that both can be judged on", "evaluate them on the same paths"
        )
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return Comparison(rows, left_out, by)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected after Holm (1979): the chance of any false find among all tests stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _tables(runs: Sequence[Path], predictors: Sequence[str] | None) -> dict[str, dict[str, Mapping[str, str]]]:
    """Predictor → trial → row; named by folder where there are several."""
    if not runs:
        raise UserError("no evaluation was given", "give folders that 'gaze evaluate' wrote")
    tables: dict[str, dict[str, Mapping[str, str]]] = {}
    known: set[str] = set()
    for run in runs:
        path = run / "trials.csv"
        if not path.is_file():
            raise UserError(
                f"{run} is not an evaluation: it has no trials.csv", "give folders that 'gaze evaluate' wrote"
            )
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        if not lines or not {"predictor", "trial", "scene", "subject", "digest"} <= set(lines[0]):
            raise UserError(f"{path} is not the table of an evaluation", "evaluate again")
        names = list(dict.fromkeys(line["predictor"] for line in lines))
        known |= set(names)
        chosen = predictors or (names if len(runs) == 1 else [_model_of(names)])
        for name in names:
            if name in chosen:
                label = name if len(runs) == 1 else f"{run.name}: {name}"
                if label in tables:
                    label = f"{run}: {name}"
                # a trial is known by its fixations, too: other data sets have trials of the same names
                own = [line for line in lines if line["predictor"] == name]
                tables[label] = {f"{line['trial']} {line['digest']}": line for line in own}
    missing = [name for name in predictors or () if name not in known]
    if missing:
        raise UserError(f"no predictor is called {', '.join(missing)}", f"known: {', '.join(sorted(known))}")
    if len(tables) < 2:
        raise UserError(
            "there is one predictor alone, nothing to compare it with", "give another evaluation, or --predictors"
        )
    return tables


def _model_of(names: Sequence[str]) -> str:
    """The trained model among the predictors of an evaluation; else its last baseline."""
    from gaze.metrics.judge import PEOPLE

    return [name for name in names if name != PEOPLE][-1]


def _test(
    first: Mapping[str, Mapping[str, str]],
    second: Mapping[str, Mapping[str, str]],
    common: Sequence[str],
    measure: str,
    by: str,
    paired_test: Any,
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """None where fewer than two groups can be judged on this measure."""
    import numpy as np

    one = np.array([float(first[trial].get(measure) or "nan") for trial in common])
    other = np.array([float(second[trial].get(measure) or "nan") for trial in common])
    known = ~(np.isnan(one) | np.isnan(other))
    groups = [first[trial][by] for trial, usable in zip(common, known, strict=True) if usable]
    if len(set(groups)) < 2:
        return None

    def mean(values: Any, indices: Any) -> float:
        return float(values.mean())

    result = paired_test(mean, one[known], other[known], groups, resamples=resamples, seed=seed)
    return {
        "difference": result.difference,
        "low": result.interval.low,
        "high": result.interval.high,
        "p": result.p,
        "trials": int(known.sum()),
        "groups": result.groups,
    }
