"""Predictions beside their truths: one row per case and class, certainty, and the summary with intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import counted
from core_runtime.statistics import intervals
from medical_segmentation.organs.metrics.certainty import Reliability, risk_curve
from medical_segmentation.organs.metrics.lesions import lesion_scores
from medical_segmentation.organs.metrics.overlap import measure
from medical_segmentation.volumes.geometry import Geometry

MEASURES = (
    "dice",
    "hausdorff95",
    "surface_dice",
    "msd",
    "volume_similarity",
    "lesion_dice",
    "lesion_f1",
)
BOUNDED = {"dice", "surface_dice", "volume_similarity", "lesion_dice", "lesion_f1"}


@dataclass
class Judgement:
    """What is gathered over cases.

    Attributes:
        rows: one per case and class; a measure is None where it is undefined.
        reliability: of the confidences.
        curves: risk of each case by threshold.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    reliability: Reliability = field(default_factory=Reliability)
    curves: list[NDArray[np.float64]] = field(default_factory=list)

    def add(
        self,
        case: str,
        patient: str,
        labels: NDArray[np.uint8],
        truth: NDArray[np.uint8],
        geometry: Geometry,
        classes: Sequence[str],
        *,
        regions: Mapping[str, Sequence[int]] | None = None,
        confidence: NDArray | None = None,
        tolerance: float = 2.0,
    ) -> None:
        """Judges a case class by class (the background is none), or region by region where these are given: name → class numbers."""
        if regions is None:
            regions = {name: (number,) for number, name in enumerate(classes) if number}
        for name, numbers in regions.items():
            ours, theirs = np.isin(labels, numbers), np.isin(truth, numbers)
            overlap = measure(ours, theirs, geometry.spacing, tolerance=tolerance)
            lesions = lesion_scores(ours, theirs)
            voxel = float(np.prod(geometry.spacing)) / 1000
            row: dict[str, Any] = {"case": case, "patient": patient, "class": name}
            values = {
                **overlap._asdict(),
                "lesion_dice": lesions.dice,
                "lesion_f1": lesions.f1,
                "lesions": lesions.truths,
                "lesions_found": lesions.found,
                "lesions_false": lesions.false,
                "volume_ml": float(ours.sum()) * voxel,
                "truth_ml": float(theirs.sum()) * voxel,
            }
            if not ours.any() and not theirs.any():
                # nothing was to be found and nothing was: neither a success nor a failure of this class
                values |= {"dice": math.nan, "surface_dice": math.nan, "volume_similarity": math.nan}
            for key, value in values.items():
                row[key] = None if isinstance(value, float) and math.isnan(value) else value
            self.rows.append(row)
        if confidence is not None:
            self.reliability.add(labels, truth, confidence)
            self.curves.append(risk_curve(labels, truth, confidence))

    def empty(self) -> tuple[int, int]:
        """How many cases hold none of the judged classes in truth, and in how many of these nothing was found, either."""
        truths: dict[str, float] = {}
        answers: dict[str, float] = {}
        for row in self.rows:
            truths[row["case"]] = truths.get(row["case"], 0.0) + row["truth_ml"]
            answers[row["case"]] = answers.get(row["case"], 0.0) + row["volume_ml"]
        without = [case for case, volume in truths.items() if volume == 0]
        return len(without), sum(answers[case] == 0 for case in without)

    def table(self) -> str:
        """The rows as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()})
        return text.getvalue()


def summarise(rows: Sequence[Mapping[str, Any]], *, resamples: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Mean, deviation and bootstrap interval (by patient) of every class and measure; the last block is over all classes.

    A mean takes the cases in which the measure is defined; `cases` says how many these are.
    """
    summary = []
    classes = list(dict.fromkeys(row["class"] for row in rows))
    for name in [*classes, "all"]:
        chosen = [row for row in rows if name in ("all", row["class"])]
        patients = [row["patient"] for row in chosen]
        table = {key: np.array([np.nan if row[key] is None else row[key] for row in chosen], float) for key in MEASURES}

        def means(indices: NDArray, table: Mapping[str, NDArray] = table) -> dict[str, float]:
            result = {}
            for key, values in table.items():
                defined = values[indices][~np.isnan(values[indices])]
                result[key] = float(defined.mean()) if defined.size else math.nan
            return result

        everything = means(np.arange(len(chosen)))
        bounded = intervals(
            lambda i: {k: v for k, v in means(i).items() if k in BOUNDED}, patients, resamples=resamples, seed=seed
        )
        free = intervals(
            lambda i: {k: v for k, v in means(i).items() if k not in BOUNDED},
            patients,
            bounded=False,
            resamples=resamples,
            seed=seed,
        )
        for key in MEASURES:
            values = table[key][~np.isnan(table[key])]
            interval = (bounded | free)[key]
            owners = {p for p, v in zip(patients, table[key], strict=True) if not np.isnan(v)}
            alone = len(owners) < 2  # one patient says nothing of others
            summary.append(
                {
                    "class": name,
                    "measure": key,
                    "mean": everything[key],
                    "sd": float(values.std(ddof=1)) if values.size > 1 else math.nan,
                    "low": math.nan if alone else interval.low,
                    "high": math.nan if alone else interval.high,
                    "cases": int(values.size),
                    "patients": len(owners),
                }
            )
    return summary


def summary_lines(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dice, surface Dice and the 95th percentile of the distances, for the terminal."""
    lines = []
    by_class: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in summary:
        by_class.setdefault(row["class"], {})[row["measure"]] = row
    for name, measures in by_class.items():
        dice, surface, distance = (measures[key] for key in ("dice", "surface_dice", "hausdorff95"))
        interval = f"({_number(dice['low'])} to {_number(dice['high'])})"
        if dice["patients"] < 2:
            interval = "(of one patient: no interval)" if dice["patients"] else "(in no case)"
        lines.append(
            f"  {name:16} Dice {_number(dice['mean'])} {interval}, surface Dice "
            f"{_number(surface['mean'])}, HD95 {_number(distance['mean'], 1)} mm; {counted(dice['cases'], 'value' if name == 'all' else 'case')}"
        )
    return lines


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
