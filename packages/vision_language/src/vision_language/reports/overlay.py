"""What a user looks at: the picture with heat, mask outline, box and point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core_runtime.folders import writing
from vision_language.results import Grounding

if TYPE_CHECKING:
    from PIL.Image import Image


def heat_picture(heat: np.ndarray) -> Image:
    """The heat alone, dark to bright."""
    from matplotlib import colormaps
    from PIL import Image as Pillow

    colours = colormaps["magma"](np.clip(heat, 0, 1))[..., :3]
    return Pillow.fromarray((colours * 255).astype(np.uint8))


def draw_grounding(image: Image, grounding: Grounding, *, least: int = 320) -> Image:
    """The picture, what is meant kept in colour and outlined, with box and point; small pictures are enlarged."""
    from PIL import Image as Pillow
    from PIL import ImageDraw
    from scipy import ndimage

    pixels = np.asarray(image.convert("RGB"), np.float32)
    grey = pixels.mean(-1, keepdims=True) * 0.5 + 110
    shown = np.where(grounding.mask[..., None], pixels, grey)
    factor = max(1, round(least / max(image.size)))
    canvas = Pillow.fromarray(shown.astype(np.uint8)).resize(
        (image.width * factor, image.height * factor), Pillow.Resampling.NEAREST
    )
    large = np.kron(grounding.mask, np.ones((factor, factor), bool))
    edge = large & np.logical_not(ndimage.binary_erosion(large, iterations=2))
    drawn = np.asarray(canvas).copy()
    drawn[edge] = (255, 120, 0)
    canvas = Pillow.fromarray(drawn)
    pen = ImageDraw.Draw(canvas)
    if grounding.box is not None:
        left, top, right, bottom = (value * factor for value in grounding.box)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=(0, 120, 255), width=2)
    x, y = grounding.point[0] * factor, grounding.point[1] * factor
    size = max(4, max(canvas.size) // 60)
    pen.ellipse((x - size, y - size, x + size, y + size), fill=(255, 255, 255), outline=(0, 0, 0), width=2)
    return canvas


def draw_sheet(pictures: Sequence[Path], titles: Sequence[str], out: Path, *, columns: int = 4) -> Path:
    """Pictures under their titles, side by side in rows, as one PNG."""
    from matplotlib.figure import Figure
    from PIL import Image as Pillow

    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows), layout="constrained")
    for place, (picture, title) in enumerate(zip(pictures, titles, strict=True), 1):
        axes = figure.add_subplot(rows, columns, place)
        with Pillow.open(picture) as opened:
            axes.imshow(np.asarray(opened))
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    with writing(out) as part:
        figure.savefig(part, format="png", dpi=110)
    return out
