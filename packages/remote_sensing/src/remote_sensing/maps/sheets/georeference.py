"""Where a raster lies: its transform, its control points, the points of QGIS or the world file beside it, and its coordinate system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from core_runtime.errors import UserError
from core_runtime.tables import read_table
from remote_sensing.maps.sheets.grid import Grid, crs_name

_BEYOND = 1e9  # map units: no coordinate system of the earth has coordinates, or pixels, as large
_TINY = 1e-12  # map units of a pixel
_FAR = 3.0  # pixels by which control points may miss one transform before it is worth a warning


class Placement(NamedTuple):
    """The grid of a raster, and what the user should know about it."""

    grid: Grid
    warnings: list[str]


class ControlPoint(NamedTuple):
    """A pixel position and where it lies on the map."""

    column: float
    row: float
    x: float
    y: float


def place(file: Any, path: Path, crs: str | None = None) -> Placement:
    """Finds out where an open raster lies.

    Args:
        file: as rasterio opened it.
        path: of the file, beside which a world file or ``.points`` of QGIS may lie.
        crs: the coordinate system as the user says it; wins over the file's.

    Raises:
        UserError: a transform, world file or control points that cannot be used.
    """
    warnings: list[str] = []
    transform, system = file.transform, file.crs
    _check_transform(transform, path)
    if transform == Affine.identity():
        points, points_crs, source = _control_points(file, path)
        if points:
            transform = _fit(points, path, source, warnings)
            _check_transform(transform, path)
            system = points_crs or system
        else:
            _check_world_file(path)
    elif file.gcps[0]:
        warnings.append(f"holds {len(file.gcps[0])} control points, too; its transform is used")
    if crs is not None:
        given = parse_crs(crs, "--crs")
        if system is not None and system != given:
            warnings.append(f"the file says {crs_name(system)}; --crs {crs_name(given)} is used")
        system = given
    if transform == Affine.identity():
        if system is not None:
            warnings.append(f"{crs_name(system)}, but no transform: results are in pixels, without coordinate system")
        else:
            warnings.append("no coordinates in or beside the file: results are in pixels")
        system = None
    elif system is None:
        warnings.append("a transform but no coordinate system: results have none either; --crs EPSG:CODE names it")
    return Placement(Grid(file.height, file.width, transform, system), warnings)


def parse_crs(text: str, option: str) -> CRS:
    """A coordinate system as a user writes it.

    Raises:
        UserError: it is not one.
    """
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError):
        raise UserError(
            f"{option} {text!r} is not a coordinate system", "write EPSG:2056, a PROJ string or WKT"
        ) from None


def _check_transform(transform: Affine, path: Path) -> None:
    values = tuple(transform)[:6]
    hint = "mend its world file or georeferencing; without one results are in pixels"
    if not all(math.isfinite(value) for value in values):
        raise UserError(f"{path}: its transform is not of numbers ({', '.join(f'{v:g}' for v in values)})", hint)
    a, b, _, d, e, _ = values
    if max(map(abs, values)) > _BEYOND:
        raise UserError(f"{path}: its transform leaves the earth ({', '.join(f'{v:g}' for v in values)})", hint)
    largest = max(abs(a), abs(b), abs(d), abs(e))
    # divided first: the squares of tiny numbers are 0
    if largest < _TINY or abs((a / largest) * (e / largest) - (b / largest) * (d / largest)) <= 1e-9:
        shown = ", ".join(f"{value:g}" for value in (a, b, d, e))
        raise UserError(f"{path}: its transform is degenerate ({shown}): all pixels lie on one line", hint)


def _control_points(file: Any, path: Path) -> tuple[list[ControlPoint], CRS | None, str]:
    """The control points in the file, else those of QGIS beside it; their coordinate system; where they are from."""
    points, crs = file.gcps
    if points:
        return [ControlPoint(p.col, p.row, p.x, p.y) for p in points], crs, "in the file"
    for beside in (path.with_name(f"{path.name}.points"), path.with_suffix(".points")):
        if beside.is_file():
            return (*_read_points(beside), f"in {beside.name}")
    return [], None, ""


def _read_points(path: Path) -> tuple[list[ControlPoint], CRS | None]:
    """Control points as QGIS's georeferencer writes them: rows count downwards as negative numbers."""
    crs = None
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline(100_000)
    if first.startswith("#CRS:"):
        text = first.removeprefix("#CRS:").strip()
        if text:
            crs = parse_crs(text, f"{path}: #CRS")
    table = read_table(path, comment="#")
    x, y = table.column("mapX"), table.column("mapY")
    column, row = table.column("sourceX", "pixelX"), table.column("sourceY", "pixelY")
    enabled = table.column("enable", required=False)
    points = []
    for line in table:
        if line.get(enabled) in ("0", "false"):
            continue
        values = [table.number(line, str(name)) for name in (column, row, x, y)]
        if None in values:
            table.leave_out(line, "without four numbers")
            continue
        at_column, at_row, to_x, to_y = (float(value) for value in values if value is not None)
        points.append(ControlPoint(at_column, -at_row, to_x, to_y))
    if not points:
        raise UserError(f"{path} holds no control points that are enabled", "georeference the sheet again in QGIS")
    return points, crs


def _fit(points: Sequence[ControlPoint], path: Path, source: str, warnings: list[str]) -> Affine:
    """The affine transform with the least squares at the control points; says how far it misses them."""
    pixels = np.array([(p.column, p.row, 1.0) for p in points])
    world = np.array([(p.x, p.y) for p in points])
    hint = "at least three that are not on one line are needed; or georeference the sheet with gdalwarp or QGIS"
    if not np.isfinite(pixels).all() or not np.isfinite(world).all():
        raise UserError(f"{path}: its control points {source} are not all numbers", hint)
    middle = world.mean(0)
    centred = pixels - [*pixels[:, :2].mean(0), 0]
    if len(points) < 3 or np.linalg.matrix_rank(centred, tol=1e-6 * max(float(np.abs(centred).max()), 1)) < 3:
        raise UserError(f"{path}: its {len(points)} control points {source} do not say where it lies", hint)
    (a, d), (b, e), (c, f) = np.linalg.lstsq(centred, world - middle, rcond=None)[0]
    shift = Affine.translation(*-pixels[:, :2].mean(0))
    transform = Affine(a, b, c + middle[0], d, e, f + middle[1]) * shift
    _check_transform(transform, path)
    misses = [(~transform) * (p.x, p.y) for p in points]
    worst = max(math.hypot(u - p.column, v - p.row) for (u, v), p in zip(misses, points, strict=True))
    text = f"lies by {len(points)} control points {source}, at most {worst:.1f} pixels off"
    if worst > _FAR:
        text += "; one transform does not fit them: rectify the sheet first (gdalwarp -order 2, or QGIS)"
    warnings.append(text)
    return transform


def _check_world_file(path: Path) -> None:
    """A world file that lies beside a picture and was not understood is worth a word: the picture is not where the user thinks."""
    ending = path.suffix.lower().removeprefix(".")
    if not ending:
        return
    short = f"{ending[0]}{ending[-1]}w"
    for name in (f".{short}", f".{ending}w", ".wld", f".{short.upper()}", f".{ending.upper()}W", ".WLD"):
        beside = path.with_suffix(name)
        if not beside.is_file():
            continue
        words = beside.read_text(encoding="utf-8", errors="replace").split()
        try:
            numbers = [float(word.replace(",", ".")) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != 6 or numbers[:4] != [1, 0, 0, 1]:
            raise UserError(
                f"{beside} is not a world file that can be used", "it holds six lines, a number each; mend or remove it"
            )
