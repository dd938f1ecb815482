"""An evaluation as a page, a table and a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core_runtime.report import Report
from ieeg.model.published import RESEARCH_ONLY
from ieeg.results.evaluation import MEASURES, measure_rows, unfair


def draw_evaluation(result: Mapping[str, Any]) -> Figure:
    """Sensitivity against false alarms per hour, calibration, and event F1 of every subject."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    points = result.get("curve", [])
    if points:
        false_alarms = [point["event_false_per_hour"] for point in points]
        sensitivities = [point["event_sensitivity"] for point in points]
        left.plot(false_alarms, sensitivities, marker=".", color="black", linewidth=1)
        threshold = result["threshold"]
        # the point of the threshold in use is marked; it is among those of the curve
        selected = min(points, key=lambda point: abs(point["threshold"] - threshold))
        position = selected["event_false_per_hour"], selected["event_sensitivity"]
        left.plot(*position, "o", color="tab:red", label=f"threshold {threshold:g}")
        left.legend(frameon=False)
    else:
        measures = result["measures"]
        position = measures["event_false_per_hour"]["pooled"], measures["event_sensitivity"]["pooled"]
        left.plot(*position, "o", color="tab:red")
    left.set(xlabel="false alarms per hour", ylabel="event sensitivity", ylim=(-0.03, 1.03))
    bins = result.get("calibration", {}).get("bins", [])
    middle.plot([0, 1], [0, 1], color="grey", linestyle=":")
    predicted = [row["said"] for row in bins]
    observed = [row["true"] for row in bins]
    middle.plot(predicted, observed, marker="o", color="tab:blue")
    middle.set(xlabel="predicted probability", ylabel="share with seizure", xlim=(0, 1), ylim=(0, 1))
    if not bins:
        middle.text(0.5, 0.5, "no probabilities", ha="center")
    subjects = list(result["per_subject"])
    f1 = [result["per_subject"][subject]["event_f1"] for subject in subjects]
    right.bar(range(len(subjects)), np.nan_to_num(f1), color="tab:blue")
    right.set_xticks(range(len(subjects)), subjects, rotation=90, fontsize=7)
    right.set(ylabel="event F1", ylim=(0, 1.03))
    return figure


def evaluation_report(result: Mapping[str, Any]) -> Report:
    """An evaluation as a page: measures, figure, comparison, recordings known from training or left out."""
    seizures = f"{result['seizures']} seizures in {result['hours']:.1f} h of {result['subjects']} subjects"
    page = Report("Evaluation of a seizure detector", lead=seizures).warning(RESEARCH_ONLY)
    if warning := unfair(result):
        page.warning(warning)
    columns = ["measure", "mean over subjects", "95 %", "pooled", "95 %"]
    caption = "Intervals: bootstrap over subjects. Events and samples as SzCORE."
    page.table(columns, measure_rows(result), caption=caption)
    figure = draw_evaluation(result)
    page.picture(figure, "Sensitivity against false alarms per hour over thresholds; calibration of the probability.")
    if "against" in result:
        page.heading(f"Against {result['against']['detector']}")
        rows = []
        for name, measure in result["against"]["measures"].items():
            rows.append((MEASURES[name], measure["difference"], measure["p"], measure["subjects"]))
        page.table(
            ["measure", "difference (second minus first)", "p", "subjects"],
            rows,
            caption="Paired permutation test over subjects.",
        )
    if known := result.get("seen_in_training"):
        page.heading("Known from training").facts(list(known.items()))
    if result["left_out"]:
        page.heading("Left out").facts(list(result["left_out"].items()))
    return page
