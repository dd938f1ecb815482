"""Scenes of any size: a GeoTIFF or COG, a folder of band files, or a Sentinel-2 SAFE product, read window by window on one grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from core_runtime.errors import UserError
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, band_of, picture
from remote_sensing.landuse.scenes.formats import SCENES, is_safe
from remote_sensing.rasters import mirrored, open_raster


@dataclass(frozen=True)
class _Source:
    """One band: an open file, the number of the band in it, and what is subtracted from its values."""

    file: Any
    index: int
    offset: float = 0.0


class Scene:
    """A scene whose pixels are read window by window; a context manager.

    Attributes:
        path: what was opened.
        kind: "GeoTIFF", "band files" or "SAFE".
        bands: names that are there, ("R", "G", "B") of 8-bit pictures; empty names of bands that say none.
        height, width, transform, crs: of the finest band's grid.
        warnings: what a person should know.
    """

    def __init__(self, path: Path, bands: Sequence[str] | None = None) -> None:
        self.path, self.warnings = Path(path), list[str]()
        self._files: list[Any] = []
        try:
            self.kind = "SAFE" if is_safe(self.path) else "band files" if self.path.is_dir() else "GeoTIFF"
            self._sources = self._folder() if self.path.is_dir() else self._file(bands)
        except RasterioError as error:
            self.close()
            raise UserError(f"{path} cannot be read: {error}", "give a GeoTIFF, a folder of bands or a .SAFE") from None
        except UserError:
            self.close()
            raise
        finest = max((s.file for s in self._sources.values()), key=lambda f: f.width * f.height)
        self.height, self.width = finest.height, finest.width
        self.transform, self.crs = finest.transform, finest.crs
        if self.crs is None:
            self.warnings.append("no coordinate system: the map has the same pixel grid and none either")

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
        if tuple(bands) == RGB and (self.bands == RGB or {"B04", "B03", "B02"} <= set(self.bands)):
            return
        missing = [b for b in bands if b not in self._sources]
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
        top, bottom = max(rows.start, 0), min(rows.stop, self.height)
        left, right = max(columns.start, 0), min(columns.stop, self.width)
        window = Window(left, top, right - left, bottom - top)  # pyright: ignore[reportCallIssue]
        wanted = ("B04", "B03", "B02") if tuple(bands) == RGB and self.bands != RGB else tuple(bands)
        layers, valid = [], np.ones((bottom - top, right - left), bool)
        for name in wanted:
            source = self._sources[name]
            layer, there = self._layer(source, window)
            layers.append(layer)
            valid &= there
        pixels = np.stack(layers)
        if wanted != tuple(bands):
            pixels = picture(pixels)
        around = ((top - rows.start, rows.stop - bottom), (left - columns.start, columns.stop - right))
        if any(sum(a) for a in around):
            pixels, valid = mirrored(pixels, around), mirrored(valid[None], around)[0]
        return pixels, valid

    def preview(self, longest: int = 900) -> NDArray[np.uint8]:
        """A small picture (height, width, 3)."""
        step = max(1.0, max(self.height, self.width) / longest)
        shape = (max(1, round(self.height / step)), max(1, round(self.width / step)))
        names = self.bands if self.bands == RGB else [b for b in ("B04", "B03", "B02") if b in self._sources]
        names = list(names) if len(names) == 3 else [self.bands[0]] * 3
        layers = [
            self._sources[n].file.read(self._sources[n].index, out_shape=shape) - self._sources[n].offset for n in names
        ]
        pixels = np.stack(layers)
        return (pixels.astype(np.uint8) if self.bands == RGB else picture(pixels)).transpose(1, 2, 0)

    def _layer(self, source: _Source, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        file = source.file
        shape = (int(window.height), int(window.width))
        if (file.height, file.width) != (self.height, self.width):  # a band of 20 or 60 m on the grid of 10 m
            fy, fx = file.height / self.height, file.width / self.width
            window = Window(window.col_off * fx, window.row_off * fy, window.width * fx, window.height * fy)  # pyright: ignore[reportCallIssue]
        try:
            layer = file.read(source.index, window=window, out_shape=shape, resampling=Resampling.nearest)
            mask = file.read_masks(source.index, window=window, out_shape=shape)
        except RasterioError as error:
            raise UserError(
                f"{file.name}: rows from {int(window.row_off)} cannot be read ({error})", "the file is damaged"
            ) from None
        valid = mask > 0
        if layer.dtype.kind == "f":
            valid &= np.isfinite(layer)
            layer = np.where(np.isfinite(layer), layer, 0)
        return (layer if not source.offset else np.maximum(layer.astype(np.float32) - source.offset, 0)), valid

    def _open(self, path: Path) -> Any:
        file = open_raster(path)
        self._files.append(file)
        return file

    def _file(self, bands: Sequence[str] | None) -> dict[str, _Source]:
        file = self._open(self.path)
        names = list(bands or _named(file.descriptions))
        alpha = [i for i, c in enumerate(file.colorinterp) if c == ColorInterp.alpha]
        indices = [i for i in range(file.count) if i not in alpha]
        if not names:
            if len(indices) == 3 and file.dtypes[0] == "uint8":
                order = {c: i for i, c in enumerate(file.colorinterp)}
                wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
                if all(c in order for c in wanted):
                    indices = [order[c] for c in wanted]
                names = list(RGB)
            elif len(indices) == len(FILE_ORDER):
                names = list(FILE_ORDER)
                self.warnings.append(
                    "the file names no bands: EuroSAT's order is assumed (B8A last); --bands says another"
                )
            else:
                raise UserError(
                    f"{self.path} has {len(indices)} bands of {file.dtypes[0]} without names",
                    "say which they are, in the order of the file: --bands B02,B03,B04,B08",
                )
        if len(names) != len(indices):
            raise UserError(
                f"{self.path} has {len(indices)} bands, {len(names)} names were given", "name every band with --bands"
            )
        return {name: _Source(file, i + 1) for name, i in zip(names, indices, strict=True)}

    def _folder(self) -> dict[str, _Source]:
        files: dict[str, Path] = {}
        for path in sorted(self.path.rglob("*")):
            name = band_of(path.stem, in_a_name=True)
            if name is None or path.suffix.lower() not in SCENES or {"QI_DATA", "HTML"} & set(path.parts):
                continue
            if name not in files or _resolution(path) < _resolution(files[name]):
                files[name] = path
        if not files:
            raise UserError(
                f"{self.path}: no band files (B02.tif, …_B02_10m.jp2)", "give a .SAFE folder or a folder of bands"
            )
        offsets = _offsets(self.path)
        opened = {name: _Source(self._open(path), 1, offsets.get(name, 0.0)) for name, path in files.items()}
        if any(offsets.values()):
            self.warnings.append("the product's radiometric offset is taken off, as in the products of before 2022")
        return {name: opened[name] for name in FILE_ORDER if name in opened}


def _resolution(path: Path) -> int:
    found = re.search(r"_(10|20|60)m$", path.stem)
    return int(found[1]) if found else 0


def _named(descriptions: Sequence[str | None]) -> list[str]:
    """Band names out of the file's descriptions, where every band says one."""
    names = [band_of(text or "") for text in descriptions]
    return [name for name in names if name] if all(names) else []


def _offsets(folder: Path) -> dict[str, float]:
    """What newer products add to every value (baseline 04.00 and later: −1000 is written), by band."""
    for path in folder.glob("MTD_MSIL*.xml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        order = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
        found = re.findall(r'<(?:RADIO|BOA)_ADD_OFFSET\s+band_id="(\d+)">(-?\d+)<', text)
        return {order[int(i)]: -float(v) for i, v in found if int(i) < len(order)}
    return {}
