"""What both groups do with rasters: opening without warnings about missing coordinates, mirroring at edges, writing COGs."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.shutil import copy as copy_raster

# GDAL keeps a twentieth of the machine's memory as its cache of blocks by default; windows in order need far less.
os.environ.setdefault("GDAL_CACHEMAX", "256")  # megabytes


def open_raster(path: Path | str, mode: str = "r", **profile: Any) -> Any:
    """`rasterio.open`, silent about files without georeferencing.

    Raises:
        rasterio.errors.RasterioError: it cannot be opened.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


def mirrored(pixels: NDArray, around: tuple[tuple[int, int], tuple[int, int]]) -> NDArray:
    """Continues pixels (bands, height, width) by reflection before and after its rows and columns, however few they are."""
    for axis, (before, after) in zip((1, 2), around, strict=True):
        n = pixels.shape[axis]
        if not before and not after:
            continue
        index = np.arange(-before, n + after)
        period = max(2 * n - 2, 1)
        index = np.abs((index + n - 1) % period - (n - 1)) if n > 1 else np.zeros_like(index)
        pixels = np.take(pixels, index, axis)
    return pixels


def write_cog(plain: Path, path: Path, *, overviews: str = "nearest") -> None:
    """Makes a Cloud Optimized GeoTIFF of a plain one, block by block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        copy_raster(plain, path, driver="COG", compress="deflate", overview_resampling=overviews, bigtiff="IF_SAFER")
