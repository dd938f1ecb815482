import time

import cv2
import numpy as np
import pytest
import shapely

from core_runtime.errors import UserError
from pathology_mil.slides.grids import contour_grid, global_grid
from pathology_mil.slides.tissue import Tissue


def tissue_of(*outlines, holes=()):
    return Tissue(
        [np.array(o, np.int32) for o in outlines],
        [[np.array(h, np.int32) for h in holes] if i == 0 else [] for i in range(len(outlines))],
        [1.0] * len(outlines),
        (1, 1),
    )


SQUARE = [(100, 100), (100, 899), (899, 899), (899, 100)]
HOLE = [(300, 300), (300, 600), (600, 600), (600, 300)]


def wavy(rng, n=200):
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    r = 300 + 60 * np.cos(5 * angle + rng.uniform(0, 6)) + rng.normal(0, 8, n)
    return np.stack([500 + r * np.cos(angle), 500 + r * np.sin(angle)], 1).astype(np.int32)


@pytest.mark.parametrize("rule", ["four_pt", "four_pt_hard", "center", "basic"])
def test_membership_is_that_of_opencv(rule):
    """The definition, point by point, against the vectorised test; also the order: x slow, y fast."""
    outline = wavy(np.random.default_rng(0))
    hole = [(450, 450), (450, 560), (560, 560), (560, 450)]
    tissue = tissue_of(outline, holes=[hole])
    got = contour_grid(tissue, dimensions=(1000, 1000), side=(64, 64), step=(48, 48), contour_fn=rule)

    def inside(contour, x, y):
        return cv2.pointPolygonTest(np.array(contour, np.int32), (float(x), float(y)), False)

    expected = []
    left, top, width, height = cv2.boundingRect(outline)
    for x in range(left, left + width, 48):
        for y in range(top, top + height, 48):
            cx, cy = x + 32, y + 32
            points = {
                "basic": [(x, y)],
                "center": [(cx, cy)],
            }.get(rule, [(cx + a, cy + b) for a in (-16, 16) for b in (-16, 16)])
            hits = [inside(outline, *p) >= 0 for p in points]
            if (all(hits) if rule == "four_pt_hard" else any(hits)) and inside(hole, cx, cy) <= 0:
                expected.append((x, y))
    assert got.tolist() == [list(p) for p in expected]
    assert len(got) > 50


def test_padding_keeps_tiles_on_the_slide():
    tissue = tissue_of([(0, 0), (0, 999), (999, 999), (999, 0)])
    options = {"dimensions": (1000, 1000), "side": (256, 256), "step": (256, 256), "contour_fn": "basic"}
    assert len(contour_grid(tissue, **options)) == 16
    assert contour_grid(tissue, use_padding=False, **options).max() <= 1000 - 256
    with pytest.raises(UserError, match="contour function"):
        contour_grid(tissue, **options | {"contour_fn": "nine_pt"})


def test_tiles_that_just_fit_are_there_without_padding():
    tissue = tissue_of([(0, 0), (0, 767), (767, 767), (767, 0)])
    options = {"dimensions": (768, 768), "side": (256, 256), "step": (256, 256), "contour_fn": "basic"}
    tiles = contour_grid(tissue, use_padding=False, **options)
    assert sorted(map(tuple, tiles.tolist())) == [(x, y) for x in (0, 256, 512) for y in (0, 256, 512)]


def test_the_global_grid_is_row_major_and_sticks_out():
    tissue = tissue_of([(0, 0), (0, 1000), (1000, 1000), (1000, 0)])
    coords = global_grid(tissue, dimensions=(1000, 600), side=256, step=256)
    assert coords.tolist() == [[x, y] for y in (0, 256, 512) for x in (0, 256, 512, 768)]


def test_share_of_tissue_and_holes():
    tissue = tissue_of(SQUARE, holes=[HOLE])
    options = {"dimensions": (1000, 1000), "side": 100, "step": 100}
    touching = global_grid(tissue, **options)
    full = global_grid(tissue, min_tissue=1.0, **options)
    # by the definition, box by box
    shape = tissue.polygons()
    boxes = {(x, y): shapely.box(x, y, x + 100, y + 100) for x in range(0, 1000, 100) for y in range(0, 1000, 100)}
    assert {tuple(c) for c in touching.tolist()} == {k for k, b in boxes.items() if b.intersects(shape)}
    assert {tuple(c) for c in full.tolist()} == {
        k for k, b in boxes.items() if b.intersection(shape).area >= 1e4 - 1e-3
    }
    assert len(global_grid(tissue, holes=False, min_tissue=0.9, **options)) > len(
        global_grid(tissue, min_tissue=0.9, **options)
    )
    with pytest.raises(UserError, match="between 0 and 1"):
        global_grid(tissue, min_tissue=1.5, **options)


@pytest.mark.parametrize(("side", "step"), [(32, 32), (32, 20), (32, 8), (20, 32)])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_global_grid_is_its_definition(side, step, share):
    """Box by box, for tiles that touch, overlap or leave gaps; outlines with corners on the grid's lines, a hole, two pieces."""
    outline = wavy(np.random.default_rng(side + step)) // 4 * 4
    tissue = tissue_of(outline, [(8, 8), (8, 200), (72, 200), (72, 8)], holes=[HOLE])
    shape = tissue.polygons()
    expected = []
    for y in range(0, 1000, step):
        for x in range(0, 1000, step):
            box = shapely.box(x, y, x + side, y + side)
            if box.intersects(shape) and box.intersection(shape).area >= share * side**2 * (1 - 1e-9):
                expected.append([x, y])
    got = global_grid(tissue, dimensions=(1000, 1000), side=side, step=step, min_tissue=share)
    assert got.tolist() == expected
    assert len(got) > 50


def test_two_pieces_in_a_tile_add_up():
    tissue = tissue_of([(0, 0), (0, 100), (30, 100), (30, 0)], [(70, 0), (70, 100), (100, 100), (100, 0)])
    options = {"dimensions": (100, 100), "side": 100, "step": 100}
    assert len(global_grid(tissue, min_tissue=0.6, **options)) == 1
    assert len(global_grid(tissue, min_tissue=0.61, **options)) == 0


def test_no_tissue_no_tiles():
    empty = Tissue([], [], [], (1, 1))
    assert global_grid(empty, dimensions=(100, 100), side=10, step=10).shape == (0, 2)
    assert contour_grid(empty, dimensions=(100, 100), side=(10, 10), step=(10, 10)).shape == (0, 2)
    line = tissue_of([(5, 5), (9, 5)], [(7, 7)])
    assert global_grid(line, dimensions=(100, 100), side=10, step=10).shape == (0, 2)
    assert contour_grid(line, dimensions=(100, 100), side=(10, 10), step=(10, 10), contour_fn="basic").shape[1] == 2


def test_a_tile_whose_centre_lies_on_the_edge_of_a_hole_stays():
    tissue = tissue_of(
        [(0, 0), (0, 400), (400, 400), (400, 0)], holes=[[(125, 100), (125, 300), (300, 300), (300, 100)]]
    )
    tiles = contour_grid(tissue, dimensions=(400, 400), side=(50, 50), step=(50, 50), contour_fn="basic")
    assert [100, 150] in tiles.tolist(), "its centre is (125, 175)"
    assert [150, 150] not in tiles.tolist()


def test_an_outline_of_20_000_vertices_on_a_large_slide_takes_no_minute():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    r = 1 + 0.15 * np.sin(37 * angle) + 0.05 * np.sin(401 * angle)
    tissue = tissue_of(np.stack([50_000 + 32_000 * r * np.cos(angle), 40_000 + 25_600 * r * np.sin(angle)], 1))
    began = time.process_time()
    by_contour = contour_grid(tissue, dimensions=(100_000, 80_000), side=(256, 256), step=(256, 256))
    whole = global_grid(tissue, dimensions=(100_000, 80_000), side=256, step=256, min_tissue=0.1)
    assert time.process_time() - began < 2
    # both cover the tissue: about its area in tiles
    assert min(len(by_contour), len(whole)) > tissue.polygons().area / 256**2
