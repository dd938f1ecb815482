"""``remote-sensing maps evaluate``."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, resolve_device
from remote_sensing.maps.sheets.options import LabelOptions

if TYPE_CHECKING:
    from remote_sensing.maps.model.folder import SheetModel
    from remote_sensing.maps.sheets.grid import Grid
    from remote_sensing.maps.sheets.labels import Shapes

Empty = Literal["zero", "one", "skip"]
PICTURES = 8  # of the first tiles


@dataclass(frozen=True)
class MapEvaluation(Outcome):
    """Measures of a mask, or of a model on tiles; in groups, NaN where they are undefined."""

    metrics: Mapping[str, Any]
    table: Path

    def facts(self) -> Mapping[str, Any]:
        return self.metrics

    def lines(self) -> Iterable[str]:
        yield from _lines(self.metrics)
        yield f"Written: {self.table}"


def _lines(metrics: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    """Names and values, groups indented below their names."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif value is None or math.isnan(value):
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
    """Evaluates a model on labelled tiles, or a mask against true vectors: IoU, F1, lines by buffer, PQ of areas.

    Example: remote-sensing maps evaluate out/sheet_mask.tif --truth railways.gpkg --tolerance 10

    Args:
        data: tiles with annotation/, or with --truth a mask written by predict.
        truth: true polygons, lines or a raster, for a mask.
        part: of the tiles.
        tolerance: greatest distance of matching lines: map units or pixels.
        empty: value of an image without feature and prediction.
    """
    from core_runtime.folders import write_text
    from core_runtime.identity import refuse_inputs_as_outputs
    from remote_sensing.maps.model.folder import load

    table = out / "metrics.json"
    inputs = [data]
    if truth is not None:
        inputs.append(truth)
    refuse_inputs_as_outputs(inputs, [out, table])
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


@dataclass
class _Tally:
    """Counts over some tiles."""

    measures: list[Any] = field(default_factory=list)
    pixels: Any = None
    probabilities: list[Any] = field(default_factory=list)
    truths: list[Any] = field(default_factory=list)

    def metrics(self) -> dict[str, Any]:
        import torch

        from remote_sensing.maps.metrics import calibration_error

        precision, recall, f1, iou = torch.stack(self.measures).nanmean(0).tolist()
        return {
            "tiles": len(self.measures),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "iou": iou,
            "pooled": self.pixels.measures(),
            "ece": calibration_error(torch.cat(self.probabilities).double(), torch.cat(self.truths).double()),
        }


def _judge_tiles(model: "SheetModel", root: Path, pictures: Path, part: str, empty: Empty) -> dict[str, Any]:
    """The published measures (a mean over images) and pooled ones of a model on tiles, with pictures of the first tiles.

    Tiles that the model was trained on, or selected by, have measures of their own beside those of the others.

    Raises:
        UserError: no such tiles.
    """
    import numpy as np
    import torch

    from core_runtime.terminal import warn
    from remote_sensing.maps.metrics import PixelCounts, image_measures
    from remote_sensing.maps.reports.pictures import write_comparison
    from remote_sensing.maps.sheets.examples import siegfried

    examples = siegfried(root, part, model.classes)
    known = model.known_tiles
    new_tiles, known_tiles = _Tally(pixels=PixelCounts()), _Tally(pixels=PixelCounts())
    for i, name in enumerate(examples.names):
        image, label = examples.read(name)
        logits = model.logits(torch.from_numpy(image)[None])[0]
        # the strongest class where any logit is positive, else 0, the background
        predicted = np.where((logits > 0).any(0).numpy(), logits.argmax(0).numpy() + 1, 0)
        truth = torch.from_numpy(label > 0)[None]
        tally = known_tiles if examples.digest(name) in known else new_tiles
        tally.measures.append(image_measures(torch.from_numpy(predicted > 0)[None], truth, empty=empty)[0])
        tally.pixels.add(predicted > 0, label > 0)
        tally.probabilities.append(logits.max(0).values.sigmoid().flatten())
        tally.truths.append(truth.flatten().float())
        if i < PICTURES:
            write_comparison(
                image, label, predicted, pictures / f"{name}.png", classes=model.classes, notice=model.notice
            )
    if not known_tiles.measures:
        return new_tiles.metrics()
    warn(
        f"the model was trained on, or selected by, {len(known_tiles.measures)} of these {len(examples.names)} tiles: "
        "its results on them show how well it remembers"
    )
    if not new_tiles.measures:
        return {"seen in training": known_tiles.metrics()}
    return {**new_tiles.metrics(), "seen in training": known_tiles.metrics()}


def _judge_mask(mask: Path, truth: Path, labels: LabelOptions, tolerance: str) -> dict[str, Any]:
    """A mask raster against true vectors or a raster: pixels of each class; lines by buffer if the truth has lines; PQ if it has areas.

    Raises:
        UserError: files that do not fit together.
    """
    from remote_sensing.maps.sheets.formats import is_vector
    from remote_sensing.maps.sheets.georeference import place
    from remote_sensing.maps.sheets.labels import draw_shapes, read_label, read_shapes
    from remote_sensing.maps.sheets.sheet import first_line
    from remote_sensing.maps.vectors.vectorise import class_names, open_mask
    from remote_sensing.rasters import UNREADABLE

    with open_mask(mask) as file:
        grid = place(file, mask).grid
        names = class_names(file)
        try:
            predicted = file.read(1)
        except UNREADABLE as error:
            raise UserError(
                f"{mask} cannot be read ({first_line(error)})", "the file is damaged or incomplete"
            ) from None
    numbers, labels = _match_classes(names, labels, truth)
    if not is_vector(truth):
        label = read_label(truth, max(numbers), grid)
        return {"classes": _judge_pixels(predicted, label, dict(zip(labels.classes, numbers, strict=True)))}
    shapes = read_shapes(truth, grid, labels)
    # the labels count their own classes; the mask has its own numbers
    shapes = replace(shapes, numbers=[numbers[number - 1] for number in shapes.numbers])
    label = draw_shapes(shapes, grid, labels.line_width, truth)
    metrics: dict[str, Any] = {
        "classes": _judge_pixels(predicted, label, dict(zip(labels.classes, numbers, strict=True)))
    }
    return metrics | _judge_objects(predicted, shapes, grid, tolerance)


def _match_classes(names: Mapping[int, str], labels: LabelOptions, truth: Path) -> tuple[list[int], LabelOptions]:
    """Class numbers of the mask to evaluate, and the labels' options with their names.

    Raises:
        UserError: the mask has no such class, or has several and it is unknown which of them the truth is.
    """
    from core_runtime.tables import match_name
    from remote_sensing.maps.sheets.formats import is_vector

    if not names:  # a mask of another program: its numbers are in the order of --classes
        return list(range(1, len(labels.classes) + 1)), labels
    by_name = {name: number for number, name in names.items()}
    if labels.classes == LabelOptions().classes:  # none were given
        if len(names) > 1 and is_vector(truth) and labels.class_column is None:
            raise UserError(
                f"the mask has the classes {', '.join(by_name)}, and it is unknown which of them {truth.name} is",
                "--classes names one of them, or --class-column the column of the classes",
            )
        return list(by_name.values()), replace(labels, classes=tuple(by_name))
    numbers = []
    for name in labels.classes:
        match = match_name(name, list(by_name))
        if match is None:
            raise UserError(f"--classes {name}: the mask has no such class", f"it has {', '.join(by_name)}")
        numbers.append(by_name[match])
    return numbers, labels


def _judge_pixels(predicted: Any, label: Any, classes: Mapping[str, int]) -> dict[str, Any]:
    """Pixel measures of each class, where the mask holds data."""
    from remote_sensing.maps.metrics import PixelCounts
    from remote_sensing.maps.results import NODATA
    from remote_sensing.maps.sheets.grid import strips

    measures = {}
    for name, number in classes.items():
        counts = PixelCounts()
        for rows in strips(len(predicted), 2048):
            known = predicted[rows] != NODATA
            counts.add((predicted[rows] == number) & known, (label[rows] == number) & known)
        measures[name] = counts.measures()
    return measures


def _judge_objects(predicted: Any, shapes: "Shapes", grid: "Grid", tolerance: str) -> dict[str, Any]:
    """Lines and areas of the truth against those of the mask, for the classes of the truth."""
    import numpy as np

    from remote_sensing.maps.metrics import line_measures, panoptic_quality
    from remote_sensing.maps.sheets.grid import parse_length
    from remote_sensing.maps.vectors.centrelines import centre_lines
    from remote_sensing.maps.vectors.polygons import polygonise

    measures: dict[str, Any] = {}
    lines, areas, line_numbers, area_numbers = [], [], set(), set()
    for geometry, number in zip(shapes.geometries, shapes.numbers, strict=True):
        if geometry.area > 0:
            areas.append(geometry)
            area_numbers.add(number)
        elif geometry.length > 0:
            lines.append(geometry)
            line_numbers.add(number)
    if lines:
        near = parse_length(tolerance, grid, "--tolerance") / grid.pixel
        predicted_lines = centre_lines(np.isin(predicted, list(line_numbers)))
        measures["lines"] = line_measures(predicted_lines, lines, near) | {"tolerance_pixels": near}
    if areas:
        features = polygonise(lambda rows, columns: predicted[rows, columns], grid)
        outlines = [feature.geometry for feature in features if feature.number in area_numbers]
        measures["areas"] = panoptic_quality(outlines, areas)
    return measures


def _without_nan(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
