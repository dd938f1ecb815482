"""``remote-sensing maps demo``: sheets are drawn, a tiny MapSAM learns railways beside Otsu and morphology, an unseen sheet becomes lines."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, Full, Overwrite, Seed
from remote_sensing.maps.commands.evaluate import evaluate
from remote_sensing.maps.commands.predict import predict
from remote_sensing.maps.commands.train import Trained, train
from remote_sensing.maps.commands.vectorize import vectorize
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.training.recipe import MapRunOptions, NetworkOptions, Recipe
from remote_sensing.maps.vectors.options import VectorOptions
from remote_sensing.notices import DRAWN

if TYPE_CHECKING:
    from PIL.Image import Image

    from remote_sensing.maps.vectors.vectorise import Vectors


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned."""

    tiles: int
    epochs: int
    image_size: int
    sheet: int


QUICK = Plan(tiles=36, epochs=22, image_size=160, sheet=448)
FULL = Plan(tiles=80, epochs=80, image_size=224, sheet=1100)
TILE = 112
LABELS = LabelOptions(classes=("railway",), line_width="7px")
MEASURES = ("iou", "f1", "precision", "recall", "completeness", "correctness", "quality")


@dataclass(frozen=True)
class Method:
    """A way to find railways, its measures on the unseen sheet, and what it sees."""

    name: str
    measures: Mapping[str, float]
    picture: Any
    caption: str


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws sheets, trains a tiny MapSAM, extracts railways beside Otsu and morphology, writes report.html.

    Example: remote-sensing maps demo /tmp/maps

    Args:
        out: folder for everything that is made.
    """
    from remote_sensing.maps.samples.samples import MapSampleParams, make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "run", "predictions", "evaluation"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data, predictions = out / "data", out / "predictions"
    make_samples(data, MapSampleParams(sheets=1, size=plan.sheet, tiles=plan.tiles, tile=TILE, seed=seed))
    sheet, truth = data / "sheets" / "sheet_1.tif", Path(f"{data / 'truth' / 'sheet_1.gpkg'}|layername=railways")
    trained = train(
        data / "dataset_railway",
        labels=LABELS,
        network=NetworkOptions(variant="tiny", image_size=plan.image_size),
        recipe=Recipe(epochs=plan.epochs, weight_decay=0.01, batch=4),
        run=MapRunOptions(out=out / "run", seed=seed, overwrite=True),
    )
    (row,) = predict(
        sheet,
        model=str(trained.model),
        out=predictions,
        options=SegmentOptions(batch=8),
        run=BulkOptions(overwrite=True),
    ).facts()["sheets"]
    vectors = vectorize(
        Path(row["mask"]),
        out=predictions / "sheet_1.gpkg",
        probability=Path(row["probability"]),
        vectors=VectorOptions(min_area="150px", centrelines=True, spur="14px", gap="30px"),
    ).vectors
    metrics = evaluate(
        Path(row["mask"]), truth=truth, out=out / "evaluation", labels=LABELS, tolerance="6px", overwrite=True
    ).metrics
    ours = Method(
        "tiny MapSAM",
        {**metrics["classes"]["railway"], **metrics["lines"]},
        Path(row["overlay"]),
        "The mask laid over the sheet.",
    )
    lines = _draw_lines(sheet, predictions / "sheet_1.gpkg", DRAWN)
    return _report(out, trained, ours, _otsu(plan.sheet, seed), vectors, lines, time.monotonic() - began)


def _otsu(size: int, seed: int) -> Method:
    """Otsu's threshold, then what is at least three pixels thick and long: no learning."""
    import numpy as np
    from PIL import Image
    from skimage.filters import threshold_otsu
    from skimage.morphology import disk, opening, remove_small_objects

    from remote_sensing.maps.metrics import PixelCounts, line_measures
    from remote_sensing.maps.samples.drawing import draw_sheet
    from remote_sensing.maps.samples.samples import railway_mask
    from remote_sensing.maps.vectors.centrelines import centre_lines

    drawn = draw_sheet(size, 1000 * seed)
    grey = drawn.picture.mean(2)
    dark = opening(grey < threshold_otsu(grey), disk(1))
    dark = remove_small_objects(dark, max_size=149)
    counts = PixelCounts()
    counts.add(dark, railway_mask(drawn) > 0)
    measures = {**counts.measures(), **line_measures(centre_lines(dark), drawn.railways, 6.0)}
    picture = Image.fromarray(np.where(dark, 0, 255).astype(np.uint8))
    return Method("Otsu + morphology", measures, picture, "What Otsu with morphology finds.")


def _draw_lines(sheet: Path, vectors: Path, notice: str) -> "Image":
    """The sheet with the extracted centre-lines."""
    import numpy as np
    from PIL import Image, ImageDraw

    from remote_sensing.maps.reports.pictures import with_legend
    from remote_sensing.maps.results import COLOURS
    from remote_sensing.maps.sheets.grid import to_map
    from remote_sensing.maps.sheets.sheet import Sheet
    from remote_sensing.maps.sheets.vector_files import read_layer

    with Sheet(sheet) as opened:
        image = Image.fromarray(opened.preview(2000))
        to_pixels = ~opened.grid.transform
    pen = ImageDraw.Draw(image)
    try:
        lines = read_layer(f"{vectors}|layername=centrelines").geometries
    except UserError:  # nothing was found
        lines = []
    for line in lines:
        pen.line([(float(x), float(y)) for x, y in to_map(line, to_pixels).coords], fill=COLOURS[0], width=4)
    return with_legend(np.asarray(image), ["railway, centre-lines"], notice)


def _report(
    out: Path, trained: Trained, ours: Method, plain: Method, vectors: "Vectors", lines: "Image", seconds: float
) -> DemoResult:
    from core_runtime.report import Report

    figures, measures = trained.figures, ours.measures
    right = measures["correctness"]
    share = "nothing" if right != right else f"{right:.0%} of what it draws"
    headline = (
        f"A tiny MapSAM trained on {figures['tiles']} tiles finds {measures['completeness']:.0%} of the railways of an "
        f"unseen drawn sheet ({share} is right, IoU {measures['iou']:.2f}); "
        f"Otsu with morphology reaches an IoU of {plain.measures['iou']:.2f}."
    )
    caption = f"{vectors.lines} centre-lines, {vectors.length / 1000:.1f} km in all, on the unseen sheet."
    report = Report("Railways from a historical map sheet", lead=headline).picture(lines, caption)
    report.text(
        "The sheets are drawn (paper, contours, roads, houses, labels, vineyards, railways). "
        "These figures say nothing about real maps."
    )
    columns = ("method", "IoU", "F1", *MEASURES[2:])
    rows = [(method.name, *(method.measures[name] for name in MEASURES)) for method in (ours, plain)]
    report.table(columns, rows, caption="On the unseen sheet; lines within 6 pixels of the truth count.")
    for method in (ours, plain):
        report.picture(method.picture, method.caption)
    report.facts(
        [
            ("parameters", figures["parameters"]),
            ("epochs", len(trained.history)),
            ("validation IoU", figures["val_iou"]),
            ("temperature", figures["temperature"]),
            ("calibration error before and after", f"{figures['ece_before']:.4f}, {figures['ece']:.4f}"),
            ("polygons", vectors.polygons),
            ("seconds", round(seconds)),
        ]
    )
    report.heading("With your own sheets").command(
        "remote-sensing maps train SHEET.tif --labels railways.gpkg --sam sam_vit_b_01ec64.pth --out run",
        f"remote-sensing maps predict SHEETS/ --model {json.dumps(str(trained.model))} --vector gpkg --centrelines",
    )
    metrics = {
        "iou": measures["iou"],
        "completeness": measures["completeness"],
        "correctness": measures["correctness"],
        "baseline_iou": plain.measures["iou"],
        "val_iou": figures["val_iou"],
        "seconds": seconds,
    }
    return DemoResult(headline, report.write(out / "report.html"), [(lines, caption)], columns, rows, metrics)
