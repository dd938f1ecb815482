"""``vision-models classify compare``."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.comparison import Comparison, compare_runs
from core_runtime.errors import UserError
from core_runtime.options import Out

_HINT = "give folders that 'vision-models classify train' or 'evaluate' wrote"


@dataclass(frozen=True)
class NetworksCompared(Outcome):
    """Runs side by side, those of one network under several seeds together.

    Attributes:
        rows: name, parameters, seeds, accuracy with its interval, spread over seeds.
        tests: every two networks on the images that both have; None for one network alone.
        picture: of the accuracies.
    """

    rows: Sequence[dict[str, Any]]
    tests: Comparison | None
    picture: Path

    def facts(self) -> dict[str, Any]:
        tests = None
        if self.tests is not None:
            tests = self.tests.facts()
        return {"networks": list(self.rows), "tests": tests, "picture": self.picture}

    def lines(self) -> Iterable[str]:
        yield f"{'network':34} {'parameters':>11} {'seeds':>5} {'accuracy':>9}  95 % over images     spread over seeds"
        for row in self.rows:
            spread = "–"
            if row["spread"] is not None:
                spread = f"{row['spread']:.4f}"
            yield (
                f"{row['name']:34} {row['parameters']:>11,} {row['seeds']:>5} {row['accuracy']:>9.4f}  "
                f"{row['low']:.4f} to {row['high']:.4f}    {spread}"
            )
        if self.tests is not None:
            yield from self.tests.lines()
        yield f"Picture: {self.picture}"


def compare(
    runs: list[Path],
    /,
    *,
    out: Out = Path("comparison"),
    resamples: int = 2000,
    seed: int = 0,
) -> NetworksCompared:
    """Compares runs image by image: accuracy with intervals, paired tests with Holm's correction, seeds of one network together.

    Example: vision-models classify compare run-1 run-2 run-3

    Args:
        runs: folders that 'train' or 'evaluate' wrote.
        out: folder for the picture and the table.
        resamples: of the tests and intervals.
        seed: of both.
    """
    from core_runtime.folders import write_text
    from core_runtime.statistics import intervals
    from vision_models.classify.reports.figures import draw_comparison

    if not runs:
        raise UserError("no run was given", _HINT)
    groups: dict[str, list[tuple[dict[str, Any], dict[str, float]]]] = {}
    for run in runs:
        described, right = _read(run)
        name = described["network"]
        if described.get("insert"):
            name += f" + {described['insert']}"
        if described.get("parameters") is not None:
            same = [other for other, members in groups.items() if other == name]
            if same and groups[name][0][0]["parameters"] != described["parameters"]:
                name += f" ({described['parameters']:,})"
        groups.setdefault(name, []).append((described, right))
    rows, tables = [], {}
    for name, members in groups.items():
        means = _mean_over_seeds([right for _, right in members], name)
        values = list(means.values())

        def mean(indices: Any, values: list[float] = values) -> Mapping[str, float]:
            return {"accuracy": sum(values[i] for i in indices) / len(indices)}

        interval = intervals(mean, range(len(values)), resamples=min(resamples, 1000), seed=seed)["accuracy"]
        accuracies = [sum(right.values()) / len(right) for _, right in members]
        average = sum(accuracies) / len(accuracies)
        spread = None
        if len(accuracies) > 1:
            spread = (sum((value - average) ** 2 for value in accuracies) / (len(accuracies) - 1)) ** 0.5
        rows.append(
            {
                "name": name,
                "parameters": members[0][0]["parameters"],
                "seeds": len(members),
                "accuracy": average,
                "low": interval.low,
                "high": interval.high,
                "spread": spread,
                "accuracies": accuracies,
            }
        )
        tables[name] = {digest: {"accuracy": value, "image": digest} for digest, value in means.items()}
    rows.sort(key=lambda row: -row["accuracy"])
    tests = None
    if len(tables) > 1:
        tests = compare_runs(tables, ["accuracy"], by="image", item="image", resamples=resamples, seed=seed)
    picture = draw_comparison(rows, out / "comparison.png")
    facts = {"networks": rows, "tests": tests.facts() if tests else None}
    write_text(out / "comparison.json", json.dumps(facts, indent=1) + "\n")
    return NetworksCompared(rows, tests, picture)


def _mean_over_seeds(tables: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """Image → share of the seeds that name it rightly.

    Raises:
        UserError: the seeds were not evaluated on the same images.
    """
    first = tables[0]
    for other in tables[1:]:
        if other.keys() != first.keys():
            raise UserError(
                f"the runs of {name} were evaluated on different images", "the same data and the same --split for each"
            )
    return {digest: sum(table[digest] for table in tables) / len(tables) for digest in first}


def _read(run: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What a run or an evaluation says of itself, and by image whether it was named rightly."""
    table = run / "predictions" / "test.csv"
    if not table.is_file():
        table = run / "predictions.csv"
    described = run / "metrics.json"
    if not table.is_file() or not described.is_file():
        raise UserError(f"{run} holds no evaluation: {table.name} or metrics.json is missing", _HINT)
    try:
        values = json.loads(described.read_text(encoding="utf-8"))
        with table.open(encoding="utf-8", newline="") as file:
            right: dict[str, float] = {}
            for row in csv.DictReader(file):
                # the same picture twice: both count, under names of their own
                digest, copy = row["digest"], 1
                while f"{digest}#{copy}" in right:
                    copy += 1
                right[f"{digest}#{copy}"] = float(row["correct"])
        if not right or not isinstance(values["network"], str) or not isinstance(values["parameters"], int):
            raise ValueError(run)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{run} is not an evaluation of this command", _HINT) from None
    return values, right
