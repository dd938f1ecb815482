"""Masks to vector files: polygons with area and probability, centre-lines with length, in GeoPackage or GeoJSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.features import geometry_mask
from shapely.geometry import LineString

from core_runtime.errors import UserError
from core_runtime.identity import refuse_inputs_as_outputs
from core_runtime.terminal import track
from remote_sensing.maps.results import NODATA
from remote_sensing.maps.sheets.georeference import place
from remote_sensing.maps.sheets.grid import Grid, parse_length, strips, to_map
from remote_sensing.maps.sheets.sheet import first_line
from remote_sensing.maps.sheets.vector_files import (
    DRIVERS,
    WGS84,
    NewLayer,
    check_format,
    transform_points,
    write_layers,
)
from remote_sensing.maps.vectors.centrelines import bridged, centre_lines, pruned
from remote_sensing.maps.vectors.options import VectorOptions
from remote_sensing.maps.vectors.polygons import Feature, polygonise, polygons_of, simplified, with_probability
from remote_sensing.rasters import UNREADABLE, open_raster

MOST_CLASSES = 64  # different values of a raster that is still a mask


@dataclass(frozen=True)
class Vectors:
    """Vector files that were written.

    Attributes:
        polygons: their number; `area` is their total in map units².
        lines: the number of centre-lines; `length` is their total in map units.
        files: layer → file.
        georeferenced: whether units are those of a map, or pixels.
        warnings: what the user should know.
    """

    polygons: int
    area: float
    lines: int
    length: float
    files: Mapping[str, str]
    georeferenced: bool
    warnings: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> list[str]:
        """Figures, warnings and files, a line each."""
        unit = "map units" if self.georeferenced else "pixels"
        areas = f"{self.polygons} polygons, {self.area:,.0f} {unit}²"
        lengths = f"{self.lines} centre-lines, {self.length:,.0f} {unit}"
        lines = [f"{areas}; {lengths}"]
        for warning in self.warnings:
            lines.append(f"Warning: {warning}")
        for layer, file in self.files.items():
            lines.append(f"  {layer}: {file}")
        return lines


@dataclass(frozen=True)
class CentreLine:
    """A centre-line in pixels, its class number, and the mean probability along it."""

    number: int
    geometry: LineString
    probability: float


def vector_files(out: Path, options: VectorOptions) -> dict[str, Path]:
    """The files that `vectorise` writes, by layer."""
    files = {"polygons": out}
    if options.centrelines:
        files["centrelines"] = out
        if out.suffix != ".gpkg":  # other formats hold a single layer
            files["centrelines"] = out.with_name(f"{out.stem}_centrelines{out.suffix}")
    return files


def vectorise(
    mask: Path,
    out: Path,
    options: VectorOptions = VectorOptions(),
    *,
    probability: Path | None = None,
    overwrite: bool = False,
) -> Vectors:
    """Writes the layer ``polygons`` (and ``centrelines``) of a mask to a GeoPackage, or beside each other as GeoJSON files.

    Args:
        mask: class numbers, 0 background, nodata or 255 outside.
        out: ``.gpkg``, ``.geojson``, ``.shp`` or ``.fgb``.
        options: sizes and layers.
        probability: the raster that `predict` wrote beside the mask.
        overwrite: replace existing files.

    Raises:
        UserError: not a mask, options that the coordinates rule out, results that are already there.
    """
    files = vector_files(out, options)
    check_format(out)
    inputs = [mask] if probability is None else [mask, probability]
    refuse_inputs_as_outputs(inputs, files.values())
    for file in files.values():
        if file.exists() and not overwrite:
            raise UserError(f"{file} is already there", "--overwrite replaces it, --out names another file")
    with ExitStack() as stack:
        mask_file = stack.enter_context(open_mask(mask))
        grid, warnings = place(mask_file, mask)
        check_wgs84(out, options, grid, mask)
        simplify = parse_length(options.simplify, grid, "--simplify")
        spur = parse_length(options.spur, grid, "--spur")
        gap = parse_length(options.gap, grid, "--gap")
        min_area = parse_length(options.min_area, grid, "--min-area", power=2)
        names = class_names(mask_file)
        nodata = NODATA if mask_file.nodata is None else int(mask_file.nodata)
        try:
            features = polygonise(
                _reader(mask_file),
                grid,
                connectivity=options.connectivity,
                nodata=nodata,
                min_area=min_area / grid.pixel**2,
            )
        except UNREADABLE as error:
            raise UserError(
                f"{mask} cannot be read ({first_line(error)})", "the file is damaged or incomplete"
            ) from None
        probabilities = None
        if probability is not None:
            probabilities = stack.enter_context(_open_probabilities(probability, grid))
            with_means = []
            for feature in track(features, "Probabilities", len(features)):
                read = _probability_reader(probabilities, feature.number)
                with_means.append(with_probability(feature, read, grid))
            features = with_means
        lines = []
        if options.centrelines:
            lines = _centre_lines(features, grid, spur, gap, probabilities)
    by_file: dict[Path, list[NewLayer]] = {}
    by_file.setdefault(files["polygons"], []).append(_polygon_layer(features, names, grid, simplify))
    if options.centrelines:
        by_file.setdefault(files["centrelines"], []).append(_line_layer(lines, names, grid, simplify))
    for file, layers in by_file.items():
        warnings += write_layers(file, layers, crs=grid.crs, wgs84=options.wgs84)
    return Vectors(
        polygons=len(features),
        # areas of pixels in map units²; lengths are measured on the map, where pixels need not be square
        area=sum(feature.geometry.area for feature in features) * grid.pixel**2,
        lines=len(lines),
        length=sum(to_map(line.geometry, grid.transform).length for line in lines),
        files={layer: str(file) for layer, file in files.items()},
        georeferenced=grid.georeferenced,
        warnings=warnings,
    )


def check_wgs84(out: Path, options: VectorOptions, grid: Grid, path: Path) -> None:
    """Makes sure that GeoJSON in WGS 84 is possible.

    Raises:
        UserError: the sheet's system cannot be transformed to WGS 84.
    """
    if DRIVERS.get(out.suffix.lower()) != "GeoJSON" or not options.wgs84 or grid.crs is None:
        return
    corners = np.array([grid.transform * (grid.width / 2, grid.height / 2)])
    transform_points(corners, grid.crs, WGS84, path)


def open_mask(path: Path) -> Any:
    """An open mask, a context manager.

    Raises:
        UserError: not a raster, or not of class numbers.
    """
    file = _open(path)
    try:
        _refuse_pictures(file, path)
    except UNREADABLE as error:
        file.close()
        raise UserError(f"{path} cannot be read ({first_line(error)})", "the file is damaged or incomplete") from None
    except UserError:
        file.close()
        raise
    return file


def _refuse_pictures(file: Any, path: Path) -> None:
    """Makes sure that a raster holds class numbers: a picture or probabilities would give thousands of objects, 0 and 255 none.

    Raises:
        UserError: it does not.
    """
    kind = file.dtypes[0]
    if kind != "uint8":
        raise UserError(
            f"{path}: a mask holds class numbers of 8 bits, this file {kind}", "give the _mask.tif of predict"
        )
    bands = [number for number in file.colorinterp if number != ColorInterp.alpha]
    if len(bands) != 1:
        raise UserError(
            f"{path}: a mask has one band of class numbers, this file {len(bands)}", "give the _mask.tif of predict"
        )
    if class_names(file):  # written by predict
        return
    if file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        raise UserError(f"{path} is a negative (MinIsWhite), in which 0 is a feature", "save it with 0 as background")
    counts = np.zeros(256, np.int64)
    for rows in strips(file.height, 2048):
        counts += np.bincount(_reader(file)(rows, slice(0, file.width)).ravel(), minlength=256)
    values = set(np.flatnonzero(counts).tolist())
    if len(values) > MOST_CLASSES:
        raise UserError(
            f"{path} holds {len(values)} different values: a picture or probabilities, not class numbers",
            "give the _mask.tif of predict",
        )
    if 255 in values and values <= {0, 255} and file.nodata is None:
        raise UserError(
            f"{path} holds 0 and 255, and 255 means no data in a mask: nothing on it is a feature",
            "save it with 0 and 1",
        )


def class_names(mask_file: Any) -> dict[int, str]:
    """Class number → name, from the tags of a mask; empty where it has none."""
    names = {}
    for tag, name in mask_file.tags().items():
        number = tag.removeprefix("CLASS_")
        if number != tag and number.isdigit() and int(number) > 0:
            names[int(number)] = name
    return names


def _open(path: Path) -> Any:
    try:
        return open_raster(path)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}", "give the files written by predict") from None


def _open_probabilities(path: Path, grid: Grid) -> Any:
    file = _open(path)
    if (file.height, file.width) != (grid.height, grid.width) or file.transform != grid.transform:
        file.close()
        raise UserError(f"{path} has another size or position than the mask", "give the _prob.tif written beside it")
    return file


Reader = Callable[[slice, slice], NDArray]


def _reader(file: Any, band: int = 1) -> Reader:
    def read(rows: slice, columns: slice) -> NDArray:
        return file.read(band, window=((rows.start, rows.stop), (columns.start, columns.stop)))

    return read


def _probability_reader(file: Any, number: int) -> Reader:
    """Reads the probability of a class: 0 to 254 as 0 to 1, NaN outside."""
    raw = _reader(file, min(number, file.count))

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        values = raw(rows, columns).astype(np.float32)
        return np.where(values == NODATA, np.nan, values / 254)

    return read


def _centre_lines(
    features: Sequence[Feature], grid: Grid, spur: float, gap: float, probabilities: Any
) -> list[CentreLine]:
    """The centre-lines of each class; `spur` and `gap` are map units."""
    spur, gap = spur / grid.pixel, gap / grid.pixel
    of_all_classes: list[CentreLine] = []
    for number in sorted({feature.number for feature in features}):
        lines: list[LineString] = []
        for feature in features:
            if feature.number == number:
                lines += _lines_of(feature, spur)
        # gaps are bridged between objects, so only once all lines of the class are known
        if gap > 0:
            lines = pruned(bridged(lines, gap, 40.0), spur)
        read = None
        if probabilities is not None:
            read = _probability_reader(probabilities, number)
        for line in lines:
            of_all_classes.append(CentreLine(number, line, _mean_along(line, read, grid)))
    return of_all_classes


def _lines_of(feature: Feature, spur: float) -> list[LineString]:
    """The centre-lines of one object, whose pixels are drawn in a frame of its own."""
    left, top, right, bottom = map(int, feature.geometry.bounds)
    corner = left - 1, top - 1  # a margin of one pixel: a skeleton must not end at the frame
    mask = ~geometry_mask([feature.geometry], (bottom - top + 2, right - left + 2), Affine.translation(*corner))
    return [shapely.transform(line, lambda points: points + corner) for line in centre_lines(mask, spur=spur)]


def _mean_along(line: LineString, read: Reader | None, grid: Grid) -> float:
    """The mean probability of the pixels at a line's vertices; NaN where none is known."""
    if read is None:
        return float("nan")
    points = np.clip(np.array(line.coords).astype(int), 0, (grid.width - 1, grid.height - 1))
    (left, top), (right, bottom) = points.min(0), points.max(0) + 1
    values = read(slice(top, bottom), slice(left, right))[points[:, 1] - top, points[:, 0] - left]
    if not np.isfinite(values).any():
        return float("nan")
    return float(np.nanmean(values))


def _polygon_layer(features: Sequence[Feature], names: Mapping[int, str], grid: Grid, tolerance: float) -> NewLayer:
    outlines, columns = [], {"class": [], "name": [], "area": [], "probability": []}
    for feature in features:
        # simplified on the map, where the tolerance is; that may make an outline cross itself
        outline = simplified(to_map(feature.geometry, grid.transform), tolerance)
        if not outline.is_valid:
            outline = shapely.make_valid(outline)
        pieces = polygons_of(outline)
        if not pieces:
            continue
        if len(pieces) == 1:
            outlines.append(pieces[0])
        else:
            outlines.append(shapely.multipolygons(pieces))
        columns["class"].append(feature.number)
        columns["name"].append(names.get(feature.number, str(feature.number)))
        columns["area"].append(feature.geometry.area * grid.pixel**2)
        columns["probability"].append(feature.probability)
    kind = "Polygon"
    if any(outline.geom_type == "MultiPolygon" for outline in outlines):  # a layer holds one kind
        kind = "MultiPolygon"
        outlines = [shapely.multipolygons(polygons_of(outline)) for outline in outlines]
    return NewLayer("polygons", kind, outlines, columns)


def _line_layer(lines: Sequence[CentreLine], names: Mapping[int, str], grid: Grid, tolerance: float) -> NewLayer:
    geometries, columns = [], {"class": [], "name": [], "length": [], "probability": []}
    for line in lines:
        on_map = to_map(line.geometry, grid.transform)
        geometries.append(simplified(on_map, tolerance))
        columns["class"].append(line.number)
        columns["name"].append(names.get(line.number, str(line.number)))
        columns["length"].append(on_map.length)
        columns["probability"].append(line.probability)
    return NewLayer("centrelines", "LineString", geometries, columns)
