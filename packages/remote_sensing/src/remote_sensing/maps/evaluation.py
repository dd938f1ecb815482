"""Judging: a mask of `predict` against true polygons, lines or a raster; or a model on tiles of the Siegfried layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from remote_sensing.maps.centrelines import centre_lines
from remote_sensing.maps.features import in_crs, read_layer
from remote_sensing.maps.labels import is_vector, rasterised, read_label, siegfried
from remote_sensing.maps.losses import image_measures
from remote_sensing.maps.measures import PixelCounts, line_measures, panoptic_quality
from remote_sensing.maps.model_folders import COLOURS, SheetModel
from remote_sensing.maps.sheets import Grid, overlay, parse_length, strips
from remote_sensing.maps.training import calibration_error
from remote_sensing.maps.vectors import polygonise, to_map
from remote_sensing.rasters import open_raster


def evaluate_tiles(
    model: SheetModel, root: Path, out: Path, *, part: str = "test", empty: str = "zero", overwrite: bool = False
) -> dict[str, Any]:
    """The published measures (a mean over images) and pooled ones of a model on tiles, with pictures of the first.

    Args:
        empty: what a measure of an image without feature and prediction counts: "zero" as published, "one", or "skip".

    Raises:
        UserError: no such tiles, or an evaluation that is already there.
    """
    _free(out, overwrite)
    examples = siegfried(root, part, model.classes)
    rows, pooled, probabilities, truths = [], PixelCounts(), [], []
    for i, name in enumerate(examples.names):
        image, label = examples.read(name)
        logits = model.logits(torch.from_numpy(image)[None])[0]
        found = np.where((logits > 0).any(0).numpy(), logits.argmax(0).numpy() + 1, 0)
        truth = torch.from_numpy(label > 0)[None]
        rows.append(image_measures(torch.from_numpy(found > 0)[None], truth, empty=empty)[0])  # pyright: ignore[reportArgumentType]
        pooled.add(found > 0, label > 0)
        probabilities.append(logits.max(0).values.sigmoid().flatten())
        truths.append(truth.flatten().float())
        if i < 8:
            _picture(image, label, found, out / "pictures" / f"{name}.png")
    mean = torch.stack(rows).nanmean(0).tolist()
    names = ("precision", "recall", "f1", "iou")
    facts: dict[str, Any] = {"tiles": len(rows), **dict(zip(names, mean, strict=True))}
    facts["pooled"] = pooled.measures()
    facts["ece"] = calibration_error(torch.cat(probabilities).double(), torch.cat(truths).double())
    write_text(out / "metrics.json", json.dumps(_plain(facts), indent=1))
    return facts


def evaluate_mask(
    mask: Path,
    truth: Path,
    out: Path,
    *,
    classes: tuple[str, ...] = ("feature",),
    column: str | None = None,
    line_width: str = "4px",
    tolerance: str = "5px",
    overwrite: bool = False,
) -> dict[str, Any]:
    """A mask raster against true vectors or a raster: pixels of each class; lines by buffer where the truth is lines; PQ where it is areas.

    Raises:
        UserError: files that do not fit together.
    """
    _free(out, overwrite)
    with open_raster(mask) as file:
        grid = Grid(file.height, file.width, file.transform, file.crs)
        found = file.read(1)
    drawn = is_vector(truth)
    label = rasterised(truth, grid, classes, column, line_width) if drawn else read_label(truth, len(classes))
    if label.shape != found.shape:
        raise UserError(
            f"{truth.name} and {mask.name} have other sizes ({label.shape}, {found.shape})",
            "give the truth on the mask's grid",
        )
    facts: dict[str, Any] = {"classes": {}}
    for number, name in enumerate(classes, 1):
        counts = PixelCounts()
        for rows in strips(grid.height, 2048):
            known = found[rows] != 255
            counts.add((found[rows] == number) & known, (label[rows] == number) & known)
        facts["classes"][name] = counts.measures()
    if drawn:
        shapes = [to_map(s, ~grid.transform) for s in in_crs(read_layer(truth), grid.crs)]
        areas = [s for s in shapes if s.area > 0]
        lines = [s for s in shapes if s.area == 0 and s.length > 0]
        if lines:
            near = parse_length(tolerance, grid, "--tolerance") / grid.pixel
            made = centre_lines((found > 0) & (found != 255))
            facts["lines"] = line_measures(made, lines, near) | {"tolerance_pixels": near}
        if areas:
            facts["areas"] = panoptic_quality([f.geometry for f in polygonise(lambda r, c: found[r, c], grid)], areas)
    write_text(out / "metrics.json", json.dumps(_plain(facts), indent=1))
    return facts


def _free(out: Path, overwrite: bool) -> None:
    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")


def _picture(image: Any, label: Any, found: Any, path: Path) -> None:
    """The tile, the truth and the prediction side by side."""
    rgb = image.transpose(1, 2, 0)
    made = np.concatenate([rgb, overlay(rgb, label, COLOURS), overlay(rgb, found, COLOURS)], 1)
    with writing(path) as temporary:
        Image.fromarray(made).save(temporary, format="PNG")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and value != value else value
