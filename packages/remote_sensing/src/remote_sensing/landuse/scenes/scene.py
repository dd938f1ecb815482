"""Scenes of any size: a GeoTIFF or COG, a folder of band files, or a Sentinel-2 SAFE product, read window by window on one grid.

Reflectances are given as Sentinel-2 products write them since 2015, × 10,000 and without offset, however the files spell them: scale and offset
of the file, the offset of products since 2022, values of 0 to 1. What cannot be told is refused, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.warp import transform as reproject
from rasterio.windows import Window

from core_runtime.errors import UserError
from remote_sensing.landuse.scenes.bands import (
    FILE_ORDER,
    RGB,
    RGB_BANDS,
    band_of,
    band_of_file,
    picture,
    stretched,
)
from remote_sensing.landuse.scenes.formats import SCENES, is_safe
from remote_sensing.rasters import open_raster, reflected

UNIT = 10_000.0  # what a reflectance of 1 is here
MISSING = -9999  # this and less mean "no data" in many products, also where the file does not say so
METRES_PER_DEGREE = 111_320.0
_DATE = re.compile(r"(?<!\d)(20\d{2}[01]\d[0-3]\d)(?:T\d{6})?(?!\d)")
_METADATA_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


@dataclass(frozen=True)
class Source:
    """One band of a scene: ``value · scale + offset`` is what the scene gives.

    Attributes:
        file: opened.
        index: of the band in it.
        zero_is_empty: whether the value 0 means that there is no data, as in Sentinel-2 products.
    """

    file: Any
    index: int
    scale: float = 1.0
    offset: float = 0.0
    zero_is_empty: bool = False


class Scene:
    """A scene whose pixels are read window by window; a context manager.

    Attributes:
        path: what was opened.
        kind: "GeoTIFF", "band files" or "SAFE".
        bands: names that are there, ("R", "G", "B") of 8-bit pictures.
        height, width, transform, crs: of the finest band's grid.
        pixel_size: side of a pixel in metres; None where the file does not say.
        warnings: what the user should know.
    """

    def __init__(self, path: Path, bands: Sequence[str] | None = None, *, quantification: float | None = None) -> None:
        """Opens a scene.

        Args:
            path: a GeoTIFF, a folder of band files, a SAFE product.
            bands: names of the file's bands in order, where it does not say them or says them wrongly.
            quantification: the value that means a reflectance of 1; read off the file where it is left out.

        Raises:
            UserError: it cannot be read, or its bands, values or grids are not understood.
        """
        self.path, self.warnings = Path(path), list[str]()
        self._files: list[Any] = []
        try:
            if self.path.is_dir():
                self.kind = "SAFE" if is_safe(self.path) else "band files"
                self._sources = self._open_folder(quantification)
            else:
                self.kind = "GeoTIFF"
                self._sources = self._open_file(bands, quantification)
            finest = max((source.file for source in self._sources.values()), key=lambda file: file.width * file.height)
            self.height, self.width = finest.height, finest.width
            self.transform, self.crs = finest.transform, finest.crs
            self._check_place(finest)
        except RasterioError as error:
            self.close()
            raise UserError(f"{path} cannot be read: {error}", "give a GeoTIFF, a folder of bands or a .SAFE") from None
        except UserError:
            self.close()
            raise
        self.pixel_size = pixel_size(self.transform, self.crs, self.height, self.width)

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def check(self, bands: Sequence[str]) -> None:
        """Whether a model of these bands can be used.

        Raises:
            UserError: bands that the scene does not have, named.
        """
        if tuple(bands) == RGB and (self.bands == RGB or set(RGB_BANDS) <= set(self.bands)):
            return
        missing = [band for band in bands if band not in self._sources]
        if missing:
            raise UserError(
                f"{self.path}: the model needs the bands {', '.join(missing)}, the scene has {', '.join(self.bands)}",
                "name them with --bands (in the order of the file), or train on the bands that the scene has (train --bands)",
            )

    def read(
        self, bands: Sequence[str], rows: slice, columns: slice | None = None
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Pixels (bands, height, width) of some rows, and where they hold data (height, width); both mirrored beyond the scene's edges.

        Args:
            bands: what the model takes; ("R", "G", "B") is made of bands 4, 3, 2 where the scene holds reflectances.
            rows: from and to, also negative or past the end.
            columns: likewise; the whole width if left out.
        """
        columns = columns or slice(0, self.width)
        # which rows and columns of the scene stand for those asked for, and the window that holds them
        y = reflected(rows.start, rows.stop, self.height)
        x = reflected(columns.start, columns.stop, self.width)
        top, left, bottom, right = y.min(), x.min(), y.max() + 1, x.max() + 1
        window = Window(left, top, right - left, bottom - top)  # pyright: ignore[reportCallIssue]
        as_picture = tuple(bands) == RGB and self.bands != RGB
        names = RGB_BANDS if as_picture else tuple(bands)
        layers, valid = [], np.ones((bottom - top, right - left), bool)
        empty = np.full(valid.shape, self.bands != RGB)  # where every band is 0: no surface reflects nothing at all
        for name in names:
            layer, has_data, is_zero = self._layer(self._sources[name], window)
            layers.append(layer)
            valid &= has_data
            empty &= is_zero
        valid &= ~empty
        pixels = np.stack(layers)
        if as_picture:
            pixels = picture(pixels)
        if len(y) > bottom - top or y[0] > y[-1]:
            pixels, valid = pixels[:, y - top], valid[y - top]
        if len(x) > right - left or x[0] > x[-1]:
            pixels, valid = pixels[:, :, x - left], valid[:, x - left]
        return pixels, valid

    def preview(self, longest: int = 900) -> NDArray[np.uint8]:
        """A small picture (height, width, 3): pictures as they are, reflectances stretched from their 2nd to their 98th percentile."""
        step = max(1.0, max(self.height, self.width) / longest)
        shape = (max(1, round(self.height / step)), max(1, round(self.width / step)))
        names = self.bands if self.bands == RGB else [band for band in RGB_BANDS if band in self._sources]
        if len(names) < 3:
            names = [self.bands[0]] * 3
        layers = []
        valid = np.ones(shape, bool)
        for name in names:
            source = self._sources[name]
            layer = source.file.read(source.index, out_shape=shape)
            mask = source.file.read_masks(source.index, out_shape=shape)
            valid &= mask > 0
            if self.bands != RGB:
                valid &= layer != 0
            layers.append(layer)
        pixels = np.nan_to_num(np.stack(layers))
        if self.bands == RGB:
            return pixels.astype(np.uint8).transpose(1, 2, 0)
        return stretched(pixels, valid).transpose(1, 2, 0)

    def _layer(self, source: Source, window: Window) -> tuple[NDArray, NDArray[np.bool_], NDArray[np.bool_]]:
        """The values of a band, where they hold data, and where the file holds 0."""
        file = source.file
        shape = (int(window.height), int(window.width))
        if (file.height, file.width) != (self.height, self.width):  # a band of 20 or 60 m on the grid of 10 m
            fy, fx = file.height / self.height, file.width / self.width
            window = Window(window.col_off * fx, window.row_off * fy, window.width * fx, window.height * fy)  # pyright: ignore[reportCallIssue]
        try:
            layer = file.read(source.index, window=window, out_shape=shape, resampling=Resampling.nearest)
            mask = file.read_masks(source.index, window=window, out_shape=shape)
        except RasterioError as error:
            reason = f"rows from {int(window.row_off)} cannot be read ({error})"
            raise UserError(f"{file.name}: {reason}", "the file is damaged") from None
        valid = mask > 0
        if layer.dtype.kind in "if":
            valid &= layer > MISSING
        if layer.dtype.kind == "f":
            finite = np.isfinite(layer)
            valid &= finite
            layer = np.where(finite, layer, 0)
        is_zero = layer == 0
        if source.zero_is_empty:
            valid &= ~is_zero
        if source.scale != 1 or source.offset:
            layer = np.maximum(layer.astype(np.float32) * source.scale + source.offset, 0)
        return layer, valid, is_zero

    def _open(self, path: Path) -> Any:
        file = open_raster(path)
        self._files.append(file)
        return file

    def _open_file(self, bands: Sequence[str] | None, quantification: float | None) -> dict[str, Source]:
        """The bands of one file, by what it says of them."""
        file = self._open(self.path)
        indices = [i for i, colour in enumerate(file.colorinterp) if colour != ColorInterp.alpha]
        if bands is not None:
            names = self._given_names(bands, len(indices))
        else:
            names = self._names_of(file, indices)
        named = {name: index for name, index in zip(names, indices, strict=True) if name}
        if file.dtypes[0] == "uint8" and set(named) == set(RGB_BANDS) and quantification is None:
            named = {"R": named["B04"], "G": named["B03"], "B": named["B02"]}
        if tuple(named) == RGB:
            if file.dtypes[0] != "uint8":
                raise UserError(f"{self.path}: R, G, B are 8-bit pictures, these values are {file.dtypes[0]}")
            return {name: Source(file, index + 1) for name, index in named.items()}
        scale = self._scale(file, list(named.values()), quantification)
        sources = {}
        for name, i in named.items():
            sources[name] = Source(file, i + 1, file.scales[i] * scale, file.offsets[i] * scale)
        return sources

    def _given_names(self, bands: Sequence[str], count: int) -> list[str]:
        if len(bands) != count:
            raise UserError(
                f"{self.path} has {count} bands, {len(bands)} names were given", "name every band with --bands"
            )
        names = [name.upper() if name.upper() in RGB else band_of(name) or "" for name in bands]
        unknown = [name for name, band in zip(bands, names, strict=True) if not band]
        if unknown:
            raise UserError(
                f"--bands: {', '.join(unknown)} is not a band of Sentinel-2", f"known: {', '.join(FILE_ORDER)}"
            )
        self._refuse_twice(names)
        return names

    def _names_of(self, file: Any, indices: Sequence[int]) -> list[str]:
        """A name for each band, "" for one that is not a band of Sentinel-2."""
        descriptions = [file.descriptions[i] or "" for i in indices]
        if any(descriptions):
            names = [band_of(text) or "" for text in descriptions]
            if not any(names):
                raise UserError(
                    f"{self.path}: its bands are called {', '.join(map(repr, descriptions[:4]))} …, which is not understood",
                    "say which they are, in the order of the file: --bands B02,B03,B04,B08",
                )
            others = [text or "(no name)" for text, name in zip(descriptions, names, strict=True) if not name]
            if others:
                self.warnings.append(f"{len(others)} bands are not used: {', '.join(others[:6])}")
            self._refuse_twice([name for name in names if name])
            return names
        if len(indices) == len(RGB) and file.dtypes[0] == "uint8":
            colours = {file.colorinterp[i]: name for i, name in zip(indices, RGB, strict=True)}
            order = {ColorInterp.red: "R", ColorInterp.green: "G", ColorInterp.blue: "B"}
            if set(colours) == set(order):
                return [order[file.colorinterp[i]] for i in indices]
            return list(RGB)
        if len(indices) == len(FILE_ORDER):
            self.warnings.append("the file names no bands: EuroSAT's order is assumed (B8A last); --bands says another")
            return list(FILE_ORDER)
        raise UserError(
            f"{self.path} has {len(indices)} bands of {file.dtypes[0]} without names",
            "say which they are, in the order of the file: --bands B02,B03,B04,B08",
        )

    def _refuse_twice(self, names: Sequence[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                hint = "say which each is, in the order of the file: --bands B02,B03,B04,B08"
                raise UserError(f"{self.path}: two bands are called {name}", hint)

    def _scale(self, file: Any, indices: Sequence[int], quantification: float | None) -> float:
        """The factor from the file's values (after its own scale and offset) to reflectance × 10,000.

        Raises:
            UserError: the values cannot be reflectances of 0 to 1, nor these × 10,000.
        """
        if quantification is not None:
            return UNIT / quantification
        hint = "--quantification says which value means a reflectance of 1"
        if all(file.dtypes[i] in ("uint8", "int8") for i in indices):
            raise UserError(f"{self.path}: {len(indices)} bands of 8-bit values are not reflectances", hint)
        values = _sample(file, indices)
        if not len(values):
            return 1.0  # nothing but missing data, which is said where the scene is read
        high = float(np.percentile(values, 99.9))
        if high > 100 and high <= 30_000:
            return 1.0
        is_whole = file.dtypes[indices[0]].startswith(("int", "uint")) and file.scales[indices[0]] == 1
        if high <= 2 and not is_whole:
            self.warnings.append("reflectances of 0 to 1 are taken × 10,000")
            return UNIT
        if high <= 100 and is_whole:  # a dark scene
            return 1.0
        raise UserError(
            f"{self.path}: values up to {high:g} are neither reflectances of 0 to 1 nor these × 10,000", hint
        )

    def _open_folder(self, quantification: float | None) -> dict[str, Source]:
        """The finest file of each band; all of one place and one date."""
        candidates: dict[str, list[Path]] = {}
        for path in sorted(self.path.rglob("*")):
            name = band_of_file(path.stem)
            if name is None or path.suffix.lower() not in SCENES or {"QI_DATA", "HTML"} & set(path.parts):
                continue
            candidates.setdefault(name, []).append(path)
        if not candidates:
            hint = "give a .SAFE folder or a folder of bands"
            raise UserError(f"{self.path}: no band files (B02.tif, …_B02_10m.jp2)", hint)
        self._refuse_mixed_dates(path for paths in candidates.values() for path in paths)
        files: dict[str, Path] = {}
        for name, paths in candidates.items():
            best = min(paths, key=_resolution)
            if sum(_resolution(path) == _resolution(best) for path in paths) > 1:
                names = ", ".join(path.name for path in paths[:3])
                raise UserError(f"{self.path}: the band {name} is there twice ({names})", "give a folder of one scene")
            files[name] = best
        opened = {name: self._open(files[name]) for name in FILE_ORDER if name in files}
        self._refuse_mixed_places(opened)
        offsets, unit = _metadata(self.path)
        self._check_baseline(offsets)
        if any(offsets.values()):
            self.warnings.append("the product's radiometric offset is taken off, as in the products of before 2022")
        sources = {}
        for name, file in opened.items():
            if self.kind == "SAFE":
                scale = UNIT / (quantification or unit)
                sources[name] = Source(file, 1, scale, offsets.get(name, 0.0) * scale, zero_is_empty=True)
            else:
                scale = self._scale(file, [0], quantification)
                sources[name] = Source(file, 1, file.scales[0] * scale, file.offsets[0] * scale, zero_is_empty=True)
        self.warnings = list(dict.fromkeys(self.warnings))
        return sources

    def _check_baseline(self, offsets: Mapping[str, float]) -> None:
        """Since baseline 04.00 (January 2022) every value has an offset, which the metadata say."""
        baseline = re.search(r"_N(\d{4})_", self.path.name)
        if self.kind == "SAFE" and baseline and "0400" <= baseline[1] < "9000" and not offsets:
            raise UserError(
                f"{self.path}: a product of baseline {baseline[1]} without offsets in MTD_MSIL*.xml",
                "its metadata are missing or damaged: download the product again",
            )

    def _refuse_mixed_dates(self, paths: Iterable[Path]) -> None:
        dates = sorted({match[1] for path in paths for match in [_DATE.search(path.name)] if match})
        if len(dates) > 1:
            raise UserError(
                f"{self.path}: its bands are of {len(dates)} dates ({', '.join(dates[:4])})",
                "put the bands of each date into a folder of their own",
            )

    def _refuse_mixed_places(self, files: Mapping[str, Any]) -> None:
        """All bands must have one coordinate system and cover the same ground."""
        first_name, first = next(iter(files.items()))
        for name, file in files.items():
            if file.crs != first.crs:
                systems = f"{first_name} in {_spelled(first.crs)}, {name} in {_spelled(file.crs)}"
                raise UserError(
                    f"{self.path}: its bands have different coordinate systems ({systems})",
                    "project them to one (gdalwarp -t_srs), or put each scene into a folder of its own",
                )
            tolerance = max(abs(file.transform.a), abs(first.transform.a), abs(file.transform.b))
            if any(abs(a - b) > tolerance for a, b in zip(file.bounds, first.bounds, strict=True)):
                raise UserError(
                    f"{self.path}: the bands {first_name} and {name} do not cover the same ground",
                    "crop them to one extent (gdalwarp -te), or put each scene into a folder of its own",
                )

    def _check_place(self, file: Any) -> None:
        """Refuses coordinates that would be lost or mean nothing."""
        numbers = tuple(self.transform)[:6]
        if not all(map(math.isfinite, numbers)) or self.transform.determinant == 0:
            hint = "mend the world file or the GeoTIFF's transform"
            raise UserError(f"{self.path}: its coordinates are degenerate (transform {numbers})", hint)
        unused = [path.name for path in _world_files(self.path) if path.is_file()]
        if self.transform.is_identity and unused:
            raise UserError(f"{self.path}: its world file {unused[0]} is degenerate", "mend it, or take it away")
        if self.transform.is_identity and file.gcps[0]:
            raise UserError(
                f"{self.path} holds {len(file.gcps[0])} ground control points, which are not applied to its pixels",
                "apply them first: gdalwarp -t_srs EPSG:… SCENE OUT.tif",
            )
        if self.crs is None:
            self.warnings.append("no coordinate system: the map has the same pixel grid and none either")


def pixel_size(transform: Any, crs: Any, height: int, width: int) -> float | None:
    """The side of a pixel on the ground in metres, at the middle of the scene; None where the file does not say."""
    if crs is None:
        return None
    row, column = height / 2, width / 2
    corners = [transform * (column, row), transform * (column + 1, row), transform * (column, row + 1)]
    try:
        longitudes, latitudes = reproject(crs, "EPSG:4326", *zip(*corners, strict=True))[:2]
    except Exception:  # a local system: rasterio and PROJ raise what they like
        return None
    metres = METRES_PER_DEGREE * math.cos(math.radians(latitudes[0]))
    across = (metres * (longitudes[1] - longitudes[0]), METRES_PER_DEGREE * (latitudes[1] - latitudes[0]))
    down = (metres * (longitudes[2] - longitudes[0]), METRES_PER_DEGREE * (latitudes[2] - latitudes[0]))
    area = abs(across[0] * down[1] - across[1] * down[0])
    return area**0.5 if math.isfinite(area) and area > 0 else None


def _world_files(path: Path) -> Iterable[Path]:
    """Where the world file of a picture would be: scan.pgw, scan.pngw, scan.wld."""
    ending = path.suffix.lower().removeprefix(".")
    if not ending:
        return []
    return [path.with_suffix(f".{name}") for name in (f"{ending[0]}{ending[-1]}w", f"{ending}w", "wld")]


def _sample(file: Any, indices: Sequence[int], windows: int = 4, side: int = 64) -> NDArray[np.float64]:
    """Values of some windows spread over a file, with its own scale and offset; without missing ones and zeros."""
    values = []
    bands = [i + 1 for i in indices]
    for row in range(windows):
        for column in range(windows):
            top = int((file.height - min(side, file.height)) * row / max(windows - 1, 1))
            left = int((file.width - min(side, file.width)) * column / max(windows - 1, 1))
            window = Window(left, top, min(side, file.width), min(side, file.height))  # pyright: ignore[reportCallIssue]
            try:
                layers = file.read(bands, window=window).astype(np.float64)
                valid = file.read_masks(bands, window=window) > 0
            except RasterioError as error:
                raise UserError(
                    f"{file.name}: rows from {top} cannot be read ({error})", "the file is damaged"
                ) from None
            for layer, has_data, i in zip(layers, valid, indices, strict=True):
                usable = has_data & np.isfinite(layer) & (layer != 0)
                values.append(layer[usable] * file.scales[i] + file.offsets[i])
    return np.concatenate(values)


def _spelled(crs: Any) -> str:
    return crs.to_string() if crs else "none"


def _resolution(path: Path) -> int:
    """Metres per pixel that a file's name says; 0 where it says none."""
    match = re.search(r"_(10|20|60)m$", path.stem)
    return int(match[1]) if match else 0


def _metadata(folder: Path) -> tuple[dict[str, float], float]:
    """What is added to every value, by band (−1000 in products since baseline 04.00), and the value of a reflectance of 1."""
    for path in folder.glob("MTD_MSIL*.xml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        entries = re.findall(r'<(?:RADIO|BOA)_ADD_OFFSET\s+band_id="(\d+)">\s*(-?\d+)\s*<', text)
        offsets = {_METADATA_ORDER[int(i)]: float(v) for i, v in entries if int(i) < len(_METADATA_ORDER)}
        unit = re.search(r"<(?:BOA_)?QUANTIFICATION_VALUE[^>]*>\s*(\d+(?:\.\d+)?)\s*<", text)
        return offsets, float(unit[1]) if unit and float(unit[1]) > 0 else UNIT
    return {}, UNIT
