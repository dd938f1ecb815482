"""The page of one explained picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.report import Report
from explainability.attribution.explaining import Explanation
from explainability.reports.figures import TITLES, draw_curves, draw_maps

if TYPE_CHECKING:
    from PIL.Image import Image


MARGIN = 0.02  # of an area: two random maps of one picture differ by as much


def verdict(scores: Mapping[str, Any], random: Mapping[str, Any]) -> str:
    """What a method's scores say, in words."""
    better = (scores["insertion"] > random["insertion"] + MARGIN) + (scores["deletion"] < random["deletion"] - MARGIN)
    words = ("no better than a random map", "better than a random map on one curve of two", "better than a random map")[
        better
    ]
    unchanged = scores["random_weights_correlation"]
    if unchanged is not None and unchanged > 0.7:
        words += "; but random weights give nearly the same map, so it shows the picture rather than the model"
    return words


def write_report(
    folder: Path, image: "Image", explanations: Mapping[str, Explanation], content: Mapping[str, Any]
) -> Path:
    """Writes ``maps.png`` and ``report.html`` into a folder.

    Args:
        folder: where.
        image: the picture.
        explanations: its maps.
        content: the facts of ``explanation.json``.
    """
    drawn = draw_maps(image, explanations)
    drawn.savefig(folder / "maps.png", dpi=110)
    lead = f"The model says {content['best'][0]['class']} ({content['best'][0]['probability']:.2f})."
    if content["best"][0]["class"] != content["target_name"]:
        lead += f" Explained is {content['target_name']} ({content['probability']:.2f})."
    page = Report(content["picture"], lead=lead)
    for note in content["notes"]:
        page.warning(note)
    page.picture(folder / "maps.png", "All maps on one colour scale, each divided by its greatest magnitude.")
    page.heading("Can the maps be trusted?")
    rows = []
    methods = content["methods"]
    for name, scores in methods.items():
        words = "the control" if name == "random" else verdict(scores, methods["random"])
        rows.append(
            (
                TITLES.get(name, name),
                scores["insertion"],
                scores["deletion"],
                scores["random_weights_correlation"],
                words,
            )
        )
    columns = ["", "insertion (higher is better)", "deletion (lower is better)", "same map with random weights", ""]
    page.table(columns, rows)
    page.picture(
        draw_curves(explanations), "The target's probability as pixels are added or removed, the most important first."
    )
    for name, why in content["refused"].items():
        page.warning(f"{TITLES.get(name, name)} cannot explain this model: {why}")
    page.heading("What the model says").facts([(best["class"], best["probability"]) for best in content["best"]])
    return page.write(folder / "report.html")
