"""Thresholds, pieces, boxes and points by hand."""

import numpy as np

from vision_language.model.masks import box_of, mask_of, otsu, peak_of


def two_pieces():
    heat = np.zeros((6, 8), np.float32)
    heat[1:3, 1:4] = 0.8  # the larger one
    heat[4, 6] = 0.9  # the warmer one
    return heat


def test_the_point_lies_in_the_mask():
    heat = two_pieces()
    mask = mask_of(heat, 0.5)
    assert mask.sum() == 6
    assert box_of(mask) == (1, 1, 4, 3)
    x, y = peak_of(heat, mask)
    assert mask[int(y), int(x)]
    assert peak_of(heat) == (6.5, 4.5)
    held = mask_of(heat, 0.5, holding=(6.5, 4.5))
    assert box_of(held) == (6, 4, 7, 5)


def test_an_empty_mask_has_no_box():
    assert box_of(mask_of(np.zeros((3, 3)), 0.5)) is None


def test_otsu_parts_two_groups_and_takes_flat_heat():
    heat = np.array([[0.1, 0.12, 0.11, 0.9, 0.92]])
    assert 0.12 < otsu(heat) < 0.9
    assert otsu(np.full((2, 2), 0.3)) == 0.3
