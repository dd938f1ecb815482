"""Vector files: polygons and lines in and out, GeoPackage and RFC 7946 GeoJSON, with the sheet's coordinate system or none."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from shapely.errors import ShapelyError
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from core_runtime.errors import UserError, clean
from core_runtime.folders import writing
from core_runtime.terminal import warn
from remote_sensing.maps.sheets.formats import split_layer
from remote_sensing.maps.sheets.georeference import parse_crs
from remote_sensing.maps.sheets.grid import crs_name

DRIVERS = {
    ".gpkg": "GPKG",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
    ".fgb": "FlatGeobuf",
    ".shp": "ESRI Shapefile",
}
WGS84 = CRS.from_epsg(4326)


@dataclass(frozen=True)
class Layer:
    """Geometries with columns, in one coordinate system (None: unknown, or pixels)."""

    geometries: list[BaseGeometry]
    columns: Mapping[str, list[Any]]
    crs: CRS | None


def read_layer(path: Path | str, *, crs: str | None = None) -> Layer:
    """A layer of a vector file; of several, one must be named (``roads.gpkg|layername=railways``).

    Args:
        path: the file, perhaps with a layer.
        crs: the coordinate system given by the user; it takes precedence over the file's.

    Raises:
        UserError: it cannot be read, holds several layers, no geometries, or coordinates that its system does not have.
    """
    from pyogrio import list_layers, raw

    file, layer = split_layer(path)
    if not file.exists():
        raise UserError(f"no such file: {file}", "give a GeoPackage, GeoJSON or Shapefile")
    try:
        names = [str(name) for name, _ in list_layers(file)]
        if layer is None and len(names) > 1:
            raise UserError(f"{file} holds the layers {', '.join(names)}", f"name one: '{file}|layername={names[0]}'")
        meta, _, encoded, fields = raw.read(file, layer=layer, force_2d=True)
        shapes = [] if encoded is None else list(shapely.from_wkb(encoded))
        system = CRS.from_user_input(meta["crs"]) if meta["crs"] else None
    except (OSError, ValueError, RuntimeError, ShapelyError, CRSError) as error:  # pyogrio's own are RuntimeErrors
        reason = clean((str(error).splitlines() or [""])[0])
        raise UserError(f"{path} cannot be read: {reason}", "give a GeoPackage, GeoJSON or Shapefile") from None
    # numbers of the features, because the columns must lose the same rows
    usable = []
    for number, geometry in enumerate(shapes):
        if geometry is not None and not geometry.is_empty and _is_finite(geometry):
            usable.append(number)
    if not usable:
        raise UserError(f"{path} holds no geometries", "give polygons, lines or points")
    if len(usable) < len(shapes):
        warn(f"{len(shapes) - len(usable)} of {len(shapes)} features of {file.name} have no geometry and are left out")
    if crs is not None:
        system = parse_crs(crs, "the coordinate system of the vectors")
    geometries = _mended([shapes[i] for i in usable], file)
    _check_degrees(geometries, system, file)
    columns: dict[str, list[Any]] = {}
    for name, values in zip(meta["fields"], fields, strict=True):
        columns[str(name)] = [values[i] for i in usable]
    return Layer(geometries, columns, system)


def _mended(geometries: list[BaseGeometry], path: Path) -> list[BaseGeometry]:
    """Polygons that cross themselves, which have no area that could be compared, as the parts that they enclose."""
    broken = [number for number, geometry in enumerate(geometries) if not geometry.is_valid]
    for number in broken:
        geometries[number] = shapely.make_valid(geometries[number])
    if broken:
        warn(f"{len(broken)} of {len(geometries)} geometries of {path.name} cross themselves: mended")
    return geometries


def _is_finite(geometry: BaseGeometry) -> bool:
    return bool(np.isfinite(shapely.get_coordinates(geometry)).all())


def _check_degrees(geometries: Sequence[BaseGeometry], crs: CRS | None, path: Path) -> None:
    """GeoJSON that states no system is in degrees by its standard; files in metres without a word are common.

    Raises:
        UserError: coordinates that cannot be degrees.
    """
    if crs is None or not crs.is_geographic:
        return
    left, bottom, right, top = shapely.total_bounds(geometries)
    # longitudes may run on past the antimeridian
    if max(-left, right) > 540 or max(-bottom, top) > 91:
        raise UserError(
            f"{path}: its coordinates ({left:,.0f}, {bottom:,.0f}) are not degrees, as {crs_name(crs)} requires",
            "--labels-crs EPSG:CODE sets their system (for --labels and --truth), or write it into the file",
        )


def in_crs(layer: Layer, crs: Any, path: Path | str = "the vectors") -> list[BaseGeometry]:
    """The geometries in another coordinate system; unchanged where either side has none, which is said.

    Raises:
        UserError: the one system cannot be transformed to the other.
    """
    if layer.crs is None and crs is not None:
        warn(f"{path} does not state its coordinate system: that of the sheet is assumed, {crs_name(crs)}")
    if layer.crs is None or crs is None or layer.crs == crs:
        return layer.geometries
    return [_moved(geometry, layer.crs, crs, path) for geometry in layer.geometries]


def _moved(geometry: BaseGeometry, source: CRS, target: CRS, path: Path | str) -> BaseGeometry:
    return shapely.transform(geometry, lambda points: transform_points(points, source, target, path))


def transform_points(points: NDArray, source: CRS, target: CRS, path: Path | str) -> NDArray:
    """Points (n, 2) in another coordinate system.

    Raises:
        UserError: they do not exist in it.
    """
    from rasterio.warp import transform

    try:
        x, y = transform(source, target, points[:, 0].tolist(), points[:, 1].tolist())[:2]
    except Exception as error:  # those of GDAL and PROJ have no public class
        reason = clean((str(error).splitlines() or [type(error).__name__])[0])
        raise UserError(
            f"{path}: {crs_name(source)} cannot be transformed to {crs_name(target)} ({reason})",
            "give both in one coordinate system, or keep the sheet's own (--keep-crs, GeoPackage)",
        ) from None
    moved = np.stack([x, y], 1)
    if not np.isfinite(moved).all():
        raise UserError(
            f"{path}: some of its coordinates in {crs_name(source)} do not exist in {crs_name(target)}",
            "check its coordinate system",
        )
    return moved


@dataclass(frozen=True)
class NewLayer:
    """A layer to be written.

    Attributes:
        name: of the layer.
        kind: "Polygon", "MultiPolygon" or "LineString".
        geometries, columns: one value per feature.
    """

    name: str
    kind: str
    geometries: Sequence[BaseGeometry]
    columns: Mapping[str, Sequence[Any]]


def write_layer(path: Path, layer: NewLayer, *, crs: CRS | None, wgs84: bool = True) -> list[str]:
    """Writes one layer as `write_layers` does."""
    return write_layers(path, [layer], crs=crs, wgs84=wgs84)


def write_layers(path: Path, layers: Sequence[NewLayer], *, crs: CRS | None, wgs84: bool = True) -> list[str]:
    """Writes layers to one file, all or none; returns what the user should know.

    Args:
        path: its ending determines the format; only GeoPackage holds several layers.
        layers: at least one.
        crs: their coordinate system.
        wgs84: GeoJSON is reprojected as RFC 7946 requires, where the system is known; False keeps the sheet's coordinates.

    Raises:
        UserError: an ending that is not a vector format, or coordinates that do not exist in WGS 84.
    """
    check_format(path)
    notes: list[str] = []
    options: dict[str, Any] = {}
    if DRIVERS[path.suffix.lower()] == "GeoJSON" and wgs84:
        if crs is None:
            notes.append(f"no coordinate system is known: other programs will read {path.name} as degrees")
        else:
            layers = [_in_degrees(layer, crs, path, notes) for layer in layers]
            crs = WGS84
            options["RFC7946"] = "YES"
    with writing(path) as temporary:
        if path.suffix.lower() == ".shp":
            # a shapefile is several files: the .shp appears last, so that whoever sees it sees all of them
            temporary.mkdir()
            _save(temporary / path.name, layers, crs, options)
            for file in temporary.iterdir():
                if file.name != path.name:
                    file.replace(path.with_name(file.name))
            (temporary / path.name).replace(temporary.with_suffix(".shp"))
            temporary.rmdir()
            temporary.with_suffix(".shp").replace(temporary)
        else:
            part = temporary.with_suffix(path.suffix)  # the driver is chosen by the ending
            try:
                _save(part, layers, crs, options)
                part.replace(temporary)
            finally:
                part.unlink(missing_ok=True)
    return notes


def check_format(path: Path) -> None:
    """Makes sure that a name's ending is a vector format.

    Raises:
        UserError: it is not.
    """
    if path.suffix.lower() not in DRIVERS:
        raise UserError(f"{path.name}: unknown vector format", f"known endings: {', '.join(DRIVERS)}")


def _save(path: Path, layers: Sequence[NewLayer], crs: CRS | None, options: dict[str, Any]) -> None:
    from pyogrio import raw

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'crs' was not provided.*")
        # names of a shapefile's columns have at most 10 letters
        warnings.filterwarnings("ignore", message=".*Normalized/laundered field name.*")
        name_of_file = path.stem if path.suffix.lower() == ".shp" else None
        for number, layer in enumerate(layers):
            raw.write(
                path,
                np.array([shapely.to_wkb(geometry) for geometry in layer.geometries], dtype=object),
                [_column(values) for values in layer.columns.values()],
                np.array(list(layer.columns), dtype=object),
                geometry_type=layer.kind,
                crs=None if crs is None else crs.to_wkt(),
                driver=DRIVERS[path.suffix.lower()],
                layer=name_of_file or layer.name,
                append=number > 0,
                layer_options=options or None,
            )


def _column(values: Sequence[Any]) -> NDArray:
    if not len(values):
        return np.zeros(0)
    if isinstance(values[0], str):
        return np.array(list(values), dtype=object)
    return np.array(list(values))


def _in_degrees(layer: NewLayer, crs: CRS, path: Path, notes: list[str]) -> NewLayer:
    """A layer in WGS 84 as RFC 7946 requires: cut at the antimeridian and at the poles, in the range of degrees."""
    if crs.is_geographic and len(layer.geometries):
        _, bottom, _, top = shapely.total_bounds(list(layer.geometries))
        if max(-bottom, top) > 90:
            notes.append(f"{layer.name} reach beyond the poles and were cut there")
    geometries, rows = [], []
    for number, geometry in enumerate(layer.geometries):
        pieces = list(_cut(_to_degrees(geometry, crs, path)))
        if not pieces:
            continue
        rows.append(number)
        if len(pieces) == 1:
            geometries.append(pieces[0])
        elif isinstance(pieces[0], Polygon):
            geometries.append(shapely.multipolygons(pieces))
        else:
            geometries.append(shapely.multilinestrings(pieces))
    if len(rows) < len(layer.geometries):
        notes.append(f"{len(layer.geometries) - len(rows)} {layer.name} are beyond the poles and were left out")
    kinds = {geometry.geom_type for geometry in geometries}
    kind = next(iter(kinds), layer.kind)
    if len(kinds) > 1:
        kind = "Unknown"  # a line that was cut is a MultiLineString beside whole ones
    columns = {}
    for name, values in layer.columns.items():
        columns[name] = [values[row] for row in rows]
    return NewLayer(layer.name, kind, geometries, columns)


def _to_degrees(geometry: BaseGeometry, crs: CRS, path: Path) -> BaseGeometry:
    """In longitudes that run on over the antimeridian instead of jumping by 360°."""

    def moved(points: NDArray) -> NDArray:
        degrees = transform_points(points, crs, WGS84, path)
        # PROJ brings longitudes into ±180°; the whole turns of the input are given back
        if crs.is_geographic:
            degrees[:, 0] += 360 * np.round((points[:, 0] - degrees[:, 0]) / 360)
        return degrees

    geometry = shapely.transform(geometry, moved)
    if crs.is_geographic:
        return geometry
    first = shapely.get_coordinates(geometry)[0, 0]

    def run_on(ring: Any) -> NDArray:
        """The points of a ring or line without jumps, in the same turn as the geometry's first point."""
        points = shapely.get_coordinates(ring)
        points[:, 0] = np.unwrap(points[:, 0], period=360)
        points[:, 0] += 360 * np.round((first - points[0, 0]) / 360)
        return points

    pieces = []
    for piece in shapely.get_parts(geometry):
        if isinstance(piece, Polygon):
            pieces.append(Polygon(run_on(piece.exterior), [run_on(ring) for ring in piece.interiors]))
        else:
            pieces.append(LineString(run_on(piece)))
    if len(pieces) == 1:
        return pieces[0]
    return shapely.multipolygons(pieces) if isinstance(pieces[0], Polygon) else shapely.multilinestrings(pieces)


def _cut(geometry: BaseGeometry) -> Iterable[BaseGeometry]:
    """The pieces of a geometry between -180 and 180°, -90 and 90°, outlines counter-clockwise."""
    left, bottom, right, top = geometry.bounds
    if left >= -180 and right <= 180 and bottom >= -90 and top <= 90:
        yield from _oriented(geometry)
        return
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    # one window for each turn around the earth that the geometry touches
    pieces = []
    for turn in range(int(np.floor((left + 180) / 360)), int(np.ceil((right - 180) / 360)) + 1):
        window = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
        piece = shapely.intersection(geometry, window)
        pieces.append(shapely.transform(piece, lambda points, by=360 * turn: points - (by, 0)))
    if geometry.area > 0:
        # an area that goes around the earth meets itself
        pieces = [shapely.union_all(pieces)]
    for piece in pieces:
        yield from _oriented(piece)


def _oriented(geometry: BaseGeometry) -> Iterable[BaseGeometry]:
    for piece in shapely.get_parts(geometry):
        if isinstance(piece, Polygon) and piece.area > 0:
            yield shapely.orient_polygons(piece)
        elif isinstance(piece, LineString) and piece.length > 0:
            yield piece
        elif piece.geom_type == "GeometryCollection":
            yield from _oriented(piece)
