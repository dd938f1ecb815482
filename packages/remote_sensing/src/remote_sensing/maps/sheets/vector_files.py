"""Vector files: polygons and lines in and out, GeoPackage and RFC 7946 GeoJSON, with the sheet's coordinate system or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from core_runtime.errors import UserError
from core_runtime.folders import writing
from remote_sensing.maps.sheets.formats import split_layer

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".json": "GeoJSON", ".fgb": "FlatGeobuf"}


@dataclass(frozen=True)
class Layer:
    """Geometries with columns, in one coordinate system (WKT; None: pixels)."""

    geometries: list[BaseGeometry]
    columns: Mapping[str, list[Any]]
    crs: str | None


def read_layer(path: Path | str) -> Layer:
    """A layer of a vector file; of several, one must be named (``roads.gpkg|layername=railways``).

    Raises:
        UserError: it cannot be read, holds several layers, or no geometries.
    """
    from pyogrio import list_layers, raw
    from pyogrio.errors import DataLayerError, DataSourceError

    file, layer = split_layer(path)
    try:
        names = [str(n) for n, _ in list_layers(file)]
        if layer is None and len(names) > 1:
            raise UserError(f"{file} holds the layers {', '.join(names)}", f"name one: '{file}|layername={names[0]}'")
        meta, _, geometry, fields = raw.read(file, layer=layer)
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}",
            "give a GeoPackage, GeoJSON or Shapefile",
        ) from None
    shapes = [] if geometry is None else list(shapely.from_wkb(geometry))
    there = [i for i, s in enumerate(shapes) if s is not None and not s.is_empty]
    if not there:
        raise UserError(f"{path} holds no geometries", "give polygons, lines or points")
    columns = {str(n): [v[i] for i in there] for n, v in zip(meta["fields"], fields, strict=True)}
    return Layer([shapes[i] for i in there], columns, meta["crs"])


def in_crs(layer: Layer, crs: Any) -> list[BaseGeometry]:
    """The geometries in another coordinate system; as they are where either side has none."""
    if layer.crs is None or crs is None:
        return layer.geometries
    from rasterio.crs import CRS
    from rasterio.warp import transform as move

    source = CRS.from_user_input(layer.crs)
    if source == crs:
        return layer.geometries

    def moved(points: np.ndarray) -> np.ndarray:
        made = move(source, crs, points[:, 0].tolist(), points[:, 1].tolist())
        return np.stack([made[0], made[1]], 1)

    return list(shapely.transform(np.array(layer.geometries), moved))


def write_layer(
    path: Path,
    geometries: Sequence[BaseGeometry],
    columns: Mapping[str, Sequence[Any]],
    *,
    crs: Any,
    kind: str,
    layer: str | None = None,
    wgs84: bool = True,
    append: bool = False,
) -> Path:
    """Writes a layer; GeoJSON is reprojected to WGS 84 as RFC 7946 asks, where the coordinate system is known.

    Args:
        kind: "Polygon" or "LineString".
        wgs84: False keeps GeoJSON in the sheet's own coordinates.
        append: a further layer of a GeoPackage that is there.

    Raises:
        UserError: an ending that is no vector format.
    """
    from pyogrio import raw

    driver = _DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise UserError(f"{path.name}: unknown vector format", f"known endings: {', '.join(_DRIVERS)}")
    options: dict[str, Any] = {}
    if driver == "GeoJSON" and crs is not None and wgs84:
        options["RFC7946"] = "YES"
    data = [np.array(list(v), dtype=object if v and isinstance(v[0], str) else None) for v in columns.values()]
    data = [np.zeros(0) if not len(d) else d for d in data]
    wkt = crs.to_wkt() if crs is not None else None

    def save(target: Path) -> None:
        raw.write(
            target,
            np.array([shapely.to_wkb(g) for g in geometries], dtype=object),
            data,
            np.array(list(columns), dtype=object),
            geometry_type=kind,
            crs=wkt,
            driver=driver,
            layer=layer or path.stem,
            append=append,
            layer_options=options or None,
        )

    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'crs' was not provided.*")
        if append:
            save(path)
        else:
            with writing(path) as temporary:
                part = temporary.with_suffix(path.suffix)  # the driver goes by the ending
                try:
                    save(part)
                    part.replace(temporary)
                finally:
                    part.unlink(missing_ok=True)
    return path
