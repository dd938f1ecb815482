"""Map sheets as they come: any band order, palette, 16 bit, nodata in every form, with or without coordinates, read window by window."""

from __future__ import annotations

from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.georeference import place
from remote_sensing.maps.sheets.grid import crs_name, preview_shape
from remote_sensing.maps.sheets.options import SheetOptions
from remote_sensing.rasters import UNREADABLE, mirrored, open_raster

_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_INKS = (ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black)
# The values that decide the stretch from more than 8 bits: all of a sheet of up to this many pixels, else of windows all over it at full size.
# Overviews would be as good and as fast, but the same sheet with and without them would be stretched differently.
_WHOLE = 4_000_000
_WINDOWS, _WINDOW = 16, 128


class Sheet:
    """An open sheet; a context manager.

    Args:
        path: GeoTIFF, COG, or a picture with or without a world file, control points, or the ``.points`` of QGIS.
        options: how values of more than 8 bits become 8: "dtype" (the whole range of the type) or "percentile" (2 to 98 % of the whole sheet),
            never tile by tile; and the coordinate system, where the file does not state it.

    Attributes:
        grid: the positions of its pixels.
        warnings: what the user should know.

    Raises:
        UserError: not a raster, bands that are not a picture, or a transform that cannot be used.
    """

    def __init__(self, path: Path, options: SheetOptions = SheetOptions()) -> None:
        self.path, self.options = Path(path), options
        hint = "give a GeoTIFF or a picture of a map sheet"
        try:
            self.file = open_raster(path)
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read: {first_line(error)}", hint) from None
        try:
            self.bands = self._picture_bands()
            self.grid, self.warnings = place(self.file, self.path, options.crs)
            self.palette = self._palette()
        except UNREADABLE as error:  # damage that appears only when colours or position are read
            self.file.close()
            raise UserError(f"{path} cannot be read: {first_line(error)}", hint) from None
        except BaseException:
            self.file.close()
            raise
        structure = self.file.tags(ns="IMAGE_STRUCTURE")
        # GDAL gives values of 1, 2 or 4 bits as bytes, of 12 bits as 16; in a negative 0 is white
        self.bits = int(self.file.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 0))
        self.zero_is_white = structure.get("MINISWHITE") == "YES" and self.palette is None
        self.warnings += self._unused()

    def __enter__(self) -> Sheet:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def holds_data(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where the sheet holds data, at another size: nodata, masks, transparency, values that are not numbers."""
        valid = self.file.dataset_mask(out_shape=shape) > 0
        if np.dtype(self.file.dtypes[0]).kind == "f":
            valid &= np.isfinite(self.file.read(self.bands, out_shape=(len(self.bands), *shape))).all(0)
        return valid

    @property
    def facts(self) -> dict[str, Any]:
        file, transform = self.file, self.grid.transform
        bands = f"{file.count} of {file.dtypes[0]}"
        if self.palette is not None:
            bands += " with a palette"
        pixel = "1 pixel"
        if self.grid.georeferenced:
            pixel = f"{self.grid.pixel:g} map units"
        # GDAL's flags of a band: "nodata", "alpha"; "per_dataset" alone is a mask inside or beside the file
        flags: set[str] = set()
        for of_band in file.mask_flag_enums:
            flags.update(flag.name for flag in of_band)
        nodata = ", ".join(sorted(flags - {"all_valid", "per_dataset"}))
        if not nodata:
            nodata = "mask" if "per_dataset" in flags else "none"
        return {
            "size": f"{file.width} × {file.height} pixels",
            "bands": bands,
            "coordinate system": crs_name(self.grid.crs),
            "pixel": pixel,
            "turned": "yes" if transform.b or transform.d else "no",
            "nodata": nodata,
            "tiled": "yes" if file.profile.get("tiled") else "no (strips)",
            "overviews": len(file.overviews(1)),
        }

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """RGB (3, height, width) of a window and where it holds data; beyond the sheet it is mirrored, and holds none.

        Raises:
            UserError: the file is damaged there.
        """
        h, w = self.grid.height, self.grid.width
        top, bottom = max(rows.start, 0), min(rows.stop, h)
        left, right = max(columns.start, 0), min(columns.stop, w)
        window = Window(left, top, right - left, bottom - top)  # pyright: ignore[reportCallIssue]
        try:
            raw = self.file.read(self.bands, window=window)
            valid = self.file.dataset_mask(window=window) > 0
        except UNREADABLE as error:
            raise UserError(
                f"{self.path.name}: rows {top} to {bottom} cannot be read ({first_line(error)})",
                "the file is damaged or incomplete there",
            ) from None
        if raw.dtype.kind == "f":
            finite = np.isfinite(raw).all(0)
            valid &= finite
            raw = np.where(finite, raw, 0)
        rgb = self._to_rgb(raw)
        # mirrored in 8 bits: a palette's numbers are colours by now
        around = ((top - rows.start, rows.stop - bottom), (left - columns.start, columns.stop - right))
        if np.any(around):
            rgb, valid = mirrored(rgb, around), np.pad(valid, around)
        return rgb, valid

    def preview(self, longest: int = 1000) -> NDArray[np.uint8]:
        """A small picture (height, width, 3)."""
        shape = preview_shape(self.grid, longest)
        # colours have a mean, their numbers in a palette have none
        how = Resampling.average if self.palette is None else Resampling.nearest
        try:
            small = self.file.read(self.bands, out_shape=(len(self.bands), *shape), resampling=how)
        except UNREADABLE as error:
            raise UserError(
                f"{self.path.name} cannot be read ({first_line(error)})", "the file is damaged or incomplete"
            ) from None
        return self._to_rgb(small).transpose(1, 2, 0)

    def _to_rgb(self, raw: NDArray) -> NDArray[np.uint8]:
        """The values of the picture's bands as 8-bit RGB (3, height, width).

        In this order: palette, range, negative, inks. Each step expects the result of the one before.
        """
        if self.palette is not None:
            return self.palette[raw[0]].transpose(2, 0, 1)
        if raw.dtype != np.uint8:
            low, high = self.levels
            with np.errstate(over="ignore", invalid="ignore"):  # nodata of huge magnitude
                scaled = (raw.astype(np.float64) - low) / max(high - low, 1e-9)
            raw = np.rint(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)
        elif 0 < self.bits < 8:
            raw = (raw.astype(np.uint16) * 255 // (2**self.bits - 1)).astype(np.uint8)
        if self.zero_is_white:
            raw = 255 - raw
        if len(raw) == 4:
            # cyan, magenta, yellow, black: each ink takes its share of the light that black leaves
            light = 255 - raw.astype(np.uint16)
            raw = (light[:3] * light[3] // 255).astype(np.uint8)
        if len(raw) == 1:
            raw = np.repeat(raw, 3, 0)
        return raw

    def _picture_bands(self) -> list[int]:
        """Numbers (from 1) of the bands of the picture: red, green, blue in whatever order, four inks, or one grey.

        Raises:
            UserError: complex numbers, or an alpha channel alone.
        """
        file = self.file
        kinds = list(file.colorinterp)
        for colours in (_COLOURS, _INKS):
            if set(colours) <= set(kinds):
                return [kinds.index(colour) + 1 for colour in colours]
        plain = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
        if np.dtype(file.dtypes[0]).kind == "c" or not plain:
            raise UserError(
                f"{self.path}: {file.count} bands of {file.dtypes[0]} are not a picture", "give a scanned sheet"
            )
        if len(plain) >= 3:
            return plain[:3]
        return plain[:1]

    def _unused(self) -> list[str]:
        """What the file holds and is not looked at: bands beside those of the picture, EXIF's rotation."""
        unused = []
        others = [kind for kind in self.file.colorinterp if kind != ColorInterp.alpha]
        if len(others) > len(self.bands):
            taken = "the first is used as grey" if len(self.bands) == 1 else "three are used as red, green, blue"
            unused.append(f"{self.file.count} bands, not a picture: {taken}")
        if self.file.tags().get("EXIF_Orientation", "1") not in ("0", "1"):
            unused.append(
                "its EXIF says that it is to be turned: as in GDAL and QGIS, its pixels are taken as they are stored"
            )
        return unused

    def _palette(self) -> NDArray[np.uint8] | None:
        if self.file.colorinterp[0] != ColorInterp.palette:
            return None
        # a row for every value the type can hold, so that no pixel is outside of the table
        bits = 8 * np.dtype(self.file.dtypes[0]).itemsize
        table = np.zeros((max(256, 2**bits), 3), np.uint8)
        for number, colour in self.file.colormap(1).items():
            table[number] = colour[:3]
        return table

    @cached_property
    def levels(self) -> tuple[float, float]:
        """The values that become 0 and 255, of sheets with more than 8 bits. A warning states them."""
        kind = np.dtype(self.file.dtypes[0])
        if self.options.stretch == "dtype" and kind.kind in "ui":
            if self.bits and kind.kind == "u":
                return 0.0, float(2**self.bits - 1)
            return float(np.iinfo(kind).min), float(np.iinfo(kind).max)
        values, source = self._values()
        if not values.size:
            return 0.0, 1.0
        low, high = np.percentile(values.astype(np.float64), (2, 98))
        self.warnings.append(
            f"values of {kind} are stretched from {low:g} … {high:g} (2 to 98 % of {source}) to 8 bits"
        )
        return float(low), float(high)

    def _values(self) -> tuple[NDArray, str]:
        """Values of the whole sheet or of windows all over it, at full size, and a name for these places."""
        height, width = self.grid.height, self.grid.width
        windows, source = [(0, 0, height, width)], "the sheet"
        if height * width > _WHOLE:
            tops = np.linspace(0, max(height - _WINDOW, 0), _WINDOWS).astype(int)
            lefts = np.linspace(0, max(width - _WINDOW, 0), _WINDOWS).astype(int)
            windows = [(int(top), int(left), _WINDOW, _WINDOW) for top, left in product(tops, lefts)]
            source = f"{len(windows)} windows all over the sheet"
        values = []
        for top, left, rows, columns in windows:
            window = Window(left, top, min(columns, width - left), min(rows, height - top))  # pyright: ignore[reportCallIssue]
            try:
                raw = self.file.read(self.bands, window=window)
                raw = raw[:, self.file.dataset_mask(window=window) > 0]
            except UNREADABLE as error:
                raise UserError(
                    f"{self.path.name}: rows {top} to {top + rows} cannot be read ({first_line(error)})",
                    "the file is damaged or incomplete there",
                ) from None
            if raw.dtype.kind == "f":
                raw = raw[np.isfinite(raw)]
            values.append(raw.ravel())
        return np.concatenate(values), source


def first_line(error: Exception) -> str:
    """A library's error message in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
