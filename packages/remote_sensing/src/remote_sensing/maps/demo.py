"""The demo: sheets are drawn, a tiny MapSAM learns railways beside Otsu and morphology, an unseen sheet becomes lines in a GeoPackage."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from core_runtime.errors import UserError
from core_runtime.report import Report
from core_runtime.suite import DemoResult
from remote_sensing.maps.centrelines import centre_lines
from remote_sensing.maps.drawing import draw_sheet
from remote_sensing.maps.evaluation import evaluate_mask
from remote_sensing.maps.features import read_layer
from remote_sensing.maps.labels import siegfried
from remote_sensing.maps.measures import PixelCounts, line_measures
from remote_sensing.maps.model_folders import load
from remote_sensing.maps.predict import Wanted, predict
from remote_sensing.maps.samples import MapSampleParams, make_samples, railway_mask
from remote_sensing.maps.segment import SegmentOptions
from remote_sensing.maps.sheets import Sheet
from remote_sensing.maps.training import MapRecipe, train
from remote_sensing.maps.vectorise import VectorOptions, vectorise
from remote_sensing.maps.vectors import to_map


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned."""

    tiles: int
    epochs: int
    image_size: int
    sheet: int


QUICK = Plan(tiles=36, epochs=40, image_size=192, sheet=448)
FULL = Plan(tiles=80, epochs=80, image_size=224, sheet=1100)
TILE = 112


def run_demo(out: Path, full: bool, *, seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Runs the whole way on drawn sheets.

    Raises:
        UserError: `out` holds a demo already and `overwrite` is off.
    """
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it")
    for part in ("data", "run", "predictions", "evaluation"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data, found = out / "data", out / "predictions"
    make_samples(data, MapSampleParams(sheets=1, size=plan.sheet, tiles=plan.tiles, tile=TILE, seed=seed))
    tiles = data / "dataset_railway"
    recipe = MapRecipe(epochs=plan.epochs, weight_decay=0.01, batch=4)
    made = train(
        siegfried(tiles, "train", ("railway",)),
        siegfried(tiles, "val", ("railway",)),
        out / "run",
        variant="tiny",
        image_size=plan.image_size,
        recipe=recipe,
        seed=seed,
        overwrite=True,
    )
    sheet, truth = data / "sheets" / "sheet_1.tif", Path(f"{data / 'truth' / 'sheet_1.gpkg'}|layername=railways")
    rows, _ = predict(load(made.model), [sheet], found, Wanted(), SegmentOptions(batch=8))
    vectors = vectorise(
        Path(rows[0]["mask"]),
        found / "sheet_1.gpkg",
        VectorOptions(min_area="150px", centrelines=True, spur="14px", gap="30px"),
        probability=Path(rows[0]["probability"]),
    )
    judged = evaluate_mask(
        Path(rows[0]["mask"]), truth, out / "evaluation", classes=("railway",), line_width="7px", tolerance="6px"
    )
    plain, dark = _plain_way(plan.sheet, seed)
    picture = _lines_picture(sheet, found / "sheet_1.gpkg")
    return _report(
        out, made.facts, rows[0], vectors, judged, plain, picture, dark, time.monotonic() - began, made.history
    )


def _plain_way(size: int, seed: int) -> tuple[dict[str, dict[str, float]], NDArray[np.bool_]]:
    """Otsu's threshold, then what is at least three pixels thick and long: no learning."""
    from skimage.filters import threshold_otsu
    from skimage.morphology import disk, opening, remove_small_objects

    drawn = draw_sheet(size, 1000 * seed)
    grey = drawn.picture.mean(2)
    dark = opening(grey < threshold_otsu(grey), disk(1))
    dark = remove_small_objects(dark, max_size=149)
    counts = PixelCounts()
    counts.add(dark, railway_mask(drawn) > 0)
    return {"pixels": counts.measures(), "lines": line_measures(centre_lines(dark), drawn.railways, 6.0)}, dark


def _lines_picture(sheet: Path, vectors: Path) -> Image.Image:
    """The sheet with the extracted centre-lines."""
    with Sheet(sheet) as opened:
        image = Image.fromarray(opened.preview(2000))
        to_pixels = ~opened.grid.transform
    pen = ImageDraw.Draw(image)
    try:
        lines = read_layer(f"{vectors}|layername=centrelines").geometries
    except UserError:  # nothing was found
        lines = []
    for line in lines:
        pen.line([(float(x), float(y)) for x, y in to_map(line, to_pixels).coords], fill=(230, 30, 30), width=4)
    return image


def _report(
    out: Path,
    trained: dict[str, Any],
    sheet: dict[str, Any],
    vectors: dict[str, Any],
    judged: dict[str, Any],
    plain: dict[str, dict[str, float]],
    picture: Image.Image,
    dark: NDArray[np.bool_],
    seconds: float,
    history: list[dict[str, float]],
) -> DemoResult:
    ours, lines = judged["classes"]["railway"], judged["lines"]
    right = lines["correctness"]
    share = "nothing" if right != right else f"{right:.0%} of what it draws"
    headline = (
        f"A tiny MapSAM trained on {trained['tiles']} tiles finds {lines['completeness']:.0%} of the railways of an unseen drawn sheet "
        f"({share} is right, IoU {ours['iou']:.2f}); Otsu with morphology reaches an IoU of {plain['pixels']['iou']:.2f}."
    )
    shown = (
        picture,
        f"{vectors['lines']} centre-lines, {vectors['length'] / 1000:.1f} km in all, on the unseen sheet.",
    )
    report = Report("Railways from a historical map sheet", lead=headline).picture(*shown)
    report.text(
        "The sheets are drawn (paper, contours, roads, houses, labels, vineyards, railways). These figures say nothing about real maps."
    )
    rows = [
        (name, m["iou"], m["f1"], m["precision"], m["recall"], k["completeness"], k["correctness"], k["quality"])
        for name, m, k in (("tiny MapSAM", ours, lines), ("Otsu + morphology", plain["pixels"], plain["lines"]))
    ]
    columns = ("method", "IoU", "F1", "precision", "recall", "completeness", "correctness", "quality")
    report.table(columns, rows, caption="On the unseen sheet; lines within 6 pixels of the truth count.")
    report.picture(sheet["picture"], "The mask laid over the sheet.")
    report.picture(Image.fromarray(np.where(dark, 0, 255).astype(np.uint8)), "What Otsu with morphology finds.")
    report.facts(
        [
            ("parameters", trained["parameters"]),
            ("epochs", len(history)),
            ("validation IoU", trained["val_iou"]),
            ("temperature", trained["temperature"]),
            ("calibration error before and after", f"{trained['ece_before']:.4f}, {trained['ece']:.4f}"),
            ("polygons", vectors["polygons"]),
            ("seconds", round(seconds)),
        ]
    )
    report.heading("With your own sheets").command(
        "remote-sensing maps train SHEET.tif --labels railways.gpkg --sam sam_vit_b_01ec64.pth --out run",
        "remote-sensing maps predict SHEETS/ --model run/model --vector gpkg --centrelines",
    )
    metrics = {
        "iou": ours["iou"],
        "completeness": lines["completeness"],
        "correctness": lines["correctness"],
        "baseline_iou": plain["pixels"]["iou"],
        "val_iou": trained["val_iou"],
        "seconds": seconds,
    }
    return DemoResult(headline, report.write(out / "report.html"), [shown], columns, rows, metrics)
