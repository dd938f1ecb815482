"""Labels of sheets: rasters of class numbers, and polygons, lines and points of vector files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from core_runtime.errors import UserError
from core_runtime.tables import match_name
from core_runtime.terminal import warn
from remote_sensing.maps.sheets.georeference import place
from remote_sensing.maps.sheets.grid import Grid, crs_name, parse_length, to_map
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.sheet import first_line
from remote_sensing.maps.sheets.vector_files import in_crs, read_layer
from remote_sensing.rasters import UNREADABLE, open_raster


def read_label(path: Path, classes: int, grid: Grid | None = None) -> NDArray[np.uint8]:
    """Class numbers of a label raster: 0/1, 0/255 (also in three channels, also through JPEG) or class indices; alpha is no label.

    Args:
        path: the raster.
        classes: how many there are.
        grid: of the sheet that it must lie on.

    Raises:
        UserError: other values, named; or it lies elsewhere.
    """
    try:
        with open_raster(path) as file:
            bands = [i for i, kind in enumerate(file.colorinterp, 1) if kind != ColorInterp.alpha]
            if not bands:
                raise UserError(f"{path} holds nothing but alpha", "a label is a raster of class numbers")
            if grid is not None:
                check_same_place(place(file, path).grid, path, grid)
            raw = file.read(bands[:3]).max(0)
            if file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
                raw = raw.max() - raw
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}", "a label is a raster of class numbers") from None
    return class_numbers(raw, path, classes)


def check_same_place(grid: Grid, path: Path, other: Grid) -> None:
    """Makes sure that a raster of labels lies where the other one lies; one without coordinates is taken for its pixels.

    Raises:
        UserError: it has another size, transform or coordinate system.
    """
    hint = "labels lie on the grid of their sheet; vectors (GeoPackage, GeoJSON) fit any, gdalwarp moves rasters"
    if (grid.height, grid.width) != (other.height, other.width):
        raise UserError(
            f"{path.name} has {grid.width} × {grid.height} pixels, not {other.width} × {other.height}", hint
        )
    if not grid.georeferenced or not other.georeferenced:
        return
    if grid.crs is not None and other.crs is not None and grid.crs != other.crs:
        raise UserError(f"{path.name} is in {crs_name(grid.crs)}, not in {crs_name(other.crs)}", hint)
    for corner in ((0, 0), (grid.width, 0), (0, grid.height)):
        x, y = ~other.transform * (grid.transform * corner)
        off = max(abs(x - corner[0]), abs(y - corner[1]))
        if off > 0.1:
            raise UserError(f"{path.name} lies {off:,.1f} pixels away", hint)


def class_numbers(raw: NDArray, path: Path, classes: int) -> NDArray[np.uint8]:
    """The classes of a label's values."""
    if path.suffix.lower() in (".jpg", ".jpeg"):  # its edges are blurred
        if classes > 1:
            raise UserError(
                f"{path.name}: JPEG blurs class numbers", f"save labels of {classes} classes as PNG or TIFF"
            )
        return (raw > 127).astype(np.uint8)
    values = np.unique(raw)
    if classes == 1 and set(values.tolist()) <= {0, 255}:
        return (raw == 255).astype(np.uint8)
    if values.size and values.min() >= 0 and values.max() <= classes and (values == values.astype(np.uint8)).all():
        return raw.astype(np.uint8)
    shown = ", ".join(f"{v:g}" for v in values[:6]) + (" …" if len(values) > 6 else "")
    plural = "es" if classes > 1 else ""
    hint = "0 and 1, or 0 and 255, not both at once" if classes == 1 else f"0 to {classes}, in the order of --classes"
    raise UserError(f"{path.name} holds the values {shown}", f"a label of {classes} class{plural} holds {hint}")


@dataclass(frozen=True)
class Shapes:
    """Labelled geometries in pixels of a sheet, with their class numbers."""

    geometries: Sequence[BaseGeometry]
    numbers: Sequence[int]


def read_shapes(layer: Path, grid: Grid, options: LabelOptions) -> Shapes:
    """The geometries of a vector file that belong to the classes; what is left out is said with counts.

    Args:
        layer: the vector file.
        grid: of the sheet.
        options: classes, and the column that names them; without one everything is the first class.

    Raises:
        UserError: a column or class that is not there, several classes without a column.
    """
    classes, column = options.classes, options.class_column
    read = read_layer(layer, crs=options.labels_crs)
    geometries = [to_map(geometry, ~grid.transform) for geometry in in_crs(read, grid.crs, layer)]
    if column is None:
        if len(classes) > 1:
            raise UserError(
                f"{layer}: nothing says which of its geometries are {' or '.join(classes)}",
                "--class-column names the column of the classes",
            )
        return Shapes(geometries, [1] * len(geometries))
    if column not in read.columns:
        raise UserError(f"{layer}: no column {column!r}", f"it has {', '.join(read.columns) or 'none'}")
    numbers = _numbers(read.columns[column], classes)
    unknown = Counter(
        "without a class" if name is None or name != name else repr(str(name))
        for name, number in zip(read.columns[column], numbers, strict=True)
        if number == 0
    )
    if unknown:
        counts = ", ".join(f"{count} × {name}" for name, count in unknown.most_common(8))
        left = f"{sum(unknown.values())} of {len(numbers)} geometries of {layer.name} are left out: {counts}"
        if len(unknown.keys()) and not any(numbers):
            raise UserError(
                f"{layer}: none of its geometries is of the classes {', '.join(classes)} ({counts})",
                "--classes names them, --class-column the column",
            )
        warn(f"{left} (--classes says which count: {', '.join(classes)})")
    used = [i for i, number in enumerate(numbers) if number]
    return Shapes([geometries[i] for i in used], [numbers[i] for i in used])


def _numbers(names: Sequence[object], classes: Sequence[str]) -> list[int]:
    """Class numbers of names; spelling may differ in case and blanks. 0 is none of them."""
    by_name: Mapping[str, int] = {name: number for number, name in enumerate(classes, 1)}
    numbers = []
    for name in names:
        match = None if name is None or name != name else match_name(str(name).strip(), classes)
        numbers.append(by_name[match] if match else 0)
    return numbers


def draw_shapes(shapes: Shapes, grid: Grid, line_width: str, layer: Path) -> NDArray[np.uint8]:
    """Class numbers of a sheet's pixels: polygons filled, lines `line_width` wide, points as small discs.

    Raises:
        UserError: nothing of it lies on the sheet.
    """
    half = parse_length(line_width, grid, "--line-width") / grid.pixel / 2
    drawn = []
    for geometry, number in zip(shapes.geometries, shapes.numbers, strict=True):
        drawn.append((geometry if geometry.area > 0 else geometry.buffer(max(half, 0.6)), number))
    size = (grid.height, grid.width)
    label = np.zeros(size, np.uint8)
    if drawn:
        label = np.asarray(rasterize(drawn, size, fill=0, transform=Affine.identity(), dtype="uint8"))
    if not label.any():
        raise UserError(
            f"{layer}: none of its {len(drawn)} geometries lies on the sheet",
            "check the coordinate systems of both; --labels-crs and --crs name what the files do not",
        )
    return label


def rasterised(layer: Path, grid: Grid, options: LabelOptions) -> NDArray[np.uint8]:
    """Class numbers of a sheet's pixels from polygons, lines (drawn `options.line_width` wide) or points of a vector file.

    Raises:
        UserError: no geometries on the sheet, a column or class that is not there.
    """
    return draw_shapes(read_shapes(layer, grid, options), grid, options.line_width, layer)
