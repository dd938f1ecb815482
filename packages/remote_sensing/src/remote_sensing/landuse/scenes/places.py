"""The place of a scene on the ground, and the size of its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rasterio.warp import transform as reproject

from core_runtime.errors import UserError

METRES_PER_DEGREE = 111_320.0


def check_place(file: Any, path: Path, warnings: list[str]) -> None:
    """Refuses coordinates that would be lost or are meaningless.

    Args:
        file: as rasterio opened it.
        path: of the scene.
        warnings: what the user should know is added.

    Raises:
        UserError: degenerate transforms and world files, ground control points.
    """
    transform = file.transform
    numbers = tuple(transform)[:6]
    if not all(map(math.isfinite, numbers)) or transform.determinant == 0:
        hint = "correct the world file or the GeoTIFF's transform"
        raise UserError(f"{path}: its coordinates are degenerate (transform {numbers})", hint)
    # GDAL passes over a degenerate world file without a word: the identity beside one gives it away
    unused = [file.name for file in _world_files(path) if file.is_file()]
    if transform.is_identity and unused:
        raise UserError(f"{path}: its world file {unused[0]} is degenerate", "correct it, or remove it")
    if transform.is_identity and file.gcps[0]:
        raise UserError(
            f"{path} holds {len(file.gcps[0])} ground control points, which are not applied to its pixels",
            "apply them first: gdalwarp -t_srs EPSG:… SCENE OUT.tif",
        )
    _warn_of_other_world_file(file, path, warnings)
    if file.crs is None:
        warnings.append("no coordinate system: the map has the same pixel grid, without one either")


def pixel_size(transform: Any, crs: Any, height: int, width: int) -> float | None:
    """The side of a square of a pixel's area on the ground in metres; None if the file does not state it."""
    sides = pixel_sides(transform, crs, height, width)
    if sides is None:
        return None
    return math.sqrt(sides[0] * sides[1])


def pixel_sides(transform: Any, crs: Any, height: int, width: int) -> tuple[float, float] | None:
    """The sides of a pixel on the ground in metres, across and down, at the middle of the scene; None if the file does not state them."""
    if crs is None:
        return None
    row, column = height / 2, width / 2
    corners = [transform * (column, row), transform * (column + 1, row), transform * (column, row + 1)]
    try:
        longitudes, latitudes = reproject(crs, "EPSG:4326", *zip(*corners, strict=True))[:2]
    except Exception:  # a local system: rasterio and PROJ raise errors of several classes
        return None
    # a degree of longitude shrinks with the cosine of the latitude; the parallelogram of a pixel may be rotated
    metres = METRES_PER_DEGREE * math.cos(math.radians(latitudes[0]))
    across = math.hypot(metres * (longitudes[1] - longitudes[0]), METRES_PER_DEGREE * (latitudes[1] - latitudes[0]))
    down = math.hypot(metres * (longitudes[2] - longitudes[0]), METRES_PER_DEGREE * (latitudes[2] - latitudes[0]))
    if not math.isfinite(across * down) or across * down <= 0:
        return None
    return across, down


def _warn_of_other_world_file(file: Any, path: Path, warnings: list[str]) -> None:
    """A GeoTIFF's own coordinates outrank a world file beside it, which may say otherwise."""
    if file.driver != "GTiff" or file.transform.is_identity:
        return
    for world_file in _world_files(path):
        try:
            a, d, b, e, c, f = (float(line.replace(",", ".")) for line in world_file.read_text().split()[:6])
        except (OSError, ValueError):  # there is none, or GDAL does not read it either
            continue
        # a world file gives the middle of the first pixel, a transform its corner
        own = file.transform
        corner = (c - a / 2 - b / 2, f - d / 2 - e / 2)
        pixel = max(abs(own.a), abs(own.b), abs(own.e))
        differences = (a - own.a, b - own.b, d - own.d, e - own.e)
        moved = max(abs(corner[0] - own.c), abs(corner[1] - own.f))
        if max(map(abs, differences)) > 1e-3 * pixel or moved > pixel:
            warnings.append(f"its own coordinates are used; those of {world_file.name} beside it are others")


def _world_files(path: Path) -> Iterable[Path]:
    """Possible world files of a picture: scan.pgw, scan.pngw, scan.wld."""
    ending = path.suffix.lower().removeprefix(".")
    if not ending:
        return []
    return [path.with_suffix(f".{name}") for name in (f"{ending[0]}{ending[-1]}w", f"{ending}w", "wld")]
