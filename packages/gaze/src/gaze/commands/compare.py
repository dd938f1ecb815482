"""``gaze compare``."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from core_runtime.comparison import Comparison, compare_runs
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Seed

USUAL = ("sequence_score", "edit_distance", "scanmatch", "mm_vector", "mm_position", "bits", "auc")


def compare(
    runs: list[Path],
    /,
    *,
    by: Literal["scene", "subject"] = "scene",
    measures: list[str] | None = None,
    predictors: list[str] | None = None,
    resamples: Annotated[int, AtLeast(100)] = 2000,
    seed: Seed = 0,
) -> Comparison:
    """Compares evaluations trial by trial: paired tests with a Holm-corrected table.

    Example: gaze compare run/evaluation other/evaluation --measures bits

    Args:
        runs: folders that 'gaze evaluate' wrote; one folder compares its own predictors.
        by: what is independent: scenes, or subjects.
        measures: which, the option once for each; default: those that tell predictors of objects apart (not nss, which compares single pixels).
        predictors: names of those to compare, the option once for each; default: of one folder all, of several the models alone.
        resamples: of the tests and intervals.
    """
    tables = _tables(runs, predictors)
    from gaze.metrics.judge import MEASURES

    unknown = [name for name in measures or () if name not in MEASURES]
    if unknown:
        raise UserError(f"no measure is called {', '.join(unknown)}", f"known: {', '.join(MEASURES)}")
    return compare_runs(tables, measures or USUAL, by=by, item="trial", resamples=resamples, seed=seed)


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
        try:
            with path.open(encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as a table ({type(error).__name__})", "evaluate again") from None
        if not lines or not {"predictor", "trial", "scene", "subject", "digest"} <= set(lines[0]):
            raise UserError(f"{path} is not the table of an evaluation", "evaluate again")
        names = list(dict.fromkeys(line["predictor"] for line in lines))
        known |= set(names)
        compared = predictors or (names if len(runs) == 1 else [_model_of(names)])
        for name in names:
            if name in compared:
                label = name
                if len(runs) != 1:
                    label = f"{run.name}: {name}"
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
