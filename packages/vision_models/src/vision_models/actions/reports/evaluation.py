"""The files of an evaluation: results, a row per video, pictures, and one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core_runtime.folders import write_text
from core_runtime.report import Report
from vision_models.actions.cohort import Clip
from vision_models.actions.judging import as_judged
from vision_models.actions.metrics.measure import CAUSES, Measures, curve_of
from vision_models.actions.reports.files import write_detections
from vision_models.actions.reports.timeline import draw_timeline, save
from vision_models.actions.results import Detections

SHOWN = 3  # videos whose timelines are on the page


def write_evaluation(
    out: Path,
    described: Mapping[str, Any],
    found: Mapping[str, Detections],
    clips: Sequence[Clip],
    measures: Measures,
    *,
    labelled: bool,
) -> dict[str, Path]:
    """Writes results, truth, pictures and ``report.html``; returns them by name."""
    files = {"results": write_detections(out / "results.json", found)}
    truth = {}
    for clip in clips:
        actions = [{"segment": [action.start, action.end], "label": action.label} for action in clip.actions]
        truth[clip.name] = {"duration": clip.seconds, "annotations": actions}
    write_text(out / "truth.json", json.dumps({"database": truth}) + "\n")
    _, agnostic = as_judged(found, clips, labelled=labelled)
    files["picture"] = save(draw_measures(measures, agnostic), out / "measures.png")
    page = Report("What happens, and when", lead=str(described["origin"]))
    rows = []
    for name, value in measures.values.items():
        ends = measures.intervals.get(name)
        rows.append((name, value, f"{ends.low:.3f} to {ends.high:.3f}" if ends else "–"))
    page.table(("measure", "value", "95 % interval over videos"), rows)
    page.picture(
        files["picture"],
        "Average recall over proposals, mAP over tIoU, causes of false segments, and what is found of which actions.",
    )
    if len(measures.by_class) > 1:
        by_class = sorted(measures.by_class.items(), key=lambda entry: -entry[1])
        page.table(("label", "average precision"), by_class, caption="Mean over the overlaps above.")
    labels = sorted({action.label for clip in clips for action in clip.actions} | _labels(found))
    page.heading("Some of the videos")
    for clip in clips[:SHOWN]:
        own = found[clip.name]
        figure = draw_timeline((), own.seconds, own.shown(), labels, truth=clip.actions, title=clip.name)
        page.picture(figure, "Annotated above, detected below; stronger colour, higher score.")
    files["report"] = page.write(out / "report.html")
    return files


def _labels(found: Mapping[str, Detections]) -> set[str]:
    return {segment.label for each in found.values() for segment in each.segments}


def draw_measures(measures: Measures, agnostic: Any) -> Figure:
    """Four panels: recall over proposals, mAP over tIoU, causes, and recall by length and crowding."""
    figure = Figure(figsize=(14, 3.4), layout="constrained")
    recall, precision, errors, shares = figure.subplots(1, 4)
    curve = curve_of(agnostic)
    recall.plot(curve.proposals, curve.mean, color="#4477aa")
    recall.set(xlabel="mean proposals of a video", ylabel="average recall", ylim=(0, 1), title=f"AUC {curve.auc:.3f}")
    points = [(name.partition("@")[2], value) for name, value in measures.values.items() if name.startswith("mAP@")]
    places = np.arange(len(points))
    precision.bar(places, [value for _, value in points], color="#4477aa")
    for place, (threshold, _) in zip(places, points, strict=True):
        ends = measures.intervals.get(f"mAP@{threshold}")
        if ends is not None:
            precision.plot([place, place], [ends.low, ends.high], color="black", linewidth=1.5)
    precision.set_xticks(places, [threshold for threshold, _ in points])
    precision.set(xlabel="tIoU", ylabel="mAP", ylim=(0, 1), title=f"mAP {measures.values['mAP']:.3f}")
    names = ["true", *CAUSES]
    errors.barh(names, [measures.errors[name] for name in names], color=["#228833", *["#ee6677"] * len(CAUSES)])
    errors.invert_yaxis()
    errors.set(xlabel="segments", title="the best segments at tIoU 0.5")
    rows = [*measures.by_length, *measures.by_crowding]
    shares.barh(range(len(rows)), [value for _, value, _ in rows], color="#4477aa")
    shares.set_yticks(range(len(rows)), [f"{name} ({count})" for name, _, count in rows], fontsize=8)
    shares.invert_yaxis()
    shares.set(xlabel="share found at tIoU 0.5", xlim=(0, 1), title="by length, and by actions of the video")
    for axes in (recall, precision, errors, shares):
        axes.grid(axis="both", alpha=0.2)
    return figure
