"""Pictures of sheets under their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core_runtime.folders import writing
from remote_sensing.maps.results import COLOURS
from remote_sensing.maps.sheets.grid import Grid
from remote_sensing.maps.sheets.parts import Part
from remote_sensing.rasters import open_raster

_FILL = 0.45  # of a class's colour over the sheet, which stays legible
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def overlay(
    picture: NDArray[np.uint8], mask: NDArray, colours: Sequence[tuple[int, int, int]] = COLOURS
) -> NDArray[np.uint8]:
    """A picture (height, width, 3) under the translucent classes 1, 2, … of a mask (height, width), each with a full outline."""
    from scipy.ndimage import binary_erosion

    blended = picture.astype(np.float32)
    for number, colour in enumerate(colours, 1):
        here = mask == number
        if not here.any():
            continue
        blended[here] = (1 - _FILL) * blended[here] + _FILL * np.array(colour, np.float32)
        blended[here & ~binary_erosion(here)] = colour  # the outline: pixels that an erosion removes
    return blended.astype(np.uint8)


def with_legend(picture: NDArray[np.uint8], labels: Sequence[str], notice: str = "") -> Image.Image:
    """A picture with a line below that names the colours of the classes 1, 2, …, and another for the model's notice."""
    image = Image.fromarray(picture)
    size = max(12, min(28, image.width // 45))
    font = ImageFont.load_default(size)
    line = round(1.6 * size)
    # lines of (number, label), as many per line as fit into the width
    entries: list[list[tuple[int, str]]] = [[]]
    x = 0.0
    for number, label in enumerate(labels):
        width = 2.2 * size + font.getlength(label)
        if entries[-1] and x + width > image.width:
            entries.append([])
            x = 0.0
        entries[-1].append((number, label))
        x += width
    lines = len(entries) + bool(notice)
    whole = Image.new("RGB", (image.width, image.height + line * lines), _PAPER)
    whole.paste(image)
    pen = ImageDraw.Draw(whole)
    y = float(image.height)
    for row in entries:
        x = 0.3 * size
        for number, label in row:
            box = (x, y + 0.35 * size, x + 0.9 * size, y + 1.25 * size)
            pen.rectangle(box, fill=COLOURS[number % len(COLOURS)])
            pen.text((x + 1.2 * size, y + 0.2 * size), label, fill=_INK, font=font)
            x += 2.2 * size + font.getlength(label)
        y += line
    if notice:
        pen.text((0.3 * size, y + 0.2 * size), notice, fill=COLOURS[0], font=font)
    return whole


def write_overlay(
    picture: NDArray[np.uint8],
    mask: Path,
    part: Part,
    grid: Grid,
    path: Path,
    *,
    shares: Mapping[str, float],
    notice: str = "",
) -> Path:
    """Writes a preview of a sheet under the mask of a part of it, with a legend.

    Args:
        picture: the preview of the whole sheet.
        mask: class numbers of the part.
        part, grid: rows and columns of the sheet that the mask covers, and the sheet's grid.
        path: the PNG.
        shares: class → share of the area.
        notice: of the model.
    """
    from rasterio.enums import Resampling

    h, w = picture.shape[:2]
    # rows and columns of the sheet to those of the preview
    top, bottom = round(part.rows.start * h / grid.height), round(part.rows.stop * h / grid.height)
    left, right = round(part.columns.start * w / grid.width), round(part.columns.stop * w / grid.width)
    # a part may be thinner than a pixel of the preview
    top, left = min(top, h - 1), min(left, w - 1)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    with open_raster(mask) as file:
        small = file.read(1, out_shape=(bottom - top, right - left), resampling=Resampling.nearest)
    blended = picture.copy()
    blended[top:bottom, left:right] = overlay(picture[top:bottom, left:right], small)
    labels = [f"{name} {share:.1%}" for name, share in shares.items()]
    return _write(with_legend(blended, labels, notice), path)


def write_comparison(
    image: NDArray[np.uint8],
    label: NDArray,
    predicted: NDArray,
    path: Path,
    *,
    classes: Sequence[str] = (),
    notice: str = "",
) -> Path:
    """Writes a tile (3, height, width), its truth and its prediction side by side, twice as large, with a legend."""
    rgb = image.transpose(1, 2, 0)
    gap = np.full((len(rgb), 4, 3), 255, np.uint8)
    panels = np.concatenate([rgb, gap, overlay(rgb, label), gap, overlay(rgb, predicted)], 1)
    large = panels.repeat(2, 0).repeat(2, 1)
    title = "tile, truth, prediction"
    if notice:
        title += f", {notice}"
    return _write(with_legend(large, classes, title), path)


def _write(image: Image.Image, path: Path) -> Path:
    with writing(path) as temporary:
        image.save(temporary, format="PNG")
    return path
