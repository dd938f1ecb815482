"""The report of what people did."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core_runtime.report import Report
from gaze.cohort.study import Study
from gaze.reports.figures import draw_compared

_SHOWN = 3  # scenes


def write_study(folder: Path, study: Study, subjects: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``report.html`` into a folder."""
    report = Report("What people looked at", lead=study.account())
    for note in study.notes:
        report.warning(note)
    columns = list(subjects[0])
    report.heading("Subjects").table(columns, [[row[name] for name in columns] for row in subjects])
    report.heading("Paths")
    most = [name for name, _ in Counter(trial.scene for trial in study.trials).most_common(_SHOWN)]
    for name in most:
        trials = [trial for trial in study.trials if trial.scene == name]
        target = trials[0].target
        same = [trial for trial in trials if trial.target == target][:3]
        panels = {f"subject {trial.subject or '?'}": [trial.scanpath.points] for trial in same}
        searched = ""
        if target is not None:
            searched = f", searching {study.scenes[name].names[target]}"
        report.picture(draw_compared(study.scenes[name], panels, target), f"{name}{searched}")
    report.write(folder / "report.html")
