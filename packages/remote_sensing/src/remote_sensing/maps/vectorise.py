"""Masks to vector files: polygons with area and probability, centre-lines with length, in GeoPackage or GeoJSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask
from shapely.geometry import LineString

from core_runtime.cli import track
from core_runtime.errors import UserError
from remote_sensing.maps.centrelines import bridged, centre_lines, pruned
from remote_sensing.maps.features import write_layer
from remote_sensing.maps.sheets import Grid, parse_length
from remote_sensing.maps.vectors import Feature, parts, polygonise, simplified, to_map, with_probability
from remote_sensing.rasters import open_raster


@dataclass(frozen=True)
class VectorOptions:
    """How a mask becomes vectors; lengths and areas are in map units, or in pixels as ``12px``.

    Attributes:
        min_area: smaller objects are left out.
        simplify: how far a simplified outline may be from the true one.
        connectivity: 8 joins pixels over corners, 4 does not.
        centrelines: also (or, of line features, instead) centre-lines.
        spur: dead ends shorter than this are pruned.
        gap: ends at most this far apart that point at each other are joined.
        rfc7946: whether GeoJSON is reprojected to WGS 84.
    """

    min_area: str = "0"
    simplify: str = "0.7px"
    connectivity: int = 8
    centrelines: bool = False
    spur: str = "10px"
    gap: str = "12px"
    rfc7946: bool = True


def vectorise(
    mask: Path,
    out: Path,
    options: VectorOptions,
    *,
    probability: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the layer ``polygons`` (and ``centrelines``) of a mask to a GeoPackage, or beside each other as GeoJSON files.

    Args:
        mask: class numbers, 0 background, nodata or 255 outside.
        out: ``.gpkg``, ``.geojson``, ``.shp`` or ``.fgb``.
        probability: the raster that `predict` wrote beside the mask.

    Raises:
        UserError: no mask, options that the coordinates do not allow, results that are already there.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another file")
    with _opened(mask) as file:
        grid = Grid(file.height, file.width, file.transform, file.crs)
        sizes = {
            n: parse_length(getattr(options, n), grid, f"--{n.replace('_', '-')}") for n in ("simplify", "spur", "gap")
        }
        least = parse_length(options.min_area, grid, "--min-area", power=2)
        names = {
            int(k.removeprefix("CLASS_")): v
            for k, v in file.tags().items()
            if k.startswith("CLASS_") and k[6:].isdigit()
        }
        nodata = 255 if file.nodata is None else int(file.nodata)
        if file.dtypes[0] != "uint8":
            raise UserError(
                f"{mask}: a mask holds class numbers of 8 bits, this one {file.dtypes[0]}",
                "give the _mask.tif of predict",
            )
        read = _reader(file)
        unit = grid.pixel**2
        found = polygonise(read, grid, connectivity=options.connectivity, nodata=nodata, min_area=least / unit)
        with _opened(probability) if probability else _Nothing() as likely:
            found = _judged(found, likely, grid, progress)
            lines = _lines(found, grid, sizes, likely) if options.centrelines else []
    written = {"polygons": str(out)}
    _write_polygons(out, found, names, grid, sizes["simplify"], options)
    if options.centrelines:
        beside = out if out.suffix == ".gpkg" else out.with_name(f"{out.stem}_centrelines{out.suffix}")
        _write_lines(beside, lines, names, grid, sizes["simplify"], options)
        written["centrelines"] = str(beside)
    length = sum(to_map(line, grid.transform).length for _, line, _ in lines)
    area = sum(f.geometry.area for f in found) * unit
    return {
        "polygons": len(found),
        "area": area,
        "lines": len(lines),
        "length": length,
        "files": written,
        "georeferenced": grid.georeferenced,
    }


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        pass


def _opened(path: Path) -> Any:
    from rasterio.errors import RasterioError

    try:
        return open_raster(path)
    except RasterioError as error:
        raise UserError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", "give the _mask.tif that predict wrote"
        ) from None


def _reader(file: Any, band: int = 1) -> Any:
    def read(rows: slice, columns: slice) -> NDArray:
        return file.read(band, window=((rows.start, rows.stop), (columns.start, columns.stop)))

    return read


def _probabilities(file: Any, number: int) -> Any:
    """Reads the probability of a class: 0 to 254 as 0 to 1, NaN outside."""
    raw = _reader(file, min(number, file.count))

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        values = raw(rows, columns).astype(np.float32)
        return np.where(values == 255, np.nan, values / 254)

    return read


def _judged(found: list[Feature], likely: Any, grid: Grid, progress: bool) -> list[Feature]:
    if likely is None:
        return found
    if (likely.height, likely.width) != (grid.height, grid.width):
        raise UserError(
            f"{likely.name} has another size than the mask", "give the _prob.tif that was written beside it"
        )
    todo = track(found, "Probabilities", len(found)) if progress else found
    return [with_probability(f, _probabilities(likely, f.number), grid) for f in todo]


def _lines(
    found: list[Feature], grid: Grid, sizes: dict[str, float], likely: Any
) -> list[tuple[int, LineString, float]]:
    """Class, line (pixels) and mean probability along it."""
    spur, gap = sizes["spur"] / grid.pixel, sizes["gap"] / grid.pixel
    made: list[tuple[int, LineString, float]] = []
    for number in sorted({f.number for f in found}):
        lines: list[LineString] = []
        for feature in (f for f in found if f.number == number):
            left, top, right, bottom = (int(v) for v in feature.geometry.bounds)
            shape = (bottom - top + 2, right - left + 2)
            mask = ~geometry_mask([feature.geometry], shape, Affine.translation(left - 1, top - 1))
            lines += [
                shapely.transform(line, lambda p, at=(left - 1, top - 1): p + at)
                for line in centre_lines(mask, spur=spur)
            ]
        if gap > 0:
            lines = pruned(bridged(lines, gap, 40.0), spur)
        read = _probabilities(likely, number) if likely is not None else None
        made += [(number, line, _along(line, read, grid)) for line in lines]
    return made


def _along(line: LineString, read: Any, grid: Grid) -> float:
    if read is None:
        return float("nan")
    points = np.clip(np.array(line.coords).astype(int), 0, (grid.width - 1, grid.height - 1))
    (left, top), (right, bottom) = points.min(0), points.max(0) + 1
    values = read(slice(top, bottom), slice(left, right))[points[:, 1] - top, points[:, 0] - left]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _write_polygons(
    out: Path, found: list[Feature], names: dict[int, str], grid: Grid, tolerance: float, options: VectorOptions
) -> None:
    geometries, rows = [], []
    for feature in found:
        shape = simplified(to_map(feature.geometry, grid.transform), tolerance)
        shape = shape if shape.is_valid else shapely.make_valid(shape)
        pieces = parts(shape)
        if not pieces:
            continue
        geometries.append(pieces[0] if len(pieces) == 1 else shapely.multipolygons(pieces))
        area = feature.geometry.area * grid.pixel**2
        rows.append((feature.number, names.get(feature.number, str(feature.number)), area, feature.probability))
    kind = "MultiPolygon" if any(g.geom_type == "MultiPolygon" for g in geometries) else "Polygon"
    if kind == "MultiPolygon":
        geometries = [shapely.multipolygons(parts(g)) for g in geometries]
    _write(
        out, geometries, rows, ("class", "name", "area", "probability"), kind, "polygons", grid, options, append=False
    )


def _write_lines(
    out: Path,
    lines: list[tuple[int, LineString, float]],
    names: dict[int, str],
    grid: Grid,
    tolerance: float,
    options: VectorOptions,
) -> None:
    geometries = [simplified(to_map(line, grid.transform), tolerance) for _, line, _ in lines]
    rows = [(n, names.get(n, str(n)), to_map(line, grid.transform).length, p) for n, line, p in lines]
    columns = ("class", "name", "length", "probability")
    _write(out, geometries, rows, columns, "LineString", "centrelines", grid, options, append=out.suffix == ".gpkg")


def _write(
    out: Path,
    geometries: list[Any],
    rows: list[tuple],
    columns: tuple[str, ...],
    kind: str,
    layer: str,
    grid: Grid,
    options: VectorOptions,
    *,
    append: bool,
) -> None:
    data = {c: [r[i] for r in rows] for i, c in enumerate(columns)}
    write_layer(out, geometries, data, crs=grid.crs, kind=kind, layer=layer, rfc7946=options.rfc7946, append=append)
