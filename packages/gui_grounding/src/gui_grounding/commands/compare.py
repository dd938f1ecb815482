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
    tables = _tables(runs, measure)
    return compare_runs(
        tables,
        [measure],
        by="image",
        same=["instruction", "targets"],
        item="item",
        group="screenshot",
        resamples=resamples,
        seed=seed,
    )


def _tables(runs: Sequence[Path], measure: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Run (of a single folder: predictor) → item → row."""
    if not runs:
        raise UserError("no evaluation was given", _HINT)
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        path = run / "predictions.jsonl"
        if not path.is_file():
            raise UserError(f"{run} is not an evaluation: it has no predictions.jsonl", _HINT)
        rows = _read_rows(path, measure)
        predictors = list(dict.fromkeys(row["predictor"] for row in rows))
        compared = predictors
        if len(runs) != 1:
            compared = predictors[-1:]
        for predictor in compared:
            label = predictor
            if len(runs) != 1:
                label = str(run)
            tables[label] = {row["id"]: row for row in rows if row["predictor"] == predictor}
    if len(tables) < 2:
        raise UserError("there is one evaluation alone, nothing to compare it with", _HINT)
    return tables


def _read_rows(path: Path, measure: str) -> list[dict[str, Any]]:
    """The judged items of an evaluation.

    Raises:
        UserError: it is damaged; the line is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "evaluate again") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path}, line {number} is damaged: not JSON", "evaluate again") from None
        if not isinstance(row, dict) or not all(
            isinstance(row.get(name), str) for name in ("predictor", "id", "image")
        ):
            raise UserError(f"{path}, line {number} is damaged: no predictor, id or image", "evaluate again")
        value = row.get(measure)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UserError(f"{path}, line {number} is damaged: {measure} is {value!r:.40}", "evaluate again")
        rows.append(row)
    return rows
