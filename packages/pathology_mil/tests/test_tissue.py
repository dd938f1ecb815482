from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from pathology_mil.reports.figures import draw_tissue
from pathology_mil.slides.options import PRESETS, TissueOptions, TissueParams
from pathology_mil.slides.reading import Slide
from pathology_mil.slides.tissue import _clam_mask, _contours, pen_marks, segment


def slide_of(tmp_path, draw, size=(1200, 900)):
    image = np.full((size[1], size[0], 3), 245, np.uint8)
    draw(image)
    path = tmp_path / "drawn.png"
    Image.fromarray(image).save(path)
    return Slide(path, mpp=0.5)


PINK = (220, 130, 180)


def test_contours_holes_and_scale(tmp_path):
    def draw(image):
        cv2.rectangle(image, (100, 100), (900, 700), PINK, -1)
        cv2.rectangle(image, (300, 300), (500, 500), (245, 245, 245), -1)

    slide = slide_of(tmp_path, draw)
    tissue = segment(slide, replace(PRESETS["biopsy"], a_h=0.1))
    assert len(tissue.contours) == len(tissue.holes[0]) == 1
    polygons = tissue.polygons()
    assert polygons.is_valid
    assert polygons.area == pytest.approx(800 * 600 - 200 * 200, rel=0.03)
    assert tissue.polygons(holes=False).area == pytest.approx(800 * 600, rel=0.03)
    assert tissue.area_mm2(0.5) == pytest.approx(0.11, rel=0.03)


def test_a_tiny_biopsy_does_not_vanish_silently(tmp_path):
    slide = slide_of(tmp_path, lambda image: cv2.circle(image, (600, 400), 170, PINK, -1))
    adapted = segment(slide, PRESETS["default"])
    assert len(adapted.contours) == 1
    assert "lowered from a_t=100 to 0.25: it would drop all tissue" in adapted.notes[0]
    assert segment(slide, replace(PRESETS["default"], adapt=False)).contours == []
    assert segment(slide, TissueOptions(min_area=100).params()).contours == []


def test_pieces_that_the_filter_would_drop_are_kept_or_named(tmp_path):
    def draw(image):
        cv2.rectangle(image, (50, 50), (1150, 560), PINK, -1)
        cv2.circle(image, (300, 740), 150, PINK, -1)

    slide = slide_of(tmp_path, draw)
    adapted = segment(slide, TissueParams(a_t=1))
    assert len(adapted.contours) == 2
    assert "it would drop 11% of the tissue" in adapted.notes[0]
    strict = segment(slide, TissueParams(a_t=1, adapt=False))
    assert len(strict.contours) == 1
    assert "1 piece(s), 11% of the tissue, dropped" in strict.notes[0]


def test_tinted_glass_is_warned_of(tmp_path):
    tissue = segment(slide_of(tmp_path, lambda image: image.__setitem__(..., (245, 245, 225))))
    assert "tinted" in tissue.notes[0]


@pytest.mark.parametrize("method", ["clam", "otsu"])
def test_empty_glass_has_no_tissue(tmp_path, method):
    tissue = segment(slide_of(tmp_path, lambda image: None), TissueParams(method=method))
    assert tissue.contours == []
    assert tissue.polygons().is_empty


def test_pen_marks_are_left_out(tmp_path):
    def draw(image):
        cv2.rectangle(image, (100, 100), (800, 700), PINK, -1)
        cv2.line(image, (950, 100), (950, 700), (20, 130, 60), 60)

    slide = slide_of(tmp_path, draw)
    base = replace(PRESETS["biopsy"], a_t=0.1)
    with_pen, without = segment(slide, replace(base, drop_pen=False)), segment(slide, base)
    assert (len(with_pen.contours), len(without.contours)) == (2, 1)
    assert "pen marks" in without.notes[0]


def test_stained_tissue_is_no_pen(cmu, tcga):
    for path in (cmu, tcga):
        assert pen_marks(Slide(path).thumbnail(320)).mean() < 0.001


def test_otsu_finds_real_tissue(cmu):
    with Slide(cmu) as slide:
        clam, otsu = (
            segment(slide, PRESETS["biopsy"]),
            segment(slide, TissueOptions(preset="biopsy", tissue="otsu").params()),
        )
    a, b = clam.polygons(), otsu.polygons()
    assert a.intersection(b).area / a.union(b).area > 0.6


def test_chosen_contours_and_wrong_settings(tmp_path):
    def draw(image):
        for x in (200, 600, 1000):
            cv2.circle(image, (x, 400), 150, PINK, -1)

    slide = slide_of(tmp_path, draw)
    base = replace(PRESETS["biopsy"], a_t=0.1)
    assert len(segment(slide, base).contours) == 3
    assert len(segment(slide, replace(base, keep_ids=(0, 2))).contours) == 2
    assert len(segment(slide, replace(base, exclude_ids=(0, 2))).contours) == 1
    with pytest.raises(UserError, match="levels 0 to 0"):
        segment(slide, replace(base, seg_level=3))
    with pytest.raises(UserError, match="odd"):
        replace(base, mthresh=4)


def test_a_huge_single_level_is_segmented_from_pieces(cmu, monkeypatch):
    monkeypatch.setattr("pathology_mil.slides.reading.WHOLE_PIXELS", 100_000)
    monkeypatch.setattr("pathology_mil.slides.tissue.WHOLE_PIXELS", 100_000)
    with Slide(cmu) as slide:
        tissue = segment(slide, PRESETS["biopsy"])
    assert tissue.scale[0] == pytest.approx(2220 / 512, rel=0.01)
    assert 0.3 < tissue.polygons().area / (2220 * 2967) < 0.6


def contours_of(mask, **params):
    """The contours of a mask whose reference square has 64 pixels."""
    return _contours(mask, (64.0, 64.0), TissueParams(adapt=False, **params))


def test_a_piece_as_large_as_the_smallest_area_is_dropped_as_in_clam():
    mask = np.zeros((100, 100), np.uint8)
    mask[10:19, 10:19] = 255  # its outline runs through the centres of pixels: 8 × 8 of them, one reference square
    assert contours_of(mask, a_t=1).contours == []
    assert len(contours_of(mask, a_t=0.98).contours) == 1
    mask[19, 10:19] = 255
    assert len(contours_of(mask, a_t=1).contours) == 1


def test_holes_are_filtered_by_area_and_number():
    mask = np.zeros((200, 200), np.uint8)
    mask[10:190, 10:190] = 255
    for x, width in (
        (20, 7),
        (60, 9),
        (100, 11),
    ):  # the outline of a hole runs around it: 8 × 8, 10 × 10 and 12 × 12 pixels
        mask[50 : 50 + width, x : x + width] = 0
    widths = sorted(int(np.ptp(hole[:, 0])) // 64 for hole in contours_of(mask, a_t=1, a_h=0.5).holes[0])
    assert widths == [8, 10, 12]
    sizes = [cv2.contourArea(hole) / 64**2 for hole in contours_of(mask, a_t=1, a_h=0.0).holes[0]]
    smallest = min(sizes) / 64  # in reference squares
    assert len(contours_of(mask, a_t=1, a_h=smallest).holes[0]) == 2, (
        "as large as the smallest area: dropped, as in CLAM"
    )
    assert len(contours_of(mask, a_t=1, a_h=smallest * 0.99).holes[0]) == 3
    largest = contours_of(mask, a_t=1, a_h=0.0, max_n_holes=1).holes[0]
    assert [int(np.ptp(hole[:, 0])) // 64 for hole in largest] == [12]


def test_the_number_of_a_piece_can_be_read_on_tissue(tmp_path):
    slide = slide_of(tmp_path, lambda image: cv2.rectangle(image, (100, 100), (1100, 800), (90, 40, 120), -1))
    tissue = segment(slide, PRESETS["biopsy"])
    drawn = draw_tissue(slide.thumbnail(1000), slide.dimensions, tissue)
    x, y = (tissue.contours[0].mean(axis=0) * 1000 / 1200).astype(int)
    around = drawn[y - 8 : y + 9, x - 8 : x + 9].astype(int)
    assert (around.min(axis=-1) > 245).any(), "a white disc"
    assert (around.max(axis=-1) < 60).any(), "and a dark number"
    assert not (np.abs(around - (90, 40, 120)).max(axis=-1) < 10).any(), "no tissue between them"


def test_a_piece_counts_without_its_holes():
    mask = np.zeros((200, 200), np.uint8)
    mask[20:180, 20:180] = 255
    mask[30:170, 30:170] = 0  # a ring: 25,000 pixels inside its outline, 6,000 without the hole
    params = TissueParams(ref_patch_size=100, a_t=1, a_h=0, adapt=False)
    assert _contours(mask, (1.0, 1.0), params).contours == []
    assert len(_contours(mask, (1.0, 1.0), replace(params, a_t=0.4)).contours) == 1


def test_contours_are_scaled_along_each_axis():
    mask = np.zeros((50, 100), np.uint8)
    mask[10:31, 20:81] = 255
    (outline,) = _contours(mask, (2.0, 3.0), TissueParams(ref_patch_size=1, a_t=0, adapt=False)).contours
    assert [*outline.min(0), *outline.max(0)] == [40, 30, 160, 90]


def test_saturation_at_the_threshold_is_glass():
    for least, is_tissue in ((247, False), (246, True)):  # saturations of 8 and 9
        picture = np.full((40, 40, 3), (255, least, 255), np.uint8)
        assert bool((_clam_mask(picture, TissueParams(sthresh=8)) > 0).all()) is is_tissue


def test_otsu_looks_at_a_magnification_of_one_and_a_quarter(tmp_path, monkeypatch):
    slide = slide_of(tmp_path, lambda image: cv2.circle(image, (600, 400), 170, PINK, -1))
    looked_at = []
    overview = Slide.overview
    monkeypatch.setattr(Slide, "overview", lambda self, scale: looked_at.append(scale) or overview(self, scale))
    segment(slide, replace(PRESETS["biopsy"], method="otsu", drop_pen=False))
    assert 16.0 in looked_at, "8 µm per pixel of a slide of 0.5"
