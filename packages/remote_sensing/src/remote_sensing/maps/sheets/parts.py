"""The part of a sheet to process, in its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.grid import Grid, to_map
from remote_sensing.maps.sheets.options import PartOptions
from remote_sensing.maps.sheets.vector_files import in_crs, read_layer


@dataclass(frozen=True)
class Part:
    """The rows and columns of a sheet to process, and polygons (in pixels) outside of which pixels are ignored."""

    rows: slice
    columns: slice
    roi: tuple[BaseGeometry, ...] = ()


def part_of(grid: Grid, options: PartOptions = PartOptions()) -> Part:
    """The part of a sheet to process.

    Raises:
        UserError: an extent or region without area, or outside of the sheet.
    """
    to_pixels = ~grid.transform
    rows, columns, roi = slice(0, grid.height), slice(0, grid.width), ()
    if options.bbox is not None:
        left, bottom, right, top = options.bbox
        if not (left < right and bottom < top):
            raise UserError(f"--bbox {options.bbox} has no area", "give left,bottom,right,top in map coordinates")
        rows, columns = _bounds(to_map(shapely.box(left, bottom, right, top), to_pixels), grid, "--bbox")
    if options.roi is not None:
        geometries = in_crs(read_layer(options.roi), grid.crs, options.roi)
        roi = tuple(to_map(geometry, to_pixels) for geometry in geometries if geometry.area > 0)
        if not roi:
            raise UserError(
                f"{options.roi}: its geometries have no area", "--roi takes polygons around the area to process"
            )
        ys, xs = _bounds(shapely.union_all(roi), grid, f"--roi {options.roi}")
        rows = slice(max(rows.start, ys.start), min(rows.stop, ys.stop))
        columns = slice(max(columns.start, xs.start), min(columns.stop, xs.stop))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise UserError("--bbox and --roi do not overlap", "check their coordinates")
    return Part(rows, columns, roi)


def _bounds(geometry: BaseGeometry, grid: Grid, source: str) -> tuple[slice, slice]:
    """Rows and columns of the sheet that a geometry touches."""
    # rounded outwards: a pixel that is touched belongs to the part
    left, top, right, bottom = geometry.bounds
    rows = slice(max(0, int(np.floor(top))), min(grid.height, int(np.ceil(bottom))))
    columns = slice(max(0, int(np.floor(left))), min(grid.width, int(np.ceil(right))))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise UserError(
            f"{source} is outside of the sheet",
            "it must be in the sheet's coordinates (or have its own coordinate system)",
        )
    return rows, columns
