"""``language-models compare``."""

import csv
from collections.abc import Mapping
from pathlib import Path

from core_runtime.comparison import Comparison, compare_runs
from core_runtime.errors import UserError
from core_runtime.options import Seed


def compare(runs: list[Path], /, *, resamples: int = 2000, seed: Seed = 0) -> Comparison:
    """Compares evaluations window by window: paired tests with a Holm-corrected table.

    Example: language-models compare one/evaluation other/evaluation

    Args:
        runs: folders that 'language-models evaluate' wrote on the same text.
        resamples: of the tests and intervals.
    """
    if len(runs) < 2:
        raise UserError("a comparison needs two evaluations", "give folders that 'language-models evaluate' wrote")
    tables: dict[str, dict[str, Mapping[str, str]]] = {}
    for run in runs:
        path = run / "windows.csv"
        if not path.is_file():
            raise UserError(f"{run} holds no windows.csv", "evaluate with --tasks text first")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"context", "window", "bits_per_byte"} <= set(rows[0]):
            raise UserError(f"{path} is not the table of an evaluation", "evaluate again")
        name = str(run) if run.name in tables or run.name == "evaluation" else run.name
        tables[name] = {f"{row['context']} {row['window']}": row for row in rows}
    return compare_runs(tables, ["bits_per_byte"], by="window", item="window", resamples=resamples, seed=seed)
