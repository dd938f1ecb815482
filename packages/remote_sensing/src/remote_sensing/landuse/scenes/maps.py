"""Maps as files: Cloud Optimized GeoTIFFs of class numbers, of confidence and of attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.folders import writing
from remote_sensing.landuse.scenes.classes import NODATA, colours
from remote_sensing.rasters import open_raster, write_cog


def write_map(path: Path, classes_map: NDArray[np.uint8], transform: Any, crs: Any, classes: Sequence[str]) -> Path:
    """A Cloud Optimized GeoTIFF of class numbers with colour table, class names in its tags and 255 for "no data"."""
    from matplotlib.colors import to_rgb

    table, tags = {}, {}
    for number, (name, colour) in enumerate(zip(classes, colours(classes), strict=True)):
        red, green, blue = (round(255 * value) for value in to_rgb(colour))
        table[number] = (red, green, blue, 255)
        tags[f"CLASS_{number}"] = name
    return _write(path, classes_map, transform, crs, NODATA, tags, table)


def write_layer(path: Path, layer: NDArray[np.float32], transform: Any, crs: Any, what: str) -> Path:
    """A Cloud Optimized GeoTIFF of confidence or attention; NaN for "no data"."""
    return _write(path, layer, transform, crs, float("nan"), {"LAYER": what}, None)


def _write(
    path: Path, layer: NDArray, transform: Any, crs: Any, nodata: float, tags: dict[str, str], table: Any
) -> Path:
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "dtype": layer.dtype.name, "nodata": nodata, "crs": crs}
    profile |= {"height": layer.shape[0], "width": layer.shape[1], "transform": transform}
    with writing(path) as temporary:
        # a COG cannot be written in place: overviews come before the pixels, which must be known by then
        plain = temporary.with_suffix(".plain.part")
        try:
            with open_raster(plain, "w", **profile) as file:
                file.write(layer, 1)
                file.update_tags(**tags)
                if table is not None:
                    file.write_colormap(1, table)
            write_cog(plain, temporary)
        finally:
            plain.unlink(missing_ok=True)
    return path
