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
    """Class numbers of a label raster: 0/1, 0/255 (also in three channels, also through JPEG) or class indices; alpha is ignored.

    Args:
        path: the raster.
        classes: the number of classes.
        grid: of the sheet that it must cover.

    Raises:
        UserError: other values, named; or it is elsewhere.
    """
    try:
        with open_raster(path) as file:
            bands = [i for i, kind in enumerate(file.colorinterp, 1) if kind != ColorInterp.alpha]
            if not bands:
                raise UserError(f"{path} holds only an alpha channel", "a label is a raster of class numbers")
            if grid is not None:
                check_same_place(place(file, path).grid, path, grid)
            # black and white as RGB: any channel is the label
            raw = file.read(bands[:3]).max(0)
            _refuse_missing(raw, file.nodata, path, classes)
            # bilevel TIFFs may store ink as 0
            if file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
                raw = raw.max() - raw
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}", "a label is a raster of class numbers") from None
    return class_numbers(raw, path, classes)


def _refuse_missing(raw: NDArray, nodata: float | None, path: Path, classes: int) -> None:
    """Refuses labels of a class that the file itself declares missing data: nothing would be left of it, or all of it would count.

    Raises:
        UserError: with their number.
    """
    if nodata is None or not 0 < nodata <= classes:
        return
    count = int((raw == nodata).sum())
    if count:
        raise UserError(
            f"{path}: {count:,} pixels of class {nodata:g} are missing data by the file's own nodata value",
            "gdal_edit.py -unsetnodata FILE, if they are labels",
        )


def check_same_place(grid: Grid, path: Path, other: Grid) -> None:
    """Makes sure that a raster of labels covers the same place as the other; without coordinates only its size counts.

    Raises:
        UserError: it has another size, transform or coordinate system.
    """
    hint = "labels need the grid of their sheet; vectors (GeoPackage, GeoJSON) fit any grid, gdalwarp resamples rasters"
    if (grid.height, grid.width) != (other.height, other.width):
        raise UserError(
            f"{path.name} has {grid.width} × {grid.height} pixels, not {other.width} × {other.height}", hint
        )
    if not grid.georeferenced or not other.georeferenced:
        return
    if grid.crs is not None and other.crs is not None and grid.crs != other.crs:
        raise UserError(f"{path.name} is in {crs_name(grid.crs)}, not in {crs_name(other.crs)}", hint)
    # three corners determine an affine transform
    for corner in ((0, 0), (grid.width, 0), (0, grid.height)):
        x, y = ~other.transform * (grid.transform * corner)
        off = max(abs(x - corner[0]), abs(y - corner[1]))
        if off > 0.1:
            raise UserError(f"{path.name} is {off:,.1f} pixels away from the sheet", hint)


def class_numbers(raw: NDArray, path: Path, classes: int) -> NDArray[np.uint8]:
    """Class numbers from the values of a label's pixels.

    Raises:
        UserError: values that are not class numbers.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        # the edges are blurred: every value between black and white occurs
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
    shown = ", ".join(f"{value:g}" for value in values[:6])
    if len(values) > 6:
        shown += " …"
    hint = f"a label of {classes} classes holds 0 to {classes}, in the order of --classes"
    if classes == 1:
        hint = "a label of 1 class holds 0 and 1, or 0 and 255, not both at once"
    raise UserError(f"{path.name} holds the values {shown}", hint)


@dataclass(frozen=True)
class Shapes:
    """Labelled geometries in pixels of a sheet, with their class numbers."""

    geometries: Sequence[BaseGeometry]
    numbers: Sequence[int]


def read_shapes(layer: Path, grid: Grid, options: LabelOptions) -> Shapes:
    """The geometries of a vector file that belong to the classes; warns with counts of those that are left out.

    Args:
        layer: the vector file.
        grid: of the sheet.
        options: classes, and the column that names them; without one everything is the first class.

    Raises:
        UserError: a column or class that is not there, several classes without a column.
    """
    classes, column = options.classes, options.class_column
    vectors = read_layer(layer, crs=options.labels_crs)
    to_pixels = ~grid.transform
    geometries = [to_map(geometry, to_pixels) for geometry in in_crs(vectors, grid.crs, layer)]
    if column is None:
        if len(classes) > 1:
            raise UserError(
                f"{layer}: it is not known which of its geometries are {' or '.join(classes)}",
                "--class-column names the column of the classes",
            )
        return Shapes(geometries, [1] * len(geometries))
    if column not in vectors.columns:
        raise UserError(f"{layer}: no column {column!r}", f"it has {', '.join(vectors.columns) or 'none'}")
    names = vectors.columns[column]
    numbers = _numbers(names, classes)
    unknown: Counter[str] = Counter()
    used_geometries, used_numbers = [], []
    for geometry, number, name in zip(geometries, numbers, names, strict=True):
        if number:
            used_geometries.append(geometry)
            used_numbers.append(number)
        elif _is_empty(name):
            unknown["without a class"] += 1
        else:
            unknown[repr(str(name))] += 1
    if unknown:
        counts = ", ".join(f"{count} × {name}" for name, count in unknown.most_common(8))
        left = f"{sum(unknown.values())} of {len(numbers)} geometries of {layer.name} are left out: {counts}"
        if not used_numbers:
            raise UserError(
                f"{layer}: none of its geometries is of the classes {', '.join(classes)} ({counts})",
                "--classes names them, --class-column the column",
            )
        warn(f"{left} (--classes sets the classes: {', '.join(classes)})")
    return Shapes(used_geometries, used_numbers)


def _is_empty(name: object) -> bool:
    """Whether a field holds nothing: None, or NaN in a column that GDAL reads as numbers."""
    return name is None or name != name


def _numbers(names: Sequence[object], classes: Sequence[str]) -> list[int]:
    """Class numbers of names; spelling may differ in case and blanks. 0 is none of them."""
    by_name: Mapping[str, int] = {name: number for number, name in enumerate(classes, 1)}
    numbers = []
    for name in names:
        number = 0
        if not _is_empty(name):
            match = match_name(str(name).strip(), classes)
            if match:
                number = by_name[match]
        numbers.append(number)
    return numbers


def draw_shapes(shapes: Shapes, grid: Grid, line_width: str, layer: Path) -> NDArray[np.uint8]:
    """Class numbers of a sheet's pixels: polygons filled, lines `line_width` wide, points as small discs.

    Raises:
        UserError: none of the geometries is on the sheet.
    """
    half = parse_length(line_width, grid, "--line-width") / grid.pixel / 2
    drawn = []
    for geometry, number in zip(shapes.geometries, shapes.numbers, strict=True):
        if geometry.area == 0:
            # thinner than about a pixel a line would have gaps: rasterize burns pixels whose centre is covered
            geometry = geometry.buffer(max(half, 0.6))
        drawn.append((geometry, number))
    size = (grid.height, grid.width)
    label = np.zeros(size, np.uint8)
    if drawn:
        label = np.asarray(rasterize(drawn, size, fill=0, transform=Affine.identity(), dtype="uint8"))
    if not label.any():
        raise UserError(
            f"{layer}: none of its {len(drawn)} geometries is on the sheet",
            "check the coordinate systems of both; --labels-crs and --crs set those that the files lack",
        )
    return label


def rasterised(layer: Path, grid: Grid, options: LabelOptions) -> NDArray[np.uint8]:
    """Class numbers of a sheet's pixels from polygons, lines (drawn `options.line_width` wide) or points of a vector file.

    Raises:
        UserError: no geometries on the sheet, a column or class that is not there.
    """
    return draw_shapes(read_shapes(layer, grid, options), grid, options.line_width, layer)
