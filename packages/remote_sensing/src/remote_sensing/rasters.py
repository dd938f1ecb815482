"""Rasters for both groups: opening without warnings about missing coordinates, mirroring at edges, writing COGs."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as copy_raster

# GDAL keeps a twentieth of the machine's memory as its cache of blocks by default; windows in order need far less.
os.environ.setdefault("GDAL_CACHEMAX", "256")  # megabytes

# The errors of files that cannot be read. GDAL's own errors come through where rasterio reads an attribute (colours, tags); and rasterio decodes GDAL's
# messages strictly, while a damaged file puts any bytes into them.
UNREADABLE = (RasterioError, CPLE_BaseError, UnicodeDecodeError)


def open_raster(path: Path | str, mode: str = "r", **profile: Any) -> Any:
    """`rasterio.open`, silent about files without georeferencing.

    Raises:
        rasterio.errors.RasterioError: it cannot be opened (`UNREADABLE` is what to catch).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


def mirrored(pixels: NDArray, around: tuple[tuple[int, int], tuple[int, int]]) -> NDArray:
    """Continues pixels (bands, height, width) by reflection before and after its rows and columns, also by more than there are."""
    for axis, (before, after) in zip((1, 2), around, strict=True):
        n = pixels.shape[axis]
        if not before and not after:
            continue
        pixels = np.take(pixels, reflected(-before, n + after, n), axis)
    return pixels


def reflected(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """The rows (or columns) of a raster of `length` that stand for those from `start` to `stop` when it is continued by reflection."""
    index = np.arange(start, stop)
    if length == 1:
        return np.zeros_like(index)
    period = 2 * length - 2  # there and back; the edges themselves are not repeated
    return np.abs((index + length - 1) % period - (length - 1))


def write_cog(plain: Path, path: Path, *, overviews: str = "nearest") -> None:
    """Makes a Cloud Optimized GeoTIFF of a plain one, block by block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        copy_raster(plain, path, driver="COG", compress="deflate", overview_resampling=overviews, bigtiff="IF_SAFER")
