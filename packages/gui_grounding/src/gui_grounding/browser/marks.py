"""A page of coloured marks, and finding them in its screenshot: what a machine's coordinates are checked with."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = {"first": (255, 0, 255), "second": (0, 255, 255), "third": (255, 255, 0), "fourth": (0, 0, 255)}
PLACES = {"first": (40, 30), "second": (300, 50), "third": (70, 230), "fourth": (290, 220)}
SIDE = 21  # CSS pixels of a mark


def write_marks(path: Path) -> Path:
    """An HTML page with a square of each colour at fixed places, in the window's CSS pixels."""
    parts = []
    for name, (x, y) in PLACES.items():
        red, green, blue = COLOURS[name]
        style = (
            f"position:fixed;left:{x}px;top:{y}px;width:{SIDE}px;height:{SIDE}px;background:rgb({red},{green},{blue})"
        )
        parts.append(f'<div id="{name}" style="{style}"></div>')
    path.write_text(
        '<!doctype html><meta charset="utf-8"><title>marks</title><body style="background:#fff">' + "".join(parts),
        encoding="utf-8",
    )
    return path


def find_colour(image: "Image", colour: tuple[int, int, int]) -> tuple[float, float] | None:
    """The centre of all pixels of just this colour, in pixels of the screenshot; None where there are none."""
    pixels = np.asarray(image)
    ys, xs = np.nonzero((pixels == colour).all(-1))
    if not len(xs):
        return None
    return float(xs.mean()) + 0.5, float(ys.mean()) + 0.5
