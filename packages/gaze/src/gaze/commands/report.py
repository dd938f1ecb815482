"""``gaze report``."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import counted
from core_runtime.options import Out, Overwrite
from gaze.cohort.study import ObjectOptions
from gaze.scanpaths.reading_options import ReadOptions

DWELL = (
    "trial",
    "stimulus",
    "subject",
    "target",
    "area",
    "fixations",
    "entries",
    "revisits",
    "dwell_ms",
    "first_fixation",
    "first_at_ms",
)


@dataclass(frozen=True)
class Described(Outcome):
    """What people looked at.

    Attributes:
        out: the folder with report.html, areas.csv (a row per path and object) and paths.csv (a row per path).
        subjects: behaviour, recurrence and, with pictures, the strategy of each.
        account: what was read and left out.
        notes: what the user should know.
    """

    out: Path
    subjects: Sequence[Mapping[str, Any]]
    account: str
    notes: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        return {"account": self.account, "subjects": list(self.subjects), "notes": list(self.notes), "out": self.out}

    def lines(self) -> Iterable[str]:
        yield self.account
        for note in self.notes:
            yield f"Note: {note}"
        for subject in self.subjects:
            strategy = ""
            if subject.get("strategy"):
                strategy = f"; {subject['strategy']}"
            correct = ""
            if subject["correct"] is not None:
                correct = f", correct {subject['correct']:.0%}"
            yield (
                f"{subject['subject'] or 'not named'}: {counted(subject['paths'], 'path')} of {subject['length']:.1f} fixations"
                f"{correct}, revisits {subject['revisit']:.2f}{strategy}"
            )
        yield f"Report: {self.out / 'report.html'}; tables: areas.csv, paths.csv"


def report(
    scanpaths: Path,
    /,
    *,
    out: Out = Path("gaze-report"),
    objects: ObjectOptions = ObjectOptions(),
    reading: ReadOptions = ReadOptions(),
    overwrite: Overwrite = False,
) -> Described:
    """Describes what people looked at: dwell times of objects, behaviour, recurrence, and each subject's search strategy.

    Example: gaze report fixations.json --areas areas.json --images pictures --out report

    Args:
        scanpaths: a file of scanpaths, or a folder of them.
    """
    from core_runtime.folders import writing
    from core_runtime.identity import begun, identity, refuse_foreign_folder
    from gaze.cohort.study import load_study
    from gaze.reports.study import write_study

    refuse_foreign_folder(out, [scanpaths], overwrite=overwrite)
    study = load_study(scanpaths, objects, reading)
    subjects = describe_subjects(study)
    with begun(out, {"report": identity(scanpaths)}), writing(out) as folder:
        folder.mkdir()
        _write(folder / "areas.csv", DWELL, dwell_rows(study))
        rows = path_rows(study)
        _write(folder / "paths.csv", list(rows[0]), rows)
        write_study(folder, study, subjects)
    return Described(out, subjects, study.account(), study.notes)


def describe_subjects(study: Any) -> list[dict[str, Any]]:
    """A row per subject: means over its paths."""
    import numpy as np

    from gaze.metrics.behaviour import BEHAVIOUR, behaviour_of
    from gaze.metrics.recurrence import recurrence_of_objects
    from gaze.predictors.strategies import STRATEGIES, name_strategy

    saliency = _saliency(study)
    by_subject = defaultdict(list)
    for trial in study.trials:
        by_subject[trial.subject].append(trial)
    rows = []
    for subject, trials in sorted(by_subject.items()):
        behaviours = [behaviour_of(trial.objects, trial.target) for trial in trials]
        row: dict[str, Any] = {"subject": subject, "paths": len(trials)}
        row |= {name: float(np.mean([getattr(each, name) for each in behaviours])) for name in BEHAVIOUR}
        if not any(knows_target(trial) for trial in trials):
            row["correct"] = None
        row["recurrence"] = float(
            np.nanmean([recurrence_of_objects(trial.objects).rate for trial in trials] or [np.nan])
        )
        if saliency is not None:
            strategy = name_strategy(trials, study.scenes, saliency)
            row["strategy"] = (
                f"{strategy.name}: {STRATEGIES[strategy.name]}" if strategy.name in STRATEGIES else strategy.name
            )
            row["strategy_bits"] = strategy.bits
        rows.append(row)
    return rows


def knows_target(trial: Any) -> bool:
    """Whether something was searched, as far as the file says; an absent target counts."""
    return trial.target is not None or trial.scanpath.target_present is False


def _saliency(study: Any) -> dict[str, Any] | None:
    """Of the objects of each scene; None without pictures."""
    if any(scene.picture is None for scene in study.scenes.values()):
        return None
    from gaze.scenes.saliency import object_saliency

    return {name: object_saliency(scene.picture, scene.boxes, scene.size) for name, scene in study.scenes.items()}


def dwell_rows(study: Any) -> list[dict[str, Any]]:
    """A row per path and object that it visits."""
    from gaze.scanpaths.aoi_files import dwell

    rows = []
    for trial in study.trials:
        scene = study.scenes[trial.scene]
        for entry in dwell(trial.objects, trial.scanpath, scene.names):
            rows.append(_described(trial, scene) | entry)
    return rows


def path_rows(study: Any) -> list[dict[str, Any]]:
    """A row per path: behaviour and recurrence."""
    from dataclasses import asdict

    from gaze.metrics.behaviour import behaviour_of
    from gaze.metrics.recurrence import recurrence_of_objects

    rows = []
    for trial in study.trials:
        scene = study.scenes[trial.scene]
        behaviour = asdict(behaviour_of(trial.objects, trial.target))
        if not knows_target(trial):
            behaviour["correct"] = None
        recurrence = {
            f"recurrence_{name}": value for name, value in asdict(recurrence_of_objects(trial.objects)).items()
        }
        rows.append({**_described(trial, scene), **behaviour, **recurrence})
    return rows


def _described(trial: Any, scene: Any) -> dict[str, Any]:
    """What both tables say of a path, so that they can be joined by ``trial``."""
    target = None
    if trial.target is not None:
        target = scene.names[trial.target]
    return {"trial": trial.name, "stimulus": trial.scene, "subject": trial.subject, "target": target}


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
