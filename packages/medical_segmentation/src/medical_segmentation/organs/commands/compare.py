"""``medical-segmentation organs compare``."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.comparison import Comparison, compare_runs
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Seed

_HINT = "give folders that 'medical-segmentation organs train' or 'evaluate' wrote"


def compare(
    runs: list[Path],
    /,
    *,
    measure: Literal[
        "dice", "hausdorff95", "surface_dice", "msd", "volume_similarity", "lesion_dice", "lesion_f1"
    ] = "dice",
    resamples: Annotated[int, AtLeast(10)] = 2000,
    seed: Seed = 0,
) -> Comparison:
    """Compares runs or evaluations case by case and class by class (each a measurement), by paired tests that swap whole patients.

    Example: medical-segmentation organs compare run other_run --measure surface_dice

    Args:
        runs: folders that 'train' or 'evaluate' wrote.
        measure: what is compared.
        resamples: of the tests and intervals.
    """
    if len(runs) < 2:
        raise UserError("there is one run alone, nothing to compare it with", _HINT)
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("a run is given twice: it does not differ from itself", _HINT)
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        path = run / "cases.csv"
        if not path.is_file():
            raise UserError(f"{run} holds no cases.csv", _HINT)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or measure not in rows[0] or "patient" not in rows[0]:
            raise UserError(f"{path} is damaged", "evaluate again")
        tables[str(run)] = {f"{row['case']} {row['class']}": row for row in rows}
    return compare_runs(
        tables, [measure], by="patient", item="measurement", group="patient", resamples=resamples, seed=seed
    )
