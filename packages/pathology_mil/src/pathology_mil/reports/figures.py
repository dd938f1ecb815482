"""Figures: tissue and tiles on a thumbnail, tiles side by side, and heat maps beside the truth."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core_runtime.folders import writing
from pathology_mil.slides.reading import RGB, Slide, resized
from pathology_mil.slides.tiles import Tiles
from pathology_mil.slides.tissue import Tissue

GREEN, BLUE, YELLOW = (0, 150, 60), (40, 80, 220), (255, 215, 0)


def encoded(picture: RGB, suffix: str = ".jpg", quality: int = 88) -> bytes:
    """A picture as the bytes of a JPEG or PNG file."""
    options = []
    if suffix == ".jpg":
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    # OpenCV's order of colours is BGR
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]), options)
    assert ok
    return data.tobytes()


def save(path: Path, picture: RGB) -> None:
    """Writes a `.jpg` or `.png`, whole or not at all."""
    with writing(path) as temporary:
        temporary.write_bytes(encoded(picture, path.suffix))


def _scale(picture: RGB, dimensions: tuple[int, int]) -> NDArray[np.float64]:
    """Factors (x, y) from level-0 pixels to the picture's."""
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
        _write_number(picture, i, outer.mean(axis=0) * scale, width)
    return picture


def _write_number(picture: RGB, number: int, centre: NDArray, width: int) -> None:
    """A dark number on a white disc around a point, so that it can be read on glass and on dark tissue."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.7, width / 2)
    (wide, high), _ = cv2.getTextSize(str(number), font, size, width)
    middle = centre.astype(int)
    cv2.circle(picture, middle.tolist(), round(0.75 * max(wide, high)) + 2, (255, 255, 255), -1, cv2.LINE_AA)
    corner = (int(middle[0]) - wide // 2, int(middle[1]) + high // 2)
    cv2.putText(picture, str(number), corner, font, size, (20, 20, 20), max(2, width), cv2.LINE_AA)


def draw_tiles(picture: RGB, dimensions: tuple[int, int], coords: NDArray, side: int) -> RGB:
    """Thin frames of the tiles over a picture of the slide; a light veil over areas without tiles."""
    scale = _scale(picture, dimensions)
    covered = np.zeros(picture.shape[:2], bool)
    corners = np.rint(coords * scale).astype(int)
    ends = np.rint((coords + side) * scale).astype(int)
    for (x, y), (right, bottom) in zip(corners, ends, strict=True):
        covered[max(0, y) : bottom, max(0, x) : right] = True
    drawn = picture.copy()
    drawn[~covered] = (0.45 * drawn[~covered] + 0.55 * 255).astype(np.uint8)
    if side * scale[0] >= 6:  # frames of smaller tiles would hide the picture
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
    """Tiles side by side on white, each with a title under it if there are titles."""
    gap, foot = 8, 24 if titles else 0
    fitted = []
    for tile in tiles:
        shrink = max(tile.shape) / side
        fitted.append(resized(tile, max(1, round(tile.shape[1] / shrink)), max(1, round(tile.shape[0] / shrink))))
    height = max((tile.shape[0] for tile in fitted), default=side)
    rows = -(-len(tiles) // columns)  # rounded up
    sheet = np.full((rows * (height + foot + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, tile in enumerate(fitted):
        y, x = gap + i // columns * (height + foot + gap), gap + i % columns * (side + gap)
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        if titles:
            at = (x + 2, y + height + 17)
            cv2.putText(sheet, titles[i], at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return sheet


def some_tiles(slide: Slide, tiles: Tiles, n: int = 12) -> list[RGB]:
    """Tiles from all over the slide, in their own order: of a few times as many, the ones with the most stain."""
    spread = np.linspace(0, len(tiles.coords) - 1, min(3 * n, len(tiles.coords)))
    candidates, stained_shares = [], []
    for i in np.unique(spread.round().astype(int)):
        candidate = slide.read_tile(*tiles.coords[i].tolist(), side=tiles.side, size=tiles.size)
        is_stained = np.ptp(candidate, axis=-1) > 30  # stain has a colour, glass and grey do not
        candidates.append(candidate)
        stained_shares.append(float(is_stained.mean()))
    most_stained = np.argsort(stained_shares)[::-1][:n]
    return [candidates[i] for i in sorted(most_stained)]


def map_panels(
    slide: Slide,
    heat: RGB,
    cmap: str,
    legend: str,
    *,
    top: float = 1.0,
    truth: shapely.MultiPolygon | None = None,
    title: str = "",
    max_side: int = 1600,
) -> RGB:
    """The slide, the annotated tumour (where it is known) and the heat map side by side, with a legend and a scale bar.

    Args:
        slide: the slide.
        heat: its heat map, as `heatmaps.render` draws it.
        cmap: the colour map of the heat map.
        legend: meaning of its colours.
        top: the value of the highest colour.
        truth: area annotated as tumour.
        title: of the whole figure.
        max_side: the heat map's own limit; the panels are drawn at its size at most.
    """
    thumbnail = slide.thumbnail(min(max_side, 1000))
    panels: list[tuple[RGB, str]] = [(thumbnail, "Slide")]
    heat_title = "Attention of the model"
    if truth is not None:
        truth_title = "Truth: no tumour"
        if not truth.is_empty:
            truth_title = "Truth: annotated as tumour"
            heat_title += ", truth outlined"
        panels.append((outlined(thumbnail, slide.dimensions, truth, fill=0.25), truth_title))
        heat = outlined(heat, slide.dimensions, truth)
    panels.append((heat, heat_title))
    ratio = thumbnail.shape[0] / thumbnail.shape[1]
    n, width = len(panels), 4.6  # inches
    grid, size = (1, n), (width * n + 0.6, width * ratio + 0.75)
    if ratio <= 0.45:  # panels of very wide slides go one below the other
        grid, size = (n, 1), (width * 2, n * width * 2 * ratio + 0.9)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*grid, squeeze=False).ravel()
    for ax, (picture, words) in zip(axes, panels, strict=True):
        ax.imshow(picture, interpolation="antialiased")
        ax.set_title(words, fontsize=10)
        ax.set_axis_off()
    _scale_bar(axes[0], slide, thumbnail)
    colours = ScalarMappable(Normalize(0, top), matplotlib.colormaps[cmap])
    figure.colorbar(colours, ax=axes[-1], shrink=0.85, label=legend)
    figure.suptitle(title, fontsize=11)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # pyright: ignore[reportAttributeAccessIssue]


def outlined(picture: RGB, dimensions: tuple[int, int], shape: shapely.MultiPolygon, *, fill: float = 0.0) -> RGB:
    """Black outlines on white ones (visible on any colour), filled with a share of yellow."""
    scale = _scale(picture, dimensions)
    rings = []
    for polygon in shape.geoms:
        for ring in (polygon.exterior, *polygon.interiors):
            rings.append(np.rint(np.array(ring.coords) * scale).astype(np.int32))
    drawn = picture.copy()
    if fill and rings:
        layer = picture.copy()
        cv2.fillPoly(layer, rings, YELLOW)  # even-odd: holes stay open
        drawn = np.asarray(cv2.addWeighted(layer, fill, picture, 1 - fill, 0), np.uint8)
    width = max(1, round(max(picture.shape) / 600))
    for colour, extra in (((255, 255, 255), 2 * width), ((0, 0, 0), 0)):
        cv2.polylines(drawn, rings, True, colour, width + extra, cv2.LINE_AA)
    return drawn


def _scale_bar(ax: Axes, slide: Slide, thumbnail: RGB) -> None:
    """A bar of a round length, at most a quarter of the slide's width."""
    if slide.mpp is None:
        return
    across = slide.dimensions[0] * slide.mpp  # µm
    length = next((bar for bar in (10_000, 5000, 2000, 1000, 500, 200, 100, 50, 20, 10) if bar <= across / 4), 10)
    pixels = length / across * thumbnail.shape[1]
    x, y = 0.03 * thumbnail.shape[1], 0.96 * thumbnail.shape[0]
    ax.plot([x, x + pixels], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    words = f"{length} µm"
    if length >= 1000:
        words = f"{length / 1000:g} mm"
    ax.text(x + pixels / 2, y - 0.012 * thumbnail.shape[0], words, ha="center", va="bottom", fontsize=8)
