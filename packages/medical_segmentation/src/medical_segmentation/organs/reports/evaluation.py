"""The page of an evaluation: intervals, every case, calibration, and the best and worst case side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.report import Report
from medical_segmentation.organs.cohort.dataset import Case, Dataset
from medical_segmentation.organs.judging import MEASURES, Judgement
from medical_segmentation.organs.model.inference import OrganModel
from medical_segmentation.organs.options import InferenceOptions
from medical_segmentation.organs.reports.figures import draw_calibration, draw_scores, prediction_sheet
from medical_segmentation.organs.reports.overlays import attention_volume
from medical_segmentation.organs.reports.viewer import write_viewer
from medical_segmentation.volumes.volume import ReadingOptions

if TYPE_CHECKING:
    from medical_segmentation.organs.commands.evaluate import Evaluation


def write_report(
    result: Evaluation,
    judgement: Judgement,
    model: OrganModel,
    dataset: Dataset,
    cases: Sequence[Case],
    reading: ReadingOptions,
    out: Path,
) -> Path:
    """Writes report.html, its pictures, and pages to scroll through the worst and the best case."""
    page = Report("Organs: evaluation", lead=result.origin)
    rows = []
    for row in result.summary:
        if row["measure"] in MEASURES:
            rows.append(
                (
                    row["class"],
                    row["measure"],
                    row["mean"],
                    row["sd"],
                    row["low"],
                    row["high"],
                    row["cases"],
                    row["patients"],
                )
            )
    page.table(
        ("class", "measure", "mean", "sd", "low", "high", "cases", "patients"),
        [[None if isinstance(value, float) and value != value else value for value in row] for row in rows],
        caption="Mean over cases, with 95 % bootstrap intervals by patient; distances in mm. A class that is in neither truth nor prediction does not count.",
    )
    page.picture(draw_scores(judgement.rows, out / "dice.png"), "Every case; the line is the mean.")
    page.picture(draw_calibration(judgement.reliability.bins, result.ece, out / "calibration.png"), "Calibration.")
    if result.risk is not None:
        page.text(
            f"Abstaining below the calibrated confidence, {result.risk:.3f} of the organ voxels are wrong and kept."
        )
    scores: dict[str, list[float]] = {}
    for row in judgement.rows:
        if row["dice"] is not None:
            scores.setdefault(row["case"], []).append(row["dice"])
    means = {case: sum(values) / len(values) for case, values in scores.items()}
    for word, choose in (("worst", min), ("best", max)):
        if not means:
            break
        name = choose(means, key=lambda each: means[each])
        case = next(each for each in cases if each.name == name)
        volume = dataset.image(case, reading)
        truth = dataset.labels(case, volume)
        predicted = model.predict(volume, InferenceOptions(confidence=True))
        attention = attention_volume(model, volume, predicted.labels)
        picture = prediction_sheet(
            volume,
            predicted.labels,
            model.classes,
            out / f"{word}.png",
            truth=truth,
            confidence=predicted.confidence,
            attention=attention,
        )
        page.picture(picture, f"The {word} case: {name}, mean Dice {means[name]:.3f}")
        write_viewer(
            volume,
            predicted.labels,
            model.classes,
            out / f"{word}.html",
            title=name,
            truth=truth,
            confidence=predicted.confidence,
            attention=attention,
        )
        page.link(f"{word}.html", f"Scroll through {name}: prediction, truth, uncertainty, attention")
    return page.write(out / "report.html")
