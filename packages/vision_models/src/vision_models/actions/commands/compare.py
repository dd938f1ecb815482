"""``vision-models actions compare``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Out, Seed

_HINT = "give folders that 'vision-models actions evaluate' wrote"


@dataclass(frozen=True)
class RunsCompared(Outcome):
    """Evaluations side by side, and paired tests of every two.

    Attributes:
        rows: name, measures with intervals.
        tests: first, second, difference of mAP with its interval, p and Holm's p, videos.
        table: the same as JSON.
    """

    rows: Sequence[Mapping[str, Any]]
    tests: Sequence[Mapping[str, Any]]
    table: Path

    def facts(self) -> dict[str, Any]:
        return {"runs": list(self.rows), "tests": list(self.tests), "table": self.table}

    def lines(self) -> Iterable[str]:
        yield f"{'run':32} {'mAP':>7}  95 % over videos      AUC    AR@100"
        for row in self.rows:
            yield f"{row['name']:32} {row['mAP']:7.4f}  {row['low']:.4f} to {row['high']:.4f}   {row['AUC']:.4f}  {row['AR@100']:.4f}"
        yield "Difference of mAP (first - second), 95 % interval, and p by swapping the detections of whole videos, corrected after Holm"
        for test in self.tests:
            pair = f"{test['first']} - {test['second']}"
            yield (
                f"{pair:44} {test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})  p = {test['p_holm']:.4f}"
                f"  ({test['videos']} videos)"
            )
        yield f"Table: {self.table}"


def compare(
    runs: list[Path],
    /,
    *,
    out: Out = Path("comparison"),
    resamples: Annotated[int, AtLeast(1)] = 500,
    seed: Seed = 0,
) -> RunsCompared:
    """Compares evaluations of the same videos: mAP with intervals, and a paired test of every two with Holm's correction.

    Example: vision-models actions compare evaluation-bmn evaluation-csa

    Args:
        runs: folders that 'evaluate' wrote.
        out: folder for the table.
        resamples: of the tests and intervals.
        seed: of both.
    """
    from core_runtime.comparison import holm
    from core_runtime.folders import write_text
    from vision_models.actions.metrics.measure import Judged, paired
    from vision_models.actions.reports.files import read_detections

    if len(runs) < 2:
        raise UserError("two runs or more are compared", _HINT)
    described, detections, truths = {}, {}, {}
    for run in runs:
        name = run.name if run.name not in described else str(run)
        described[name], truths[name] = _read(run)
        detections[name] = read_detections(run / "results.json")
    first_name = next(iter(truths))
    truth = truths[first_name]
    for name, other in truths.items():
        if other != truth:
            raise UserError(
                f"{first_name} and {name} were evaluated on other videos or actions", "evaluate them on the same"
            )
    thresholds = described[first_name]["thresholds"]
    for name, each in described.items():
        if each["thresholds"] != thresholds or each["labelled"] != described[first_name]["labelled"]:
            raise UserError(
                f"{first_name} and {name} were evaluated by other measures", "the same --tiou, both with labels"
            )
    labelled = bool(described[first_name]["labelled"])
    labels = sorted({action.label for actions in truth.values() for action in actions})
    judged = {name: Judged.of(truth, own, labels, agnostic=not labelled) for name, own in detections.items()}
    rows = []
    for name, each in described.items():
        test = each["test"]
        low, high = test["intervals"].get("mAP", (float("nan"), float("nan")))
        rows.append(
            {"name": name, "mAP": test["mAP"], "low": low, "high": high, "AUC": test["AUC"], "AR@100": test["AR@100"]}
        )
    tests: list[dict[str, Any]] = []
    for first, second in combinations(judged, 2):
        result = paired(judged[first], judged[second], thresholds, resamples=resamples, seed=seed)
        tests.append(
            {
                "first": first,
                "second": second,
                "difference": result.difference,
                "low": result.interval.low,
                "high": result.interval.high,
                "p": result.p,
                "videos": result.groups,
            }
        )
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    table = out / "comparison.json"
    write_text(table, json.dumps({"runs": rows, "tests": tests}, indent=1) + "\n")
    return RunsCompared(rows, tests, table)


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an evaluation says of itself, and its truth."""
    from vision_models.actions.annotations import Action

    try:
        described = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        database = json.loads((run / "truth.json").read_text(encoding="utf-8"))["database"]
        truth = {}
        for name, entry in database.items():
            actions = []
            for row in entry["annotations"]:
                start, end = map(float, row["segment"])
                actions.append(Action(start, end, row["label"]))
            truth[name] = tuple(actions)
        _ = described["thresholds"], described["labelled"], described["test"]["intervals"], described["test"]["AUC"]
    except FileNotFoundError as error:
        raise UserError(f"{run} holds no evaluation: {Path(error.filename).name} is missing", _HINT) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run} is not an evaluation of this command", _HINT) from None
    return described, truth
