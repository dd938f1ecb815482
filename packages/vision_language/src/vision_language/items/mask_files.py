"""Masks in files, as polygons, and as COCO's run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError

Mask = NDArray[np.bool_]
Size = tuple[int, int]  # height, width


def read_mask(path: Path, size: Size) -> Mask:
    """A mask file of the picture's size: what is not 0 is meant.

    Raises:
        UserError: absent, not a picture, or of another size.
    """
    from PIL import Image

    if not path.is_file():
        raise UserError(f"no such mask: {path}")
    try:
        with Image.open(path) as image:
            values = np.asarray(image if image.mode in ("L", "P", "1", "I;16", "I") else image.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} is not a mask: {error}") from None
    if values.shape != size:
        raise UserError(
            f"{path} is {values.shape[1]} × {values.shape[0]}, its picture {size[1]} × {size[0]}",
            "masks have the picture's size",
        )
    return values > 0


def fill_polygons(name: str, polygons: Sequence[Any], size: Size) -> Mask:
    """Polygons ([[x, y], …] or COCO's flat [x, y, x, y, …]) filled; none is an empty mask.

    Raises:
        UserError: one that is not three points or more.
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for polygon in polygons:
        try:
            points = np.asarray(polygon, float).reshape(-1, 2)
        except (TypeError, ValueError):
            raise UserError(f"{name}: the polygon {polygon!r:.40} is not points") from None
        if len(points) < 3 or not np.isfinite(points).all():
            raise UserError(f"{name}: a polygon of {len(points)} points, at least three finite ones are needed")
        pen.polygon([tuple(point) for point in points.tolist()], fill=1)
    return np.asarray(canvas, bool)


def read_run_lengths(name: str, rle: Mapping[str, Any], size: Size) -> Mask:
    """COCO's run lengths down the columns, as a list or compressed text.

    Raises:
        UserError: another size, or runs that do not add up to it.
    """
    if "size" not in rle or "counts" not in rle:
        raise UserError(f"{name}: run lengths are {{size, counts}}, got {sorted(rle)}")
    if rle["size"] != list(size):
        raise UserError(f"{name}: run lengths of {rle['size']!r:.40}, the picture is [{size[0]}, {size[1]}]")
    counts = rle["counts"]
    runs = _decompress(counts) if isinstance(counts, str) else counts
    try:
        lengths = np.asarray(runs, np.int64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: run lengths are not numbers") from None
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        total = int(lengths.sum()) if lengths.ndim == 1 else 0
        raise UserError(f"{name}: run lengths add up to {total} pixels, the picture has {size[0] * size[1]}")
    values = np.arange(len(lengths)) % 2 == 1  # the first run is of zeros
    return np.repeat(values, lengths).reshape(size[1], size[0]).T


def _decompress(text: str) -> list[int]:
    """COCO's compressed counts: 5 bits a character, little end first, each from the third on relative to the one two before."""
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more and place < len(text):
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            place, shift = place + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts
