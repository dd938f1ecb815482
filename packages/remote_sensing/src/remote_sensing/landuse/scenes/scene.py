"""Scenes of any size: a GeoTIFF or COG, a folder of band files, or a Sentinel-2 SAFE product, read window by window on one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from core_runtime.errors import UserError
from remote_sensing.landuse.scenes.bands import RGB, RGB_BANDS, picture, stretched
from remote_sensing.landuse.scenes.formats import is_safe
from remote_sensing.landuse.scenes.places import check_place, pixel_sides
from remote_sensing.landuse.scenes.products import sources_of_folder
from remote_sensing.landuse.scenes.sources import LEAST, Source, sources_of
from remote_sensing.rasters import UNREADABLE, open_raster, reflected

MISSING = -9999  # this and anything below mean "no data" in many products, even if the file does not say so


class Scene:
    """A scene whose pixels are read window by window; a context manager.

    Attributes:
        path: of the scene.
        kind: "GeoTIFF", "band files" or "SAFE".
        bands: names of its bands, ("R", "G", "B") for 8-bit pictures.
        height, width, transform, crs: of the finest band's grid.
        pixel_sides: of a pixel in metres, across and down; None if the file does not state them.
        warnings: what the user should know.
    """

    def __init__(self, path: Path, bands: Sequence[str] | None = None, *, quantification: float | None = None) -> None:
        """Opens a scene.

        Args:
            path: a GeoTIFF, a folder of band files, a SAFE product.
            bands: names of the file's bands in order, if it does not state them or states them wrongly.
            quantification: the value that stands for a reflectance of 1; default: from the file.

        Raises:
            UserError: it cannot be read, or its bands, values or grids are not understood.
        """
        self.path, self.warnings = Path(path), list[str]()
        self._files: list[Any] = []
        try:
            if self.path.is_dir():
                self.kind = "SAFE" if is_safe(self.path) else "band files"
                self._sources = sources_of_folder(self.path, self._open, quantification, self.warnings)
            else:
                self.kind = "GeoTIFF"
                file = self._open(self.path)
                self._sources = sources_of(file, self.path, bands, quantification, self.warnings)
            # all bands are read on the grid of the finest one
            finest = max((source.file for source in self._sources.values()), key=lambda file: file.width * file.height)
            self.height, self.width = finest.height, finest.width
            self.transform, self.crs = finest.transform, finest.crs
            check_place(finest, self.path, self.warnings)
        except UNREADABLE as error:
            self.close()
            raise UserError(f"{path} cannot be read: {error}", "give a GeoTIFF, a folder of bands or a .SAFE") from None
        except UserError:
            self.close()
            raise
        self.pixel_sides = pixel_sides(self.transform, self.crs, self.height, self.width)

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(self._sources)

    @property
    def pixel_size(self) -> float | None:
        """Side of a square of a pixel's area in metres."""
        if self.pixel_sides is None:
            return None
        return math.sqrt(self.pixel_sides[0] * self.pixel_sides[1])

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def check(self, bands: Sequence[str]) -> None:
        """Makes sure that a model of these bands can be used.

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
            bands: the model's; ("R", "G", "B") is made from bands 4, 3, 2 if the scene holds reflectances.
            rows: from and to, perhaps negative or past the end.
            columns: likewise; default: the whole width.
        """
        columns = columns or slice(0, self.width)
        # the rows and columns of the scene that mirror the requested ones, and the window that holds them all
        y = reflected(rows.start, rows.stop, self.height)
        x = reflected(columns.start, columns.stop, self.width)
        top, left, bottom, right = y.min(), x.min(), y.max() + 1, x.max() + 1
        window = Window(left, top, right - left, bottom - top)  # pyright: ignore[reportCallIssue]
        as_picture = tuple(bands) == RGB and self.bands != RGB
        names = tuple(bands)
        if as_picture:
            names = RGB_BANDS
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
        # beyond an edge the indices repeat or run backwards; inside they are the window itself, and no copy is made
        if len(y) > bottom - top or y[0] > y[-1]:
            pixels, valid = pixels[:, y - top], valid[y - top]
        if len(x) > right - left or x[0] > x[-1]:
            pixels, valid = pixels[:, :, x - left], valid[:, x - left]
        return pixels, valid

    def preview(self, longest: int = 900) -> NDArray[np.uint8]:
        """A small picture (height, width, 3): pictures as they are, reflectances stretched from their 2nd to their 98th percentile."""
        step = max(1.0, max(self.height, self.width) / longest)
        shape = (max(1, round(self.height / step)), max(1, round(self.width / step)))
        names = self.bands
        if self.bands != RGB:
            names = [band for band in RGB_BANDS if band in self._sources]
        if len(names) < 3:  # grey
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
        if (file.height, file.width) != (self.height, self.width):  # a band of 20 or 60 m, on the grid of 10 m
            fy, fx = file.height / self.height, file.width / self.width
            window = Window(window.col_off * fx, window.row_off * fy, window.width * fx, window.height * fy)  # pyright: ignore[reportCallIssue]
        try:
            layer = file.read(source.index, window=window, out_shape=shape, resampling=Resampling.nearest)
            mask = file.read_masks(source.index, window=window, out_shape=shape)
        except UNREADABLE as error:
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
            layer = layer.astype(np.float32) * source.scale + source.offset
        if source.is_reflectance and layer.dtype.kind != "u":
            # far below 0 there is no reflectance, but a value that stands for missing data; noise and haze removal give small ones
            valid &= layer >= LEAST
            layer = np.maximum(layer, 0)
        return layer, valid, is_zero

    def _open(self, path: Path) -> Any:
        file = open_raster(path)
        self._files.append(file)
        return file
