"""Attention over a slide: scores of tiles to colours, and colours to a picture."""

from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from core_runtime.errors import UserError
from pathology_mil.slides.reading import RGB, Slide, resized
from pathology_mil.slides.tissue import Tissue


def n_times_a(attention: ArrayLike, *, zoom: float = 1.0) -> NDArray[np.float64]:
    """N · a · zoom: 1 is what uniform attention would give (ACMIL's scale).

    Args:
        attention: (N,), or (branches, N) to be averaged; each row sums to 1.
        zoom: factor.
    """
    rows = np.atleast_2d(np.asarray(attention, np.float64))
    return rows.mean(axis=0) * rows.shape[1] * zoom


def percentiles(scores: ArrayLike, reference: ArrayLike | None = None) -> NDArray[np.float64]:
    """The rank of each score in `reference` (default: among themselves), as a percentage; ties share the average rank (CLAM's scale)."""
    scores = np.asarray(scores, np.float64)
    if reference is None:
        reference = scores
    ordered = np.sort(np.asarray(reference, np.float64))
    if not len(ordered):
        return np.zeros_like(scores)
    left, right = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    # A score that is in the reference has ranks left + 1 … right, whose mean is (left + right + 1) / 2.
    return (left + right + (right > left)) / 2 / len(ordered) * 100


def render(
    slide: Slide,
    coords: NDArray,
    scores: NDArray,
    side: int | tuple[int, int],
    *,
    vis_level: int | None = None,
    max_side: int = 1600,
    cmap: str = "jet",
    alpha: float = 0.4,
    blank_canvas: bool = False,
    convert_to_percentiles: bool = False,
    blur: bool = False,
    overlap: float = 0.0,
    tissue: Tissue | None = None,
    use_holes: bool = True,
    binarize: bool = False,
    thresh: float = 0.5,
    custom_downsample: float = 1,
    max_size: int | None = None,
) -> RGB:
    """Draws the scores of tiles over the slide, as CLAM does. Overlapping tiles are averaged; only covered pixels are coloured.

    Args:
        slide: the slide underneath.
        coords: (N, 2) top left corners, level-0 pixels.
        scores: (N,) values in [0, 1]; values outside take the colour of the nearer end.
        side: side (or width and height) of a tile in level-0 pixels.
        vis_level: the pyramid level to draw on; −1 takes the one nearest to a downsample of 32; None draws a picture of `max_side` pixels
            made from any slide, however large.
        max_side: longest side of the picture where no level is given.
        cmap: a colour map of matplotlib.
        alpha: opacity of the colours; 1 hides the slide.
        blank_canvas: draw on white instead of the slide.
        convert_to_percentiles: replace scores by their ranks first.
        blur: smooth the averaged scores over about a tile's width.
        overlap: the share by which tiles overlap (makes the smoothing narrower).
        tissue: colour only inside this tissue.
        use_holes: whether its holes are left uncoloured.
        binarize: draw 1 where the score reaches `thresh` and nothing elsewhere.
        thresh: see `binarize`; a negative one means 1/N.
        custom_downsample: shrink the finished picture by this factor.
        max_size: shrink it so that no side is longer.

    Returns:
        The picture, (height, width, 3) uint8.
    """
    coords, scores = np.asarray(coords).reshape(-1, 2), np.asarray(scores, np.float64).reshape(-1)
    if len(coords) != len(scores):
        raise UserError(f"{len(coords)} coordinates but {len(scores)} scores")
    if not np.isfinite(scores).all():
        raise UserError("the scores hold NaN or infinite values: nothing to draw")
    canvas = _canvas(slide, vis_level, max_side, blank_canvas)
    height, width = canvas.shape[:2]
    scale = np.array([width / slide.dimensions[0], height / slide.dimensions[1]])
    if convert_to_percentiles:
        scores = percentiles(scores) / 100
    threshold = None
    if binarize:
        threshold = thresh if thresh >= 0 else 1 / max(1, len(scores))
    # Rounded up, position and size alike, as CLAM does: with other rounding, gaps of a pixel show between tiles.
    size = np.ceil(np.broadcast_to(np.asarray(side), (2,)) * scale).astype(int)
    corners = np.ceil(coords * scale).astype(int)

    values, covered = _averaged(corners, size, scores, (height, width), threshold)
    if blur:
        kernel = (size * (1 - overlap)).astype(int) * 2 + 1
        values = cv2.GaussianBlur(values, (int(kernel[0]), int(kernel[1])), 0)
    if tissue is not None:
        covered &= _tissue_mask(tissue, scale, (height, width), use_holes)
    picture = _coloured(canvas, values, covered, cmap, alpha)
    shrink = max(1.0, custom_downsample)
    if max_size:
        shrink = max(shrink, max(picture.shape) / max_size)
    return resized(picture, int(width / shrink), int(height / shrink))


def _canvas(slide: Slide, vis_level: int | None, max_side: int, blank: bool) -> RGB:
    """The picture to draw on: the slide, or white of the same size."""
    if vis_level is None:
        if not blank:
            return slide.thumbnail(max_side)
        shrink = max(1.0, max(slide.dimensions) / max_side)
        width, height = (max(1, round(side / shrink)) for side in slide.dimensions)
        return _white(width, height)
    level = vis_level
    if vis_level < 0:
        level = slide.nearest_level(32)
    if level >= len(slide.levels):
        raise UserError(f"{slide.path.name} has levels 0 to {len(slide.levels) - 1}, not {level}")
    width, height = slide.levels[level]
    if width * height > 1e8:  # 300 MB of colours, and several times as much for the averages
        raise UserError(
            f"{slide.path.name}: level {level} has {width}×{height} pixels, too many for one picture",
            "leave the level out: any slide can be drawn at a given number of pixels",
        )
    if blank:
        return _white(width, height)
    return slide.read_level(level)


def _white(width: int, height: int) -> RGB:
    return np.full((height, width, 3), 255, np.uint8)


def _averaged(
    corners: NDArray, size: NDArray, scores: NDArray, shape: tuple[int, int], threshold: float | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean score of the tiles over each pixel, and the pixels to colour."""
    total, count = np.zeros(shape), np.zeros(shape, np.int32)
    covered = np.zeros(shape, bool)
    for (x, y), score in zip(corners, scores, strict=True):
        # a tile may stick out of the slide on the left or at the top: a negative start would count from the other end
        area = (slice(max(0, y), max(0, y + size[1])), slice(max(0, x), max(0, x + size[0])))
        above = threshold is None or score >= threshold
        if threshold is None:
            total[area] += score
        elif above:
            total[area] += 1.0
        count[area] += 1
        covered[area] |= above
    np.divide(total, count, out=total, where=count > 0)
    if threshold is not None:
        total = np.rint(total)  # where tiles overlap, the majority decides
    return total, covered


def _coloured(canvas: RGB, values: NDArray, covered: NDArray, cmap: str, alpha: float) -> RGB:
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha must be between 0 and 1, got {alpha}")
    try:
        table = matplotlib.colormaps[cmap]
    except KeyError:
        raise UserError(f"matplotlib has no colour map {cmap!r}", "try jet, coolwarm, viridis or magma") from None
    picture = canvas.copy()
    colours = (table(values[covered])[:, :3] * 255).astype(np.uint8)
    picture[covered] = np.rint(alpha * colours + (1 - alpha) * canvas[covered]).astype(np.uint8)
    return picture


def _tissue_mask(tissue: Tissue, scale: NDArray, shape: tuple[int, int], use_holes: bool) -> NDArray[np.bool_]:
    mask = np.zeros(shape, np.uint8)
    for outer, holes in zip(tissue.contours, tissue.holes, strict=True):
        # each piece by itself: a hole of one piece must not erase another piece that lies in it
        piece = np.zeros(shape, np.uint8)
        cv2.fillPoly(piece, [(outer * scale).astype(np.int32)], 1)
        if use_holes:
            cv2.fillPoly(piece, _scaled(holes, scale), 0)
        mask |= piece
    return mask > 0


def _scaled(contours: Sequence[NDArray], scale: NDArray) -> list[NDArray]:
    return [(contour * scale).astype(np.int32) for contour in contours]
