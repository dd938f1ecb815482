"""Training tiles with their labels, in the layout of the Siegfried data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.identity import identity
from remote_sensing.maps.sheets.formats import SUFFIXES
from remote_sensing.maps.sheets.labels import read_label
from remote_sensing.maps.sheets.options import SheetOptions
from remote_sensing.maps.sheets.sheet import Sheet
from remote_sensing.notices import read_notice

Example = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Examples:
    """Tiles (3, h, w) with class numbers (h, w), read when they are needed.

    Attributes:
        names: of the tiles.
        read: from a name to the tile and its classes (0 background).
        classes: names of the foreground classes.
        side: pixels of a tile in the sheet.
        files: the tiles are read from these.
        pixel: map units of a pixel, 0 where unknown.
        notice: goes into a model that is trained on them.
        digest: from a name to the digest of its tile's content.
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
        """The first tiles; 0 keeps all."""
        if not count:
            return self
        return replace(self, names=self.names[:count])


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
        more = ""
        if missing[1:]:
            more = f" and {len(missing) - 1} more tiles"
        raise UserError(f"{labels}: no label of {missing[0]}{more}", "every tile needs a label of the same name")
    if not images:
        raise UserError(f"{folder} holds no tiles", "tif, png or jpg")
    by_type = SheetOptions(stretch="dtype")  # the range of a single tile is not that of the sheet

    def read(name: str) -> Example:
        with Sheet(images[name], by_type) as sheet:
            pixels, _ = sheet.read(slice(0, sheet.grid.height), slice(0, sheet.grid.width))
        label = read_label(truths[name], len(classes))
        if label.shape != pixels.shape[1:]:
            raise UserError(
                f"{truths[name].name} has {label.shape[1]} × {label.shape[0]} pixels, "
                f"its tile {pixels.shape[2]} × {pixels.shape[1]}",
                "labels need the grid of their tiles",
            )
        return pixels, label

    def digest(name: str) -> str:
        return identity(images[name], full=True)["sha256"][:16]

    with Sheet(next(iter(images.values())), by_type) as first:
        side = max(first.grid.height, first.grid.width)
        pixel = 0.0
        if first.grid.georeferenced:
            pixel = first.grid.pixel
    files = (*images.values(), *(truths[name] for name in images))
    return Examples(tuple(images), read, tuple(classes), side, files, pixel, read_notice(root), digest)


def _rasters_by_name(folder: Path) -> dict[str, Path]:
    """Name without ending → raster of a folder.

    Raises:
        UserError: two rasters have the same name.
    """
    rasters: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in rasters:
            raise UserError(
                f"{folder}: {rasters[path.stem].name} and {path.name} have the same name", "remove one of them"
            )
        rasters[path.stem] = path
    return rasters
