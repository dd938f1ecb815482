"""What a person looks at: tissue and tiles on a thumbnail, tiles side by side, and heat maps beside the truth."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from core_runtime.folders import writing
from pathology_mil.slides import RGB, Slide, resized
from pathology_mil.tiles import Tiles
from pathology_mil.tissue import Tissue

GREEN, BLUE, YELLOW = (0, 150, 60), (40, 80, 220), (255, 215, 0)


def encoded(picture: RGB, suffix: str = ".jpg", quality: int = 88) -> bytes:
    """A picture as the bytes of a JPEG or PNG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]), options)
    assert ok
    return data.tobytes()


def save(path: Path, picture: RGB) -> None:
    """Writes a `.jpg` or `.png`, whole or not at all."""
    with writing(path) as temporary:
        temporary.write_bytes(encoded(picture, path.suffix))


def _scale(picture: RGB, dimensions: tuple[int, int]) -> NDArray[np.float64]:
    return np.array([picture.shape[1] / dimensions[0], picture.shape[0] / dimensions[1]])


def draw_tissue(thumbnail: RGB, dimensions: tuple[int, int], tissue: Tissue) -> RGB:
    """Contours (green, numbered as `keep_ids` counts them) and holes (blue) over a thumbnail."""
    picture = thumbnail.copy()
    scale = _scale(picture, dimensions)
    width = max(1, round(max(picture.shape) / 500))
    for i, (outer, holes) in enumerate(zip(tissue.contours, tissue.holes, strict=True)):
        cv2.polylines(picture, [(outer * scale).astype(np.int32)], True, GREEN, width, cv2.LINE_AA)
        for hole in holes:
            cv2.polylines(picture, [(hole * scale).astype(np.int32)], True, BLUE, width, cv2.LINE_AA)
        x, y = (outer.mean(axis=0) * scale).astype(int).tolist()
        cv2.putText(picture, str(i), (x, y), cv2.FONT_HERSHEY_SIMPLEX, width / 2, (20, 20, 20), width, cv2.LINE_AA)
    return picture


def draw_tiles(picture: RGB, dimensions: tuple[int, int], coords: NDArray, side: int) -> RGB:
    """Thin frames of the tiles over a picture of the slide; a light veil over what no tile covers."""
    scale = _scale(picture, dimensions)
    covered = np.zeros(picture.shape[:2], bool)
    corners = np.rint(coords * scale).astype(int)
    ends = np.rint((coords + side) * scale).astype(int)
    for (x, y), (right, bottom) in zip(corners, ends, strict=True):
        covered[max(0, y) : bottom, max(0, x) : right] = True
    drawn = picture.copy()
    drawn[~covered] = (0.45 * drawn[~covered] + 0.55 * 255).astype(np.uint8)
    if side * scale[0] >= 6:
        frames = drawn.copy()
        for start, end in zip(corners.tolist(), ends.tolist(), strict=True):
            cv2.rectangle(frames, start, end, (70, 70, 70), 1)
        drawn = cv2.addWeighted(frames, 0.45, drawn, 0.55, 0)
    return np.asarray(drawn, np.uint8)


def stitched(thumbnail: RGB, dimensions: tuple[int, int], coords: NDArray, side: int) -> RGB:
    """Only what the tiles cover, on black (CLAM's `stitches`)."""
    scale = _scale(thumbnail, dimensions)
    picture = np.zeros_like(thumbnail)
    for x, y in coords:
        left, top = np.rint(np.array([x, y]) * scale).astype(int).clip(0)
        right, bottom = np.rint((np.array([x, y]) + side) * scale).astype(int)
        picture[top:bottom, left:right] = thumbnail[top:bottom, left:right]
    return picture


def contact_sheet(tiles: Sequence[RGB], *, columns: int = 6, side: int = 192, titles: Sequence[str] = ()) -> RGB:
    """Tiles side by side on white, each with a title under it where there are titles."""
    gap, foot = 8, 24 if titles else 0
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (side + foot + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = gap + i // columns * (side + foot + gap), gap + i % columns * (side + gap)
        sheet[y : y + side, x : x + side] = resized(tile, side, side)
        if titles:
            at = (x + 2, y + side + 17)
            cv2.putText(sheet, titles[i], at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return sheet


def some_tiles(slide: Slide, tiles: Tiles, n: int = 12) -> list[RGB]:
    """Tiles from all over the slide, in the order in which they lie."""
    chosen = np.unique(np.linspace(0, len(tiles.coords) - 1, min(n, len(tiles.coords))).round().astype(int))
    return [slide.read_tile(*tiles.coords[i].tolist(), side=tiles.side, size=tiles.size) for i in chosen]
