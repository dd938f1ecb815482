"""Sheets with what was found on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from remote_sensing.maps.results import COLOURS
from remote_sensing.maps.sheets.grid import Grid
from remote_sensing.maps.sheets.parts import Part
from remote_sensing.rasters import open_raster


def overlay(
    picture: NDArray[np.uint8], mask: NDArray, colours: Sequence[tuple[int, int, int]] = COLOURS
) -> NDArray[np.uint8]:
    """A picture (height, width, 3) with the classes 1, 2, … of a mask (height, width) laid over."""
    blended = picture.astype(np.float32)
    for number, colour in enumerate(colours, 1):
        here = mask == number
        blended[here] = 0.35 * blended[here] + 0.65 * np.array(colour, np.float32)
    return blended.astype(np.uint8)


def write_overlay(picture: NDArray[np.uint8], mask: Path, part: Part, grid: Grid, path: Path) -> Path:
    """Writes a preview of a sheet with the mask of a part of it laid over."""
    from PIL import Image
    from rasterio.enums import Resampling

    from core_runtime.folders import writing

    h, w = picture.shape[:2]
    top, bottom = (round(v * h / grid.height) for v in (part.rows.start, part.rows.stop))
    left, right = (round(v * w / grid.width) for v in (part.columns.start, part.columns.stop))
    # a part may be thinner than a pixel of the preview
    top, left = min(top, h - 1), min(left, w - 1)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    with open_raster(mask) as file:
        small = file.read(1, out_shape=(bottom - top, right - left), resampling=Resampling.nearest)
    blended = picture.copy()
    blended[top:bottom, left:right] = overlay(picture[top:bottom, left:right], small)
    with writing(path) as temporary:
        Image.fromarray(blended).save(temporary, format="PNG")
    return path


def write_comparison(image: NDArray[np.uint8], label: NDArray, predicted: NDArray, path: Path) -> Path:
    """Writes a tile (3, height, width), its truth and its prediction side by side."""
    from PIL import Image

    from core_runtime.folders import writing

    rgb = image.transpose(1, 2, 0)
    panels = np.concatenate([rgb, overlay(rgb, label), overlay(rgb, predicted)], 1)
    with writing(path) as temporary:
        Image.fromarray(panels).save(temporary, format="PNG")
    return path
