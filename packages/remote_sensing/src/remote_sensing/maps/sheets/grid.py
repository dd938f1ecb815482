"""The positions of a sheet's pixels, and lengths on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from core_runtime.errors import UserError


@dataclass(frozen=True)
class Grid:
    """The positions of pixels: size, affine transform (also turned) and coordinate system (also without EPSG code, or none)."""

    height: int
    width: int
    transform: Affine
    crs: Any

    @property
    def georeferenced(self) -> bool:
        return self.crs is not None or self.transform != Affine.identity()

    @property
    def pixel(self) -> float:
        """Side of a pixel in map units (the square root of its area)."""
        return abs(self.transform.determinant) ** 0.5

    @property
    def metric(self) -> bool:
        """Whether lengths and areas are meaningful: not in degrees."""
        return self.crs is None or not self.crs.is_geographic

    def window(self, rows: slice, columns: slice) -> Grid:
        """The grid of a part."""
        moved = self.transform * Affine.translation(columns.start, rows.start)
        return Grid(rows.stop - rows.start, columns.stop - columns.start, moved, self.crs)


def to_map(geometry: BaseGeometry, transform: Affine) -> BaseGeometry:
    """From pixel to map coordinates."""
    a, b, c, d, e, f = tuple(transform)[:6]

    def moved(points: NDArray) -> NDArray:
        x, y = points[:, 0], points[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], 1)

    return shapely.transform(geometry, moved)


def preview_shape(grid: Grid, longest: int) -> tuple[int, int]:
    """Height and width of a small picture of a grid."""
    step = max(1.0, max(grid.height, grid.width) / longest)
    return max(1, round(grid.height / step)), max(1, round(grid.width / step))


def strips(height: int, rows: int) -> Iterator[slice]:
    """Slices of `rows` rows."""
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def parse_length(text: str | float, grid: Grid, option: str, power: int = 1) -> float:
    """A length (or area, with `power` 2) in map units: a number, or ``12px``.

    Raises:
        UserError: no such number, or a metric one on a sheet in degrees.
    """
    words = str(text).strip().lower()
    in_pixels = words.endswith("px")
    try:
        value = float(words.removesuffix("px"))
    except ValueError:
        raise UserError(f"{option} {text!r} is not a number", "write map units (25) or pixels (12px)") from None
    if not 0 <= value < float("inf"):
        raise UserError(f"{option} {text!r} must be a number of at least 0", "write map units (25) or pixels (12px)")
    if in_pixels:
        return value * grid.pixel**power
    # a length of 0 is 0 in any unit
    if value and not grid.metric:
        raise UserError(
            f"{option} {text}: the sheet's coordinates are degrees ({crs_name(grid.crs)}), not metres",
            f"give it in pixels ({option} 12px), or reproject the sheet first (gdalwarp -t_srs)",
        )
    return value


def crs_name(crs: Any) -> str:
    """A coordinate system in a few words."""
    if crs is None:
        return "none"
    code = crs.to_epsg()
    if code:
        return f"EPSG:{code}"
    # WKT begins with its name: PROJCS["Lambert of a national grid", …
    quoted = crs.to_wkt().split('"')
    if len(quoted) < 2:
        return "unknown"
    return f"{quoted[1]} (no EPSG code)"
