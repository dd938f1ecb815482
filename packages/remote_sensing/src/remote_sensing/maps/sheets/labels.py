"""Training tiles: the layout of the Siegfried data set, or windows of a person's own sheet with polygons or lines rasterised on the fly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.features import rasterize

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.formats import SUFFIXES, is_vector, split_layer
from remote_sensing.maps.sheets.grid import Grid, parse_length, to_map
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.sheet import Sheet, first_line
from remote_sensing.maps.sheets.vector_files import in_crs, read_layer
from remote_sensing.rasters import open_raster

Example = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Examples:
    """Tiles (3, h, w) with class numbers (h, w), read when asked for.

    Attributes:
        names: of the tiles.
        read: from a name to the tile and its classes (0 background).
        classes: names of the foreground classes.
        side: pixels of a tile in the sheet.
        files: that they are read from.
    """

    names: tuple[str, ...]
    read: Callable[[str], Example]
    classes: tuple[str, ...]
    side: int
    files: tuple[Path, ...]

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
    images = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES}
    truths = {p.stem: p for p in sorted(labels.iterdir()) if p.suffix.lower() in SUFFIXES}
    missing = sorted(images.keys() - truths.keys())
    if missing:
        raise UserError(
            f"{labels}: no label of {missing[0]}" + (f" and {len(missing) - 1} more tiles" if missing[1:] else "")
        )
    if not images:
        raise UserError(f"{folder} holds no tiles", "tif, png or jpg")

    def read(name: str) -> Example:
        with Sheet(images[name], stretch="dtype") as sheet:
            pixels, _ = sheet.read(slice(0, sheet.grid.height), slice(0, sheet.grid.width))
        label = read_label(truths[name], len(classes))
        if label.shape != pixels.shape[1:]:
            raise UserError(
                f"{truths[name].name} has {label.shape[1]} × {label.shape[0]} pixels, its tile {pixels.shape[2]} × {pixels.shape[1]}",
                "labels lie on the grid of their tiles",
            )
        return pixels, label

    with Sheet(next(iter(images.values())), stretch="dtype") as first:
        side = max(first.grid.height, first.grid.width)
    files = (*images.values(), *(truths[name] for name in images))
    return Examples(tuple(images), read, tuple(classes), side, files)


def read_label(path: Path, classes: int) -> NDArray[np.uint8]:
    """Class numbers of a label raster: 0/1, 0/255 (also in three channels, also through JPEG) or class indices.

    Raises:
        UserError: other values, named.
    """
    try:
        with open_raster(path) as file:
            raw = file.read(list(range(1, min(file.count, 3) + 1))).max(0)
    except RasterioError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}", "a label is a raster of class numbers") from None
    return class_numbers(raw, path, classes)


def class_numbers(raw: NDArray, path: Path, classes: int) -> NDArray[np.uint8]:
    """The classes of a label's values."""
    if path.suffix.lower() in (".jpg", ".jpeg"):  # its edges are blurred
        return (raw > 127).astype(np.uint8)
    values = np.unique(raw)
    if classes == 1 and set(values.tolist()) <= {0, 255}:
        return (raw == 255).astype(np.uint8)
    if values.size and values.min() >= 0 and values.max() <= classes:
        return raw.astype(np.uint8)
    shown = ", ".join(f"{v:g}" for v in values[:6]) + (" …" if len(values) > 6 else "")
    hint = "0 and 1, or 0 and 255, not both at once" if classes == 1 else f"0 to {classes}, in the order of --classes"
    raise UserError(
        f"{path.name} holds the values {shown}", f"a label of {classes} class{'es' if classes > 1 else ''} holds {hint}"
    )


def rasterised(layer: Path, grid: Grid, options: LabelOptions) -> NDArray[np.uint8]:
    """Class numbers of a sheet's pixels from polygons, lines (drawn `options.line_width` wide) or points of a vector file.

    Args:
        layer: the vector file.
        grid: of the sheet.
        options: classes, and the column that names them; without one everything is the first class.

    Raises:
        UserError: no geometries on the sheet, a column or class that is not there.
    """
    classes, column = options.classes, options.class_column
    read = read_layer(layer)
    shapes = [to_map(g, ~grid.transform) for g in in_crs(read, grid.crs)]
    half = parse_length(options.line_width, grid, "--line-width") / grid.pixel / 2
    if column is not None and column not in read.columns:
        raise UserError(f"{layer}: no column {column!r}", f"it has {', '.join(read.columns) or 'none'}")
    numbers = {c: i for i, c in enumerate(classes, 1)}
    drawn = []
    for i, shape in enumerate(shapes):
        name = str(read.columns[column][i]) if column is not None else classes[0]
        if name in numbers:
            drawn.append((shape if shape.area > 0 else shape.buffer(max(half, 0.6)), numbers[name]))
    if not drawn:
        raise UserError(
            f"{layer}: none of its geometries is of the classes {', '.join(classes)}", "--class-column names the column"
        )
    shape = (grid.height, grid.width)
    label = np.asarray(rasterize(drawn, shape, fill=0, transform=Affine.identity(), dtype="uint8"))
    if not label.any():
        raise UserError(
            f"{layer}: none of its {len(drawn)} geometries lies on the sheet", "check the coordinate systems of both"
        )
    return label


def windows(
    sheet_path: Path,
    labels: Path,
    *,
    side: int = 224,
    options: LabelOptions = LabelOptions(),
    stretch: str = "percentile",
) -> tuple[Examples, Examples]:
    """Training and validation windows of a sheet: every one that holds a feature, a quarter as many without; each fifth block of them validates.

    Raises:
        UserError: labels that do not lie on the sheet, or too few windows.
    """
    classes = options.classes
    with Sheet(sheet_path, stretch=stretch) as sheet:
        grid = sheet.grid
        if is_vector(labels):
            truth = rasterised(labels, grid, options)
        else:
            truth = read_label(labels, len(classes))
            if truth.shape != (grid.height, grid.width):
                raise UserError(
                    f"{labels.name} has {truth.shape[1]} × {truth.shape[0]} pixels, {sheet_path.name} {grid.width} × {grid.height}",
                    "a label raster lies on the grid of its sheet; vectors (GeoPackage, GeoJSON) fit any",
                )
    starts = [
        (y, x)
        for y in range(0, max(grid.height - side // 2, 1), side // 2)
        for x in range(0, max(grid.width - side // 2, 1), side // 2)
    ]
    filled = [(y, x) for y, x in starts if truth[y : y + side, x : x + side].any()]
    empty = [s for s in starts if s not in set(filled)]
    chosen = filled + empty[:: max(1, 4 * len(empty) // max(len(filled), 1))][: max(1, len(filled) // 4)]
    blocks = {s: (s[0] // (2 * side)) * 7 + s[1] // (2 * side) for s in chosen}
    order = sorted(set(blocks.values()))
    held = set(order[::5]) if len(order) > 4 else {order[-1]} if len(order) > 1 else set()

    def read(name: str) -> Example:
        y, x = (int(v) for v in name.split("_"))
        with Sheet(sheet_path, stretch=stretch) as opened:
            pixels, valid = opened.read(slice(y, y + side), slice(x, x + side))
        label = np.zeros((side, side), np.uint8)
        cut = truth[y : y + side, x : x + side]
        label[: cut.shape[0], : cut.shape[1]] = cut
        return pixels, np.where(valid, label, 0).astype(np.uint8)

    parts: tuple[list[str], list[str]] = ([], [])
    for (y, x), block in blocks.items():
        parts[block in held].append(f"{y}_{x}")
    if not parts[0]:
        raise UserError(
            f"{sheet_path.name} gives no window to train on", "more labels, or a smaller --side, are needed"
        )
    train, val = parts[0], parts[1] or parts[0][: max(1, len(parts[0]) // 5)]
    files = sheet_path, split_layer(labels)[0]
    return (
        Examples(tuple(train), read, tuple(classes), side, files),
        Examples(tuple(val), read, tuple(classes), side, files),
    )
