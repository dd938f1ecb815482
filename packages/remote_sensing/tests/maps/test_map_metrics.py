"""Measures of masks, by hand."""

import numpy as np
import pytest

from remote_sensing.maps.metrics import PixelCounts


def test_measures_of_pixels_by_hand():
    predicted, truth = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    predicted[:6], truth[2:] = True, True  # 40 in both, 20 and 40 in one alone
    counts = PixelCounts()
    counts.add(predicted, truth)
    measures = counts.measures()
    assert measures["iou"] == pytest.approx(0.4)
    assert measures["f1"] == pytest.approx(80 / 140)
    assert measures["precision"] == pytest.approx(40 / 60)
    assert measures["recall"] == pytest.approx(0.5)
