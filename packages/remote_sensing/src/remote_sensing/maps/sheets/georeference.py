"""The position of a raster: its transform, its control points, the points of QGIS or the world file beside it, and its coordinate system."""

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

_BEYOND = 1e9  # map units: no coordinate system of the earth has coordinates or pixels of this size
_TINY = 1e-12  # map units of a pixel
_OBLONG = 1.1  # the longer side of a pixel against the shorter one
_SMALLEST = 1e-3  # map units of a pixel, of metres or feet
_FAR = 3.0  # pixels by which control points may miss one transform before it is worth a warning


class Placement(NamedTuple):
    """The grid of a raster, and what the user should know about it."""

    grid: Grid
    warnings: list[str]


class ControlPoint(NamedTuple):
    """A pixel position and its position on the map."""

    column: float
    row: float
    x: float
    y: float


def place(file: Any, path: Path, crs: str | None = None) -> Placement:
    """The position of an open raster.

    Args:
        file: as rasterio opened it.
        path: of the file; a world file or ``.points`` of QGIS is looked for beside it.
        crs: the coordinate system given by the user; it takes precedence over the file's.

    Raises:
        UserError: a transform, world file or control points that cannot be used.
    """
    warnings: list[str] = []
    transform, system = file.transform, file.crs
    _check_transform(transform, path)
    # GDAL gives the identity for a raster without a transform (and has read a world file by now, if it is a valid one)
    if transform == Affine.identity():
        points, points_crs, source = _control_points(file, path)
        if points:
            transform = _fit(points, path, source, warnings)
            _check_transform(transform, path)
            system = points_crs or system
        else:
            _check_world_file(path)
    elif file.gcps[0]:
        warnings.append(f"it also holds {len(file.gcps[0])} control points; its transform is used")
    if crs is not None:
        given = parse_crs(crs, "--crs")
        if system is not None and system != given:
            warnings.append(f"the file is in {crs_name(system)}; --crs {crs_name(given)} is used")
        system = given
    if transform == Affine.identity():
        if system is not None:
            warnings.append(f"{crs_name(system)}, but no transform: results are in pixels, without coordinate system")
        else:
            warnings.append("no coordinates in or beside the file: results are in pixels")
        system = None
    elif system is None:
        warnings.append("a transform but no coordinate system: results have none either; --crs EPSG:CODE names it")
        warnings += _system_beside(path)
    grid = Grid(file.height, file.width, transform, system)
    if grid.georeferenced:
        warnings += _doubts(grid, path)
        warnings += _other_world_file(file.transform, path)
    return Placement(grid, warnings)


def _doubts(grid: Grid, path: Path) -> list[str]:
    """What is possible and hardly ever meant: oblong or mirrored pixels, coordinates that are not those of their system.

    Raises:
        UserError: no coordinate of it is one of degrees, and its system has degrees.
    """
    doubts = []
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    sides = sorted((math.hypot(a, d), math.hypot(b, e)))
    if sides[1] > _OBLONG * sides[0]:
        doubts.append(f"its pixels are not square ({sides[0]:g} × {sides[1]:g} map units): symbols are drawn out")
    if grid.transform.determinant > 0:
        doubts.append(
            "its transform mirrors it (rows run upwards): does the world file lack a minus in its fourth line?"
        )
    if grid.crs is None:
        return doubts
    corners = [
        grid.transform * corner for corner in ((0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height))
    ]
    xs, ys = zip(*corners, strict=True)
    are_degrees = max(map(abs, xs)) <= 360 and max(map(abs, ys)) <= 90
    # A globe may reach a little beyond the poles; what does not touch the range of degrees at all is something else.
    touches_degrees = min(xs) <= 360 and max(xs) >= -360 and min(ys) <= 90 and max(ys) >= -90
    if grid.crs.is_geographic and not touches_degrees:
        x, y = corners[0]
        raise UserError(
            f"{path}: its coordinates ({x:g}, {y:g}) are not degrees, as those of {crs_name(grid.crs)} are",
            "--crs EPSG:CODE names the system that they are of",
        )
    if grid.crs.is_projected and are_degrees and sides[1] < _SMALLEST:
        doubts.append(
            f"its coordinates look like degrees and {crs_name(grid.crs)} has none: if they are, --crs EPSG:4326 says so"
        )
    return doubts


def _system_beside(path: Path) -> list[str]:
    """A word where a .prj file beside a raster names its coordinate system: it is of another program and is not read with it."""
    beside = path.with_suffix(".prj")
    if not beside.is_file():
        return []
    try:
        named = crs_name(CRS.from_user_input(beside.read_text(encoding="utf-8", errors="replace").strip()))
    except (CRSError, ValueError):
        return []
    return [f"{beside.name} beside it says {named}, which is not used: --crs takes it"]


def _other_world_file(transform: Affine, path: Path) -> list[str]:
    """A word where a world file beside a raster that has a place of its own says another one."""
    for beside in _world_files(path):
        try:
            a, d, b, e, x, y = (float(word) for word in beside.read_text(encoding="utf-8", errors="replace").split())
        except (OSError, ValueError):
            continue
        # a world file tells the middle of the first pixel
        theirs = Affine(a, b, x, d, e, y) * Affine.translation(-0.5, -0.5)
        column, row = ~transform * (theirs * (0, 0))
        far = max(abs(column), abs(row)) > 1
        if far or not np.allclose(
            tuple(theirs)[:2] + tuple(theirs)[3:5], tuple(transform)[:2] + tuple(transform)[3:5], rtol=1e-3, atol=1e-9
        ):
            return [f"{beside.name} beside it says another place: the file's own is used"]
    return []


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
    """Makes sure that a transform can be inverted and has its pixels on the earth.

    Raises:
        UserError: it has not.
    """
    values = tuple(transform)[:6]
    shown = ", ".join(f"{value:g}" for value in values)
    hint = "correct its world file or georeferencing; without one results are in pixels"
    if not np.isfinite(values).all():
        raise UserError(f"{path}: its transform holds values that are not numbers ({shown})", hint)
    a, b, _, d, e, _ = values
    if max(map(abs, values)) > _BEYOND:
        raise UserError(f"{path}: its transform leaves the earth ({shown})", hint)
    largest = max(abs(a), abs(b), abs(d), abs(e))
    # divided first: the squares of tiny numbers are 0
    if largest < _TINY or abs((a / largest) * (e / largest) - (b / largest) * (d / largest)) <= 1e-9:
        shown = ", ".join(f"{value:g}" for value in (a, b, d, e))
        raise UserError(f"{path}: its transform is degenerate ({shown}): all pixels are on one line", hint)


def _control_points(file: Any, path: Path) -> tuple[list[ControlPoint], CRS | None, str]:
    """The control points in the file, else those of QGIS beside it; their coordinate system; their source."""
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
    # newer versions of QGIS write the coordinate system into a comment above the header
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
        at_column, at_row = table.number(line, str(column)), table.number(line, str(row))
        to_x, to_y = table.number(line, str(x)), table.number(line, str(y))
        if at_column is None or at_row is None or to_x is None or to_y is None:
            table.leave_out(line, "without four numbers")
            continue
        points.append(ControlPoint(float(at_column), -float(at_row), float(to_x), float(to_y)))
    if not points:
        raise UserError(f"{path} holds no enabled control points", "georeference the sheet again in QGIS")
    return points, crs


def _fit(points: Sequence[ControlPoint], path: Path, source: str, warnings: list[str]) -> Affine:
    """The least-squares affine transform of the control points; warns of how far it misses them."""
    pixels = np.array([(p.column, p.row, 1.0) for p in points])
    world = np.array([(p.x, p.y) for p in points])
    hint = "it needs at least three that are not on one line; or georeference the sheet with gdalwarp or QGIS"
    if not np.isfinite(pixels).all() or not np.isfinite(world).all():
        raise UserError(f"{path}: its control points {source} are not all numbers", hint)
    # centred before solving: map coordinates of millions beside pixels of hundreds are badly conditioned
    middle = world.mean(0)
    centred = pixels - [*pixels[:, :2].mean(0), 0]
    if len(points) < 3 or np.linalg.matrix_rank(centred, tol=1e-6 * max(float(np.abs(centred).max()), 1)) < 3:
        raise UserError(f"{path}: its {len(points)} control points {source} do not determine its position", hint)
    (a, d), (b, e), (c, f) = np.linalg.lstsq(centred, world - middle, rcond=None)[0]
    shift = Affine.translation(*-pixels[:, :2].mean(0))
    transform = Affine(a, b, c + middle[0], d, e, f + middle[1]) * shift
    _check_transform(transform, path)
    worst = 0.0
    for point in points:
        column, row = (~transform) * (point.x, point.y)
        worst = max(worst, math.hypot(column - point.column, row - point.row))
    text = f"placed by {len(points)} control points {source}, at most {worst:.1f} pixels off"
    if worst > _FAR:
        text += "; one transform does not fit them: rectify the sheet first (gdalwarp -order 2, or QGIS)"
    warnings.append(text)
    return transform


def _world_files(path: Path) -> list[Path]:
    """The world files beside a picture: scan.pgw, scan.pngw, scan.wld."""
    ending = path.suffix.lower().removeprefix(".")
    if not ending:
        return []
    short = f"{ending[0]}{ending[-1]}w"
    names = (f".{short}", f".{ending}w", ".wld", f".{short.upper()}", f".{ending.upper()}W", ".WLD")
    return [path.with_suffix(name) for name in names if path.with_suffix(name).is_file()]


def _check_world_file(path: Path) -> None:
    """A world file that lies beside a picture and was not understood is worth a word: the picture is not where the user thinks."""
    for beside in _world_files(path):
        words = beside.read_text(encoding="utf-8", errors="replace").split()
        try:
            numbers = [float(word.replace(",", ".")) for word in words]
        except ValueError:
            numbers = []
        # only the identity itself is both a valid world file and the transform of none
        if len(numbers) != 6 or numbers[:4] != [1, 0, 0, 1]:
            raise UserError(
                f"{beside} is not a valid world file", "it has six lines, one number each; correct or remove it"
            )
