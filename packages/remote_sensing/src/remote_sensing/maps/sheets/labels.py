"""Training tiles: the layout of the Siegfried data set, or windows of a user's own sheet with polygons or lines rasterised on the fly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from core_runtime.errors import UserError
from core_runtime.identity import identity
from core_runtime.tables import match_name
from core_runtime.terminal import warn
from remote_sensing.maps.sheets.formats import SUFFIXES, is_vector, split_layer
from remote_sensing.maps.sheets.georeference import place
from remote_sensing.maps.sheets.grid import Grid, crs_name, parse_length, to_map
from remote_sensing.maps.sheets.options import LabelOptions, SheetOptions
from remote_sensing.maps.sheets.sheet import Sheet, first_line
from remote_sensing.maps.sheets.vector_files import in_crs, read_layer
from remote_sensing.rasters import open_raster

Example = tuple[NDArray[np.uint8], NDArray[np.uint8]]
NOTICE = "NOTICE.txt"  # beside training tiles: what must be said of every picture of a model that learned from them


@dataclass(frozen=True)
class Examples:
    """Tiles (3, h, w) with class numbers (h, w), read when asked for.

    Attributes:
        names: of the tiles.
        read: from a name to the tile and its classes (0 background).
        classes: names of the foreground classes.
        side: pixels of a tile in the sheet.
        files: that they are read from.
        pixel: map units of a pixel, 0 where unknown.
        notice: what must be said of a model that learns from them.
        digest: from a name to what tells its tile from any other.
    """

    names: tuple[str, ...]
    read: Callable[[str], Example]
    classes: tuple[str, ...]
    side: int
    files: tuple[Path, ...]
    pixel: float = 0.0
    notice: str = ""
    digest: Callable[[str], str] = field(default=str)

    def first(self, count: int) -> Examples:
        """The first of them; 0 keeps all."""
        return replace(self, names=self.names[:count]) if count else self


def siegfried(root: Path, part: str, classes: Sequence[str] = ("feature",)) -> Examples:
    """The tiles of ``root/{train,val,test}`` with ``root/annotation/{train,val,test}`` of the same names (any of tif, png, jpg on either side).

    Raises:
        UserError: no such folders, or a tile without its label.
    """
    folder, labels = root / part, root / "annotation" / part
    if not folder.is_dir() or not labels.is_dir():
        raise UserError(
            f"{root}: no {part}/ with annotation/{part}/",
            "give a folder like dataset_railway, or a sheet with --labels FILE.gpkg",
        )
    images, truths = _rasters_by_name(folder), _rasters_by_name(labels)
    missing = sorted(images.keys() - truths.keys())
    if missing:
        more = f" and {len(missing) - 1} more tiles" if missing[1:] else ""
        raise UserError(f"{labels}: no label of {missing[0]}{more}", "every tile needs a label of the same name")
    if not images:
        raise UserError(f"{folder} holds no tiles", "tif, png or jpg")
    by_type = SheetOptions(stretch="dtype")  # the range of a single tile says nothing

    def read(name: str) -> Example:
        with Sheet(images[name], by_type) as sheet:
            pixels, _ = sheet.read(slice(0, sheet.grid.height), slice(0, sheet.grid.width))
        label = read_label(truths[name], len(classes))
        if label.shape != pixels.shape[1:]:
            raise UserError(
                f"{truths[name].name} has {label.shape[1]} × {label.shape[0]} pixels, "
                f"its tile {pixels.shape[2]} × {pixels.shape[1]}",
                "labels lie on the grid of their tiles",
            )
        return pixels, label

    def digest(name: str) -> str:
        return identity(images[name], full=True)["sha256"][:16]

    with Sheet(next(iter(images.values())), by_type) as first:
        side = max(first.grid.height, first.grid.width)
        pixel = first.grid.pixel if first.grid.georeferenced else 0.0
    files = (*images.values(), *(truths[name] for name in images))
    return Examples(tuple(images), read, tuple(classes), side, files, pixel, _notice(root), digest)


def _rasters_by_name(folder: Path) -> dict[str, Path]:
    """Name without ending → raster of a folder.

    Raises:
        UserError: two rasters have one name.
    """
    rasters: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in rasters:
            raise UserError(f"{folder}: {rasters[path.stem].name} and {path.name} have one name", "remove one of them")
        rasters[path.stem] = path
    return rasters


def _notice(folder: Path) -> str:
    """What a file NOTICE.txt in a folder of tiles says: its first line."""
    try:
        return (folder / NOTICE).read_text(encoding="utf-8").splitlines()[0][:120]
    except (OSError, ValueError, IndexError):
        return ""


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
    except RasterioError as error:
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


def windows(
    sheet_path: Path,
    labels: Path,
    *,
    side: int = 224,
    options: LabelOptions = LabelOptions(),
    reading: SheetOptions = SheetOptions(),
) -> tuple[Examples, Examples]:
    """Training and validation windows of a sheet: those that hold a feature, a quarter as many without; no pixel is in both.

    Raises:
        UserError: labels that do not lie on the sheet, or too few windows.
    """
    classes = options.classes
    with Sheet(sheet_path, reading) as sheet:
        grid = sheet.grid
        notice = sheet.file.tags().get("NOTICE", "")
        for warning in sheet.warnings:
            warn(f"{sheet_path.name}: {warning}")
        if is_vector(labels):
            truth = rasterised(labels, grid, options)
        else:
            truth = read_label(labels, len(classes), grid)
    chosen, filled = _choose_windows(truth, side)
    train, val = split_windows(chosen, filled, side)
    if not train or not val:
        raise UserError(
            f"{sheet_path.name} gives {len(train)} windows of {side} pixels to train on and {len(val)} apart from them",
            "more labels, or a smaller --side, are needed",
        )
    sheet_digest = identity(sheet_path, full=True)["sha256"][:16]

    def read(name: str) -> Example:
        y, x = (int(v) for v in name.split("_"))
        with Sheet(sheet_path, reading) as opened:
            pixels, valid = opened.read(slice(y, y + side), slice(x, x + side))
        label = np.zeros((side, side), np.uint8)
        cut = truth[y : y + side, x : x + side]
        label[: cut.shape[0], : cut.shape[1]] = cut
        return pixels, np.where(valid, label, 0).astype(np.uint8)

    files = sheet_path, split_layer(labels)[0]
    pixel = grid.pixel if grid.georeferenced else 0.0
    parts = []
    for part in (train, val):
        names = tuple(f"{y}_{x}" for y, x in part)
        parts.append(Examples(names, read, classes, side, files, pixel, notice, lambda name: f"{sheet_digest}:{name}"))
    return parts[0], parts[1]


Corner = tuple[int, int]


def _choose_windows(truth: NDArray[np.uint8], side: int) -> tuple[list[Corner], set[Corner]]:
    """Upper left corners (y, x) of windows, half a side apart: all that hold a feature (the set), and a quarter as many that do not."""
    height, width = truth.shape
    corners = [
        (y, x)
        for y in range(0, max(height - side // 2, 1), side // 2)
        for x in range(0, max(width - side // 2, 1), side // 2)
    ]
    filled = {(y, x) for y, x in corners if truth[y : y + side, x : x + side].any()}
    empty = [corner for corner in corners if corner not in filled]
    step = max(1, 4 * len(empty) // max(len(filled), 1))
    some_empty = set(empty[::step][: max(1, len(filled) // 4)])
    return [corner for corner in corners if corner in filled or corner in some_empty], filled


def split_windows(chosen: Sequence[Corner], filled: set[Corner], side: int) -> tuple[list[Corner], list[Corner]]:
    """Windows to train on and to validate on. They never overlap: what touches a window of validation is not trained on.

    Every fifth block of two by two windows that holds a feature validates; where there are few blocks, the lower or the right end of the sheet.
    """
    blocks: dict[Corner, list[Corner]] = {}
    for y, x in chosen:
        blocks.setdefault((y // (2 * side), x // (2 * side)), []).append((y, x))
    with_features = sorted(block for block, members in blocks.items() if filled & set(members))
    held = with_features[::5] if len(with_features) > 4 else with_features[-1:]
    val = [corner for block in held for corner in blocks[block]]
    train = _apart(chosen, val, side)
    if _usable(train, filled) and len(with_features) > 1:
        return train, val
    for axis in (0, 1):
        # the last fifth of the windows along an axis, or fewer
        positions = sorted({corner[axis] for corner in chosen})
        for begin in positions[len(positions) * 4 // 5 :] or positions[-1:]:
            val = [corner for corner in chosen if corner[axis] >= begin]
            train = _apart(chosen, val, side)
            if _usable(train, filled) and _usable(val, filled):
                return train, val
    return [], []


def _usable(corners: Sequence[Corner], filled: set[Corner]) -> bool:
    return bool(filled & set(corners))


def _apart(chosen: Sequence[Corner], val: Sequence[Corner], side: int) -> list[Corner]:
    """Those windows that share no pixel with any of `val`."""
    if not val:
        return list(chosen)
    others = np.array(val)
    apart = []
    for corner in chosen:
        overlapping = (np.abs(others - corner) < side).all(1)
        if not overlapping.any():
            apart.append(corner)
    return apart
