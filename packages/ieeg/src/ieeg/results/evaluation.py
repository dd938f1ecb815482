"""The measures of an evaluation in words. Imports nothing heavy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MEASURES = {
    "window_kappa": "window: Cohen's kappa",
    "window_f1": "window: F1",
    "sample_sensitivity": "sample: sensitivity",
    "sample_precision": "sample: precision",
    "sample_f1": "sample: F1",
    "sample_false_per_day": "sample: false positives per day",
    "event_sensitivity": "event: sensitivity",
    "event_precision": "event: precision",
    "event_f1": "event: F1",
    "event_false_per_day": "event: false alarms per day",
    "event_false_per_hour": "event: false alarms per hour",
    "latency": "latency, s (median of detected seizures)",
    "time_in_warning": "share of time in warning",
}


def measure_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """(measure, mean over subjects, its interval, pooled, its interval), for readers."""
    rows = []
    for name, words in MEASURES.items():
        measure = result["measures"][name]
        mean = _number(measure["mean"]), _interval(measure["mean_interval"])
        pooled = _number(measure["pooled"]), _interval(measure["pooled_interval"])
        rows.append((words, *mean, *pooled))
    return rows


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.3f}"


def _interval(values: Sequence[float]) -> str:
    if any(math.isnan(value) for value in values):
        return ""
    return f"{values[0]:.3f} to {values[1]:.3f}"


def unfair(result: Mapping[str, Any]) -> str:
    """The warning that must stand above measures on recordings that the model knows, or ""."""
    known = list((result.get("seen_in_training") or {}).values())
    if not known:
        return ""
    more = ""
    if len(known) > 4:
        more = " …"
    count = f"it knows {len(known)} of {result['recordings']} recordings"
    return f"Not a test of the model: {count}. {'; '.join(known[:4])}{more}"
