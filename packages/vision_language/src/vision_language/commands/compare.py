"""``vision-language compare``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from core_runtime.comparison import Comparison, compare_runs
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Seed

_HINT = "give folders that 'vision-language evaluate' wrote"
_MEASURES = ("mIoU", "pointing", "correct", "accuracy", "R@1", "mAP")


def compare(runs: list[Path], /, *, resamples: Annotated[int, AtLeast(10)] = 2000, seed: Seed = 0) -> Comparison:
    """Compares evaluations item by item with paired tests, by picture; one folder compares its own predictors.

    Example: vision-language compare run/evaluation other/evaluation

    Args:
        runs: folders that 'vision-language evaluate' wrote.
        resamples: of the tests and intervals.
    """
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    measures: set[str] = set()
    for run in runs:
        rows = _rows(run / "rows.jsonl")
        predictors = list(dict.fromkeys(row["predictor"] for row in rows))
        for predictor in predictors if len(runs) == 1 else predictors[-1:]:
            label = predictor if len(runs) == 1 else str(run)
            tables[label] = {row["id"]: row for row in rows if row["predictor"] == predictor}
        measures |= {name for name in _MEASURES if name in rows[0]}
    if len(tables) < 2:
        raise UserError("there is one evaluation alone, nothing to compare it with", _HINT)
    names = [name for name in _MEASURES if name in measures]
    return compare_runs(tables, names, by="group", item="item", group="picture", resamples=resamples, seed=seed)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path.parent} is not an evaluation: it has no rows.jsonl", _HINT)
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append(row | {"predictor": str(row["predictor"]), "id": str(row["id"]), "group": str(row["group"])})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number} is damaged", "evaluate again") from None
    if not rows:
        raise UserError(f"{path} is empty", "evaluate again")
    return rows
