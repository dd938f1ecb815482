"""The report of an evaluation: the table, the picture, and the trials where model and people differ most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.report import Report
from gaze.cohort.study import Trial
from gaze.metrics.behaviour import BEHAVIOUR
from gaze.metrics.judge import PEOPLE, Judged, behaviour_means
from gaze.reports.figures import draw_compared, draw_measures
from gaze.scenes.scene import Scene

_SHOWN = 3  # trials


def write_evaluation(
    folder: Path,
    evaluation: Any,
    results: Sequence[Judged],
    trials: Sequence[Trial],
    scenes: Mapping[str, Scene],
    predictors: Sequence[Any],
    *,
    longest: int,
) -> None:
    """Writes ``report.html`` and its pictures into the folder of an evaluation."""
    values = evaluation.values
    report = Report(
        "Predicted and human scanpaths",
        lead=f"{values['account']}. Judged on {values['trials']} paths: {values['part']}.",
    )
    report.text(
        f"Pairing: {values['pairing']}. MultiMatch, ScanMatch and positions are in pixels of the display, durations in ms."
    )
    for note in values["notes"]:
        report.warning(note)
    figure = draw_measures(evaluation.table, ["sequence_score", "bits", "mm_vector", "mm_position"])
    figure.savefig(folder / "measures.png", dpi=110)
    report.picture(
        folder / "measures.png",
        "Means with 95 % intervals over scenes. Bits: per step, above a uniform choice among the objects and the stop; "
        "the row uniform has learned how long people look, so it lies above 0.",
    )
    columns = ["", *next(iter(evaluation.table.values()))]
    report.heading("Measures").table(
        columns, _rows(evaluation.table, columns[1:]), caption="95 % intervals over scenes in brackets."
    )
    report.table(columns, _rows(evaluation.by_subject, columns[1:]), caption="The same, intervals over subjects.")
    report.heading("Behaviour").table(
        ["", *BEHAVIOUR, "delta"],
        _behaviour(results),
        caption="Means over paths; delta: relative distance from people.",
    )
    _add_trials(report, results, trials, scenes, predictors, longest)
    report.write(folder / "report.html")


def _rows(table: Mapping[str, Mapping[str, Any]], measures: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, entries in table.items():
        cells = []
        for measure in measures:
            entry = entries.get(measure)
            if entry is None or np.isnan(entry["value"]):
                cells.append("–")
            elif np.isnan(entry["low"]):
                cells.append(f"{entry['value']:.3f}")
            else:
                cells.append(f"{entry['value']:.3f} ({entry['low']:.3f}–{entry['high']:.3f})")
        rows.append([name, *cells])
    return rows


def _behaviour(results: Sequence[Judged]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for result in results:
        means = behaviour_means(result.behaviours)
        delta = result.delta
        if np.isnan(result.delta):
            delta = None
        rows.append([result.name, *(means[name] for name in BEHAVIOUR), delta])
    return rows


def _add_trials(
    report: Report,
    results: Sequence[Judged],
    trials: Sequence[Trial],
    scenes: Mapping[str, Scene],
    predictors: Sequence[Any],
    longest: int,
) -> None:
    """The trials that the last predictor (the model, where there is one) tells worst."""
    judged = [result for result in results if result.name != PEOPLE][-1]
    predictor = predictors[-1]
    worst = np.argsort(judged.column("sequence_score"))[:_SHOWN]
    report.heading(f"Where {judged.name} and people differ most")
    for index in worst:
        trial = trials[index]
        scene = scenes[trial.scene]
        drawn = predictor.sample([scene], [trial.target], samples=3, seeds=[0], longest=longest)
        panels = {f"subject {trial.subject or '?'}": [trial.scanpath.points]}
        for number, path in enumerate(drawn[0], 1):
            panels[f"{judged.name}, path {number}"] = [scene.centres[path]]
        score = judged.rows[index]["sequence_score"]
        report.picture(draw_compared(scene, panels, trial.target), f"{trial.name}: sequence score {score:.2f}")
