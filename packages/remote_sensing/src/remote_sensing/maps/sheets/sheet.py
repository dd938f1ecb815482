"""Map sheets as they come: any band order, palette, 16 bit, nodata in every form, with or without coordinates, read window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.grid import crs_name, grid_of, preview_shape
from remote_sensing.rasters import mirrored, open_raster

_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


class Sheet:
    """An open sheet; a context manager.

    Args:
        path: GeoTIFF, COG, or a picture with or without a world file.
        stretch: how values of more than 8 bits become 8: "dtype" (the whole range of the type) or "percentile" (2 to 98 % of the whole sheet);
            never tile by tile.

    Attributes:
        grid: where its pixels lie.
        warnings: what the user should know.

    Raises:
        UserError: not a raster, or bands that are not a picture.
    """

    def __init__(self, path: Path, *, stretch: str = "percentile") -> None:
        self.path, self.warnings = Path(path), list[str]()
        try:
            self.file = open_raster(path)
        except RasterioError as error:
            raise UserError(
                f"{path} cannot be read: {first_line(error)}", "give a GeoTIFF or a picture of a map sheet"
            ) from None
        self.bands = self._picture_bands()
        file = self.file
        self.grid = grid_of(file)
        if not self.grid.georeferenced:
            self.warnings.append("no coordinates in or beside the file: results are in pixels")
        elif file.crs is None:
            self.warnings.append("a transform but no coordinate system: results have none either")
        self.palette = self._palette()
        self.low, self.high = self._range(stretch)

    def __enter__(self) -> Sheet:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def facts(self) -> dict[str, Any]:
        file = self.file
        flags = {f.name for flags in file.mask_flag_enums for f in flags}
        return {
            "size": f"{file.width} × {file.height} pixels",
            "bands": f"{file.count} of {file.dtypes[0]}" + (" with a palette" if self.palette is not None else ""),
            "coordinate system": crs_name(file.crs),
            "pixel": f"{self.grid.pixel:g} map units" if self.grid.georeferenced else "1 pixel",
            "turned": "yes" if file.transform.b or file.transform.d else "no",
            "nodata": ", ".join(sorted(flags - {"all_valid", "per_dataset"}))
            or ("mask" if "per_dataset" in flags else "none"),
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
        except RasterioError as error:
            raise UserError(
                f"{self.path.name}: rows {top} to {bottom} cannot be read ({first_line(error)})",
                "the file is damaged or incomplete there",
            ) from None
        if raw.dtype.kind == "f":
            finite = np.isfinite(raw).all(0)
            valid &= finite
            raw = np.where(finite, raw, 0)
        rgb = self._to_rgb(raw)
        around = ((top - rows.start, rows.stop - bottom), (left - columns.start, columns.stop - right))
        if any(sum(a) for a in around):
            rgb, valid = mirrored(rgb, around), np.pad(valid, around)
        return rgb, valid

    def preview(self, longest: int = 1000) -> NDArray[np.uint8]:
        """A small picture (height, width, 3)."""
        shape = preview_shape(self.grid, longest)
        # colours have a mean, their numbers in a palette have none
        how = Resampling.average if self.palette is None else Resampling.nearest
        small = self.file.read(self.bands, out_shape=(len(self.bands), *shape), resampling=how)
        return self._to_rgb(small).transpose(1, 2, 0)

    def _to_rgb(self, raw: NDArray) -> NDArray[np.uint8]:
        if self.palette is not None:
            return self.palette[raw[0]].transpose(2, 0, 1)
        if raw.dtype != np.uint8:
            with np.errstate(over="ignore", invalid="ignore"):  # nodata of huge magnitude
                scaled = (raw.astype(np.float64) - self.low) / max(self.high - self.low, 1e-9)
            raw = np.rint(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)
        return np.repeat(raw, 3, 0) if len(raw) == 1 else raw

    def _picture_bands(self) -> list[int]:
        file = self.file
        kinds = list(file.colorinterp)
        if all(c in kinds for c in _COLOURS):
            return [kinds.index(c) + 1 for c in _COLOURS]
        plain = [i + 1 for i, c in enumerate(kinds) if c != ColorInterp.alpha]
        if np.dtype(file.dtypes[0]).kind == "c" or not plain:
            raise UserError(
                f"{self.path}: {file.count} bands of {file.dtypes[0]} are not a picture", "give a scanned sheet"
            )
        return plain[:3] if len(plain) >= 3 else plain[:1]

    def _palette(self) -> NDArray[np.uint8] | None:
        if self.file.colorinterp[0] != ColorInterp.palette:
            return None
        table = np.zeros((max(256, 2 ** (8 * np.dtype(self.file.dtypes[0]).itemsize)), 3), np.uint8)
        for number, colour in self.file.colormap(1).items():
            table[number] = colour[:3]
        return table

    def _range(self, stretch: str) -> tuple[float, float]:
        kind = np.dtype(self.file.dtypes[0])
        if kind == np.uint8 or self.palette is not None:
            return 0.0, 255.0
        if stretch == "dtype" and kind.kind in "ui":
            return float(np.iinfo(kind).min), float(np.iinfo(kind).max)
        shape = preview_shape(self.grid, 1000)
        values = self.file.read(self.bands, out_shape=(len(self.bands), *shape))
        values = values[:, self.file.dataset_mask(out_shape=shape) > 0]
        values = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
        if not values.size:
            return 0.0, 1.0
        low, high = np.percentile(values.astype(np.float64), (2, 98))
        self.warnings.append(
            f"values of {kind} are stretched from {low:g} … {high:g} (2 to 98 % of the sheet) to 8 bits"
        )
        return float(low), float(high)

    @property
    def has_mask(self) -> bool:
        return any(MaskFlags.all_valid not in flags for flags in self.file.mask_flag_enums)


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
