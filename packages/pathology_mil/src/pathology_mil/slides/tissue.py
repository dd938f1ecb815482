"""Where the tissue is: contours with holes, in level-0 pixels.

Two methods. `clam` thresholds the saturation of one pyramid level (Lu et al., "Data-efficient and weakly supervised computational
pathology on whole-slide images", 2021); `otsu` cleans and thresholds the grey image at 1.25× (the CPU method of Zhang et al.,
"Accelerating Data Processing and Benchmarking of AI Models for Pathology", 2025). Networks that segment tissue need downloaded
weights and are not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from core_runtime.errors import UserError
from pathology_mil.slides.options import PRESETS, TissueParams
from pathology_mil.slides.pictures import DARK, GREY, advice, picture_kind
from pathology_mil.slides.reading import RGB, WHOLE_PIXELS, Slide

Contour = NDArray[np.int32]  # (points, 2), x and y

_SPECK = 0.25  # in squares of `ref_patch_size`: anything smaller is not tissue


@dataclass
class Tissue:
    """The pieces of tissue of a slide.

    Attributes:
        contours: outer contours, level-0 pixels.
        holes: the holes of each contour.
        areas: area of each contour as filtered: without any of its holes, in level-0 pixels².
        scale: (x, y) size of a pixel of the segmented picture, in level-0 pixels.
        notes: what a user should know (area filter lowered, pieces dropped, pen marks left out).
    """

    contours: list[Contour]
    holes: list[list[Contour]]
    areas: list[float]
    scale: tuple[float, float]
    notes: list[str] = field(default_factory=list)

    def polygons(self, *, holes: bool = True) -> shapely.MultiPolygon:
        """All tissue as one valid geometry in level-0 pixels; with `holes=False` the holes count as tissue."""
        parts = []
        for outer, inner in zip(self.contours, self.holes, strict=True):
            if len(outer) < 3:
                continue
            shape = shapely.make_valid(shapely.Polygon(outer))
            if holes:
                for hole in inner:
                    if len(hole) >= 3:
                        shape = shape.difference(shapely.make_valid(shapely.Polygon(hole)))
            parts.append(shape)
        return polygonal(shapely.union_all(parts))

    def area_mm2(self, mpp: float) -> float:
        return self.polygons().area * mpp**2 / 1e6


def polygonal(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """Only the polygons of a geometry (a repaired one may hold loose lines and points)."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # twice: a collection may hold multipolygons
    polygons = [part for part in parts if isinstance(part, shapely.Polygon) and not part.is_empty]
    return shapely.MultiPolygon(polygons)


def segment(slide: Slide, params: TissueParams = PRESETS["default"]) -> Tissue:
    """The tissue of a slide. A slide without any gives a `Tissue` without contours."""
    kind = picture_kind(slide.small)
    if kind == DARK:
        raise UserError(f"{slide.path.name}: {advice(kind)}", "--tissue-from FOLDER takes tissue that you annotated")
    if params.method == "otsu":
        image = slide.overview(max(1.0, 8 / slide.known_mpp()))  # 1.25× is 8 µm per pixel
        mask = _otsu_mask(image)
    else:
        image = _segmentation_picture(slide, params.seg_level)
        mask = _clam_mask(image, params)
    width, height = slide.dimensions
    scale = (width / image.shape[1], height / image.shape[0])
    notes = []
    if kind == GREY and params.method == "clam":
        notes.append(advice(kind))
    # Pen is recognised on a thumbnail: at a finer scale, dark nuclei look like black ink.
    if params.drop_pen:
        pen = pen_marks(slide.small).astype(np.uint8)
        pen = np.asarray(cv2.resize(pen, (mask.shape[1], mask.shape[0]), interpolation=cv2.INTER_NEAREST)) > 0
        marked = float(np.count_nonzero(pen & (mask > 0))) / mask.size
        if marked > 0.001:
            mask = np.where(pen, 0, mask).astype(np.uint8)
            notes.append(f"pen marks on {marked:.1%} of the slide left out")
    if np.count_nonzero(mask) > 0.9 * mask.size:
        notes.append(
            "nine tenths of the slide count as tissue: "
            "if its glass is tinted, --tissue otsu or a higher --sthresh separates the two"
        )
    tissue = _contours(mask, scale, params)
    tissue.notes[:0] = notes
    return _select_contours(tissue, params)


def _segmentation_picture(slide: Slide, seg_level: int) -> RGB:
    """The level that CLAM would segment, or if it is too large a picture at most 64 times smaller than the slide.

    Raises:
        UserError: no such level, or one that is too large.
    """
    if seg_level >= len(slide.levels):
        raise UserError(f"{slide.path.name} has levels 0 to {len(slide.levels) - 1}, not {seg_level}")
    if seg_level >= 0:
        width, height = slide.levels[seg_level]
        if width * height > 1e8:  # the filters need several pictures of this size
            raise UserError(
                f"{slide.path.name}: level {seg_level} has {width}×{height} pixels, too many to segment at once",
                "leave out --seg-level: a smaller picture is then made by reading the slide in pieces",
            )
        return slide.read_level(seg_level)
    level = slide.nearest_level(64)
    width, height = slide.levels[level]
    if width * height <= WHOLE_PIXELS:
        return slide.read_level(level)
    # small slides get a finer picture: 512 pixels along their shorter side
    return slide.overview(max(1.0, min(64.0, min(slide.dimensions) / 512)))


def _clam_mask(image: RGB, params: TissueParams) -> NDArray[np.uint8]:
    saturation = np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1])
    saturation = cv2.medianBlur(saturation, params.mthresh)
    if params.use_otsu:
        _, mask = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU + cv2.THRESH_BINARY)
    else:
        _, mask = cv2.threshold(saturation, params.sthresh, 255, cv2.THRESH_BINARY)
    if params.close > 0:
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((params.close, params.close), np.uint8))
    return np.asarray(mask, np.uint8)


def _otsu_mask(image: RGB) -> NDArray[np.uint8]:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    saturation, value = hsv[..., 1], hsv[..., 2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey[(saturation <= 10) & (value >= 70)] = 255  # glass, shadows, grey debris
    grey[value <= 85] = 255  # black padding, pen, slide edge
    if grey.min() == 255:
        return np.zeros(grey.shape, np.uint8)
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU + cv2.THRESH_BINARY_INV)
    # Small objects become glass before the threshold is chosen again, so that dust has no part in it.
    grey[_small(mask, 60)] = 255
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU + cv2.THRESH_BINARY_INV)
    mask[_small(mask, 60)] = 0
    mask[_small(255 - mask, 5000, enclosed=True)] = 255
    return np.asarray(mask, np.uint8)


def _small(mask: NDArray, area: int, *, enclosed: bool = False) -> NDArray[np.bool_]:
    """Pixels of the connected objects of a mask that have fewer than `area` pixels (and do not touch the edge of the picture)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    labels = np.asarray(labels, np.int64)
    small = stats[:, cv2.CC_STAT_AREA] < area
    small[0] = False  # the background
    if enclosed:
        small[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    return small[labels]


def pen_marks(image: RGB) -> NDArray[np.bool_]:
    """Pixels of green, blue and black felt pen, grown by a few pixels.

    Stained tissue is between blue-purple and pink; the pale blue counterstain of immunohistochemistry is spared by requiring a
    strong colour. Red pen cannot be told from eosin and stays. The picture must be so coarse that dark nuclei are no longer black dots.
    """
    # OpenCV's hue: 0 to 180
    hue, saturation, value = cv2.split(cv2.cvtColor(cv2.medianBlur(image, 3), cv2.COLOR_RGB2HSV))
    coloured = (hue >= 35) & (hue <= 115) & (saturation >= 110)
    black = (value <= 70) & (saturation <= 90)
    seed = cv2.morphologyEx((coloured | black).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.dilate(seed, np.ones((5, 5), np.uint8))) > 0


def _contours(mask: NDArray[np.uint8], scale: tuple[float, float], params: TissueParams) -> Tissue:
    """CLAM's contours of a mask, filtered by area: without their holes for pieces, the largest ones for holes."""
    outlines, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if hierarchy is None:
        return Tissue([], [], [], scale)
    # RETR_CCOMP has two levels: outer contours, whose parent is −1, and the holes in them.
    parents = hierarchy[0, :, 3].tolist()
    holes_of: dict[int, list[int]] = {i: [] for i, parent in enumerate(parents) if parent < 0}
    for i, parent in enumerate(parents):
        if parent >= 0:
            holes_of[parent].append(i)
    sizes = np.array([cv2.contourArea(outline) for outline in outlines])
    net_areas: dict[int, float] = {}
    for i, holes in holes_of.items():
        net_areas[i] = float(sizes[i] - sizes[holes].sum())
    # CLAM's unit: a square of level-0 pixels, truncated to whole pixels of the segmented picture
    reference = int(params.ref_patch_size**2 / (scale[0] * scale[1]))
    positive = [area for area in net_areas.values() if area > 0]
    a_t, notes = _area_filter(positive, reference, params)

    tissue = Tissue([], [], [], scale, notes)
    for i, holes in holes_of.items():
        if net_areas[i] <= 0 or net_areas[i] <= a_t * reference:
            continue
        largest = sorted(holes, key=lambda hole: sizes[hole], reverse=True)[: params.max_n_holes]
        large_holes = [outlines[hole] for hole in largest if sizes[hole] > params.a_h * reference]
        tissue.contours.append(_level0(outlines[i], scale))
        tissue.holes.append([_level0(outline, scale) for outline in large_holes])
        tissue.areas.append(net_areas[i] * scale[0] * scale[1])
    return tissue


def _area_filter(areas: Sequence[float], reference: int, params: TissueParams) -> tuple[float, list[str]]:
    """The a_t that applies, and notes about it.

    With `adapt` it is the largest step at or below the requested one that drops no more than 5 % of the tissue; specks under a quarter of
    the reference square (64 µm wide at 40×) are not tissue.
    """
    tissue = [area for area in areas if area > _SPECK * reference]
    if not tissue and areas and max(areas) > params.a_t * reference:
        return params.a_t, []
    if not tissue:
        largest = max(areas, default=0) / reference
        if largest < 0.001:
            return params.a_t, []
        squares = f"{largest:.2g} squares of {params.ref_patch_size} pixels"
        return params.a_t, [f"the largest piece has {squares}: --min-area {largest / 2:.1g} includes it"]
    total = sum(tissue)

    def dropped(a_t: float) -> list[float]:
        return [area for area in tissue if area <= a_t * reference]

    steps = [params.a_t]
    if params.adapt:
        steps += [step for step in (16, 4, 1, _SPECK) if step < params.a_t]
    a_t = next((step for step in steps if sum(dropped(step)) <= 0.05 * total), steps[-1])
    lost = dropped(params.a_t)
    share = f"{sum(lost) / total:.0%} of the tissue"
    if a_t != params.a_t:
        loss = share
        if len(lost) == len(tissue):
            loss = "all tissue"
        lowered = f"area filter lowered from a_t={params.a_t:g} to {a_t:g}"
        return a_t, [f"{lowered}: it would drop {loss} (--preset biopsy has 1)"]
    if sum(lost) > 0.05 * total:
        pieces = f"{len(lost)} piece(s), {share}"
        return a_t, [f"{pieces}, dropped by the area filter a_t={a_t:g}: --preset biopsy includes them"]
    return a_t, []


def _level0(contour: NDArray, scale: tuple[float, float]) -> Contour:
    """A contour of the segmented picture, (points, 1, 2) as OpenCV has it, in level-0 pixels."""
    return (contour[:, 0, :] * np.array(scale)).astype(np.int32)


def _select_contours(tissue: Tissue, params: TissueParams) -> Tissue:
    """The contours that the user selects by number."""
    if not params.keep_ids and not params.exclude_ids:
        return tissue
    numbers = params.keep_ids or range(len(tissue.contours))
    contours, holes, areas = [], [], []
    for i, contour in enumerate(tissue.contours):
        if i in numbers and i not in params.exclude_ids:
            contours.append(contour)
            holes.append(tissue.holes[i])
            areas.append(tissue.areas[i])
    return replace(tissue, contours=contours, holes=holes, areas=areas)
