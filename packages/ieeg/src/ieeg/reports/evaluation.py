"""An evaluation as a page, a table and a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core_runtime.report import Report
from ieeg.model.published import RESEARCH_ONLY
from ieeg.results.evaluation import MEASURES, measure_rows, unfair


def draw_evaluation(result: Mapping[str, Any]) -> Figure:
    """Sensitivity against false alarms an hour, calibration, and event F1 of every subject."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    points = result.get("curve", [])
    if points:
        false, found = ([p[k] for p in points] for k in ("event_false_per_hour", "event_sensitivity"))
        left.plot(false, found, marker=".", color="black", linewidth=1)
        here = min(points, key=lambda p: abs(p["threshold"] - result["threshold"]))
        left.plot(
            here["event_false_per_hour"],
            here["event_sensitivity"],
            "o",
            color="tab:red",
            label=f"threshold {result['threshold']:g}",
        )
        left.legend(frameon=False)
    else:
        pooled = {k: result["measures"][k]["pooled"] for k in ("event_false_per_hour", "event_sensitivity")}
        left.plot(pooled["event_false_per_hour"], pooled["event_sensitivity"], "o", color="tab:red")
    left.set(xlabel="false alarms an hour", ylabel="event sensitivity", ylim=(-0.03, 1.03))
    bins = result.get("calibration", {}).get("bins", [])
    middle.plot([0, 1], [0, 1], color="grey", linestyle=":")
    middle.plot([b["said"] for b in bins], [b["true"] for b in bins], marker="o", color="tab:blue")
    middle.set(xlabel="probability said", ylabel="share with seizure", xlim=(0, 1), ylim=(0, 1))
    if not bins:
        middle.text(0.5, 0.5, "no probabilities", ha="center")
    subjects = list(result["per_subject"])
    f1 = [result["per_subject"][s]["event_f1"] for s in subjects]
    right.bar(range(len(subjects)), np.nan_to_num(f1), color="tab:blue")
    right.set_xticks(range(len(subjects)), subjects, rotation=90, fontsize=7)
    right.set(ylabel="event F1", ylim=(0, 1.03))
    return figure


def evaluation_report(result: Mapping[str, Any]) -> Report:
    """The page."""
    seizures = f"{result['seizures']} seizures in {result['hours']:.1f} h of {result['subjects']} subjects"
    page = Report("Evaluation of a seizure detector", lead=seizures).warning(RESEARCH_ONLY)
    if warning := unfair(result):
        page.warning(warning)
    columns = ["measure", "mean over subjects", "95 %", "pooled", "95 %"]
    caption = "Intervals: bootstrap over subjects. Events and samples as SzCORE."
    page.table(columns, measure_rows(result), caption=caption)
    figure = draw_evaluation(result)
    page.picture(figure, "Sensitivity against false alarms an hour over thresholds; calibration of the probability.")
    if "against" in result:
        page.heading(f"Against {result['against']['detector']}")
        rows = []
        for name, measure in result["against"]["measures"].items():
            rows.append((MEASURES[name], measure["difference"], measure["p"], measure["subjects"]))
        page.table(
            ["measure", "difference (second less first)", "p", "subjects"],
            rows,
            caption="Paired permutation test over subjects.",
        )
    if result["left_out"]:
        page.heading("Left out").facts(list(result["left_out"].items()))
    return page
