"""``remote-sensing maps evaluate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, resolve_device
from remote_sensing.maps.sheets.options import LabelOptions

Empty = Literal["zero", "one", "skip"]
PICTURES = 8  # of the first tiles


@dataclass(frozen=True)
class MapEvaluation(Outcome):
    """Measures of a mask, or of a model on tiles; in groups, NaN where nothing can be measured."""

    metrics: Mapping[str, Any]
    table: Path

    def facts(self) -> Mapping[str, Any]:
        return self.metrics

    def lines(self) -> Iterable[str]:
        yield from _lines(self.metrics)
        yield f"Written: {self.table}"


def _lines(metrics: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif value is None or value != value:
            yield f"{indent}{name:16} –"
        else:
            yield f"{indent}{name:16} {value:.4g}"


def evaluate(
    data: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    truth: Path | None = None,
    part: Literal["test", "val", "train"] = "test",
    labels: LabelOptions = LabelOptions(),
    tolerance: str = "5px",
    empty: Empty = "zero",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> MapEvaluation:
    """Judges a model on labelled tiles, or a mask against true vectors: IoU, F1, lines by buffer, PQ of areas.

    Example: remote-sensing maps evaluate out/sheet_mask.tif --truth railways.gpkg --tolerance 10

    Args:
        data: tiles with annotation/, or a mask that predict wrote with --truth.
        truth: true polygons, lines or a raster, of a mask.
        part: of tiles.
        tolerance: how near lines must be: map units or pixels.
        empty: what an image without feature and prediction counts.
    """
    from core_runtime.folders import write_text
    from remote_sensing.maps.model.folder import load

    table = out / "metrics.json"
    if table.exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    if truth is not None:
        metrics = _judge_mask(data, truth, labels, tolerance)
    elif data.is_file():
        raise UserError(f"{data}: a mask needs its truth", "--truth FILE.gpkg (or a raster)")
    else:
        metrics = _judge_tiles(load(model, device=resolve_device(device)), data, out / "pictures", part, empty)
    write_text(table, json.dumps(_without_nan(metrics), indent=1))
    return MapEvaluation(metrics, table)


def _judge_tiles(model: Any, root: Path, pictures: Path, part: str, empty: Empty) -> dict[str, Any]:
    """The published measures (a mean over images) and pooled ones of a model on tiles, with pictures of the first.

    Raises:
        UserError: no such tiles.
    """
    import numpy as np
    import torch

    from remote_sensing.maps.metrics import PixelCounts, calibration_error, image_measures
    from remote_sensing.maps.reports.pictures import write_comparison
    from remote_sensing.maps.sheets.labels import siegfried

    examples = siegfried(root, part, model.classes)
    measures, pooled, probabilities, truths = [], PixelCounts(), [], []
    for i, name in enumerate(examples.names):
        image, label = examples.read(name)
        logits = model.logits(torch.from_numpy(image)[None])[0]
        predicted = np.where((logits > 0).any(0).numpy(), logits.argmax(0).numpy() + 1, 0)
        truth = torch.from_numpy(label > 0)[None]
        measures.append(image_measures(torch.from_numpy(predicted > 0)[None], truth, empty=empty)[0])
        pooled.add(predicted > 0, label > 0)
        probabilities.append(logits.max(0).values.sigmoid().flatten())
        truths.append(truth.flatten().float())
        if i < PICTURES:
            write_comparison(image, label, predicted, pictures / f"{name}.png")
    precision, recall, f1, iou = torch.stack(measures).nanmean(0).tolist()
    return {
        "tiles": len(measures),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "iou": iou,
        "pooled": pooled.measures(),
        "ece": calibration_error(torch.cat(probabilities).double(), torch.cat(truths).double()),
    }


def _judge_mask(mask: Path, truth: Path, labels: LabelOptions, tolerance: str) -> dict[str, Any]:
    """A mask raster against true vectors or a raster: pixels of each class; lines by buffer where the truth is lines; PQ where it is areas.

    Raises:
        UserError: files that do not fit together.
    """
    from remote_sensing.maps.sheets.formats import is_vector
    from remote_sensing.maps.sheets.grid import grid_of
    from remote_sensing.maps.sheets.labels import rasterised, read_label
    from remote_sensing.maps.vectors.vectorise import open_mask

    with open_mask(mask) as file:
        grid = grid_of(file)
        predicted = file.read(1)
    label = rasterised(truth, grid, labels) if is_vector(truth) else read_label(truth, len(labels.classes))
    if label.shape != predicted.shape:
        raise UserError(
            f"{truth.name} and {mask.name} have other sizes ({label.shape}, {predicted.shape})",
            "give the truth on the mask's grid",
        )
    metrics: dict[str, Any] = {"classes": _judge_pixels(predicted, label, labels.classes)}
    if is_vector(truth):
        metrics |= _judge_objects(predicted, truth, grid, tolerance)
    return metrics


def _judge_pixels(predicted: Any, label: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Pixels of each class, where the mask holds data."""
    from remote_sensing.maps.metrics import PixelCounts
    from remote_sensing.maps.results import NODATA
    from remote_sensing.maps.sheets.grid import strips

    measures = {}
    for number, name in enumerate(classes, 1):
        counts = PixelCounts()
        for rows in strips(len(predicted), 2048):
            known = predicted[rows] != NODATA
            counts.add((predicted[rows] == number) & known, (label[rows] == number) & known)
        measures[name] = counts.measures()
    return measures


def _judge_objects(predicted: Any, truth: Path, grid: Any, tolerance: str) -> dict[str, Any]:
    """Lines and areas of the truth against those of the mask."""
    from remote_sensing.maps.metrics import line_measures, panoptic_quality
    from remote_sensing.maps.results import NODATA
    from remote_sensing.maps.sheets.grid import parse_length, to_map
    from remote_sensing.maps.sheets.vector_files import in_crs, read_layer
    from remote_sensing.maps.vectors.centrelines import centre_lines
    from remote_sensing.maps.vectors.polygons import polygonise

    measures: dict[str, Any] = {}
    geometries = [to_map(geometry, ~grid.transform) for geometry in in_crs(read_layer(truth), grid.crs)]
    areas = [geometry for geometry in geometries if geometry.area > 0]
    lines = [geometry for geometry in geometries if geometry.area == 0 and geometry.length > 0]
    if lines:
        near = parse_length(tolerance, grid, "--tolerance") / grid.pixel
        predicted_lines = centre_lines((predicted > 0) & (predicted != NODATA))
        measures["lines"] = line_measures(predicted_lines, lines, near) | {"tolerance_pixels": near}
    if areas:
        features = polygonise(lambda rows, columns: predicted[rows, columns], grid)
        measures["areas"] = panoptic_quality([feature.geometry for feature in features], areas)
    return measures


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, float) and value != value:
        return None
    return value
