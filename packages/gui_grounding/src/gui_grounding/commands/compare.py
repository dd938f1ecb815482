"""``gui-grounding compare``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.comparison import Comparison, compare_runs
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Seed

_HINT = "give folders that 'gui-grounding evaluate' wrote"


def compare(
    runs: list[Path],
    /,
    *,
    measure: Literal["hit@1", "hit@k", "mass", "overlap"] = "hit@1",
    resamples: Annotated[int, AtLeast(10)] = 2000,
    seed: Seed = 0,
) -> Comparison:
    """Compares evaluations item by item; one folder compares its own predictors.

    Example: gui-grounding compare run/evaluation other/evaluation

    Args:
        runs: folders that 'gui-grounding evaluate' wrote.
        measure: what is compared.
        resamples: of the tests and intervals.
    """
    tables = _tables(runs)
    return compare_runs(tables, [measure], by="image", item="item", group="screenshot", resamples=resamples, seed=seed)


def _tables(runs: Sequence[Path]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Run (of a single folder: predictor) → item → row."""
    if not runs:
        raise UserError("no evaluation was given", _HINT)
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        path = run / "predictions.jsonl"
        if not path.is_file():
            raise UserError(f"{run} is not an evaluation: it has no predictions.jsonl", _HINT)
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            predictors = list(dict.fromkeys(row["predictor"] for row in rows))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged", "evaluate again") from None
        chosen = predictors if len(runs) == 1 else predictors[-1:]
        for predictor in chosen:
            label = predictor if len(runs) == 1 else str(run)
            tables[label] = {row["id"]: row for row in rows if row["predictor"] == predictor}
    if len(tables) < 2:
        raise UserError("there is one evaluation alone, nothing to compare it with", _HINT)
    return tables
