"""Overlap, lesions, calibration and abstention on masks whose measures can be told by hand."""

import math

import numpy as np
import pytest

from medical_segmentation.organs.metrics.certainty import (
    THRESHOLDS,
    Reliability,
    conformal_threshold,
    fit_temperature,
    risk_curve,
)
from medical_segmentation.organs.metrics.lesions import lesion_scores
from medical_segmentation.organs.metrics.overlap import measure


def box(*corner, side=4, shape=(16, 16, 16)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + side) for c in corner)] = True
    return mask


def test_a_mask_and_itself():
    result = measure(box(3, 3, 3), box(3, 3, 3), (1, 1, 2))
    assert result.dice == result.volume_similarity == result.surface_dice == 1
    assert result.msd == result.hausdorff == 0


def test_a_shift_by_two_voxels_of_three_millimetres():
    result = measure(box(3, 3, 3), box(3, 3, 5), (1, 1, 3))
    assert result.dice == pytest.approx(0.5)
    assert result.hausdorff == 6
    assert measure(box(3, 3, 3), box(3, 3, 5), (1, 1, 1)).hausdorff == 2


def test_empty_sides():
    empty = np.zeros((16, 16, 16), bool)
    both, one = measure(empty, empty, (1, 1, 1)), measure(box(3, 3, 3), empty, (1, 1, 1))
    assert (both.dice, both.volume_similarity, both.surface_dice) == (1, 1, 1)
    assert (one.dice, one.surface_dice) == (0, 0)
    assert math.isnan(one.hausdorff95)
    assert math.isnan(both.msd)
    with pytest.raises(ValueError, match="different shapes"):
        measure(empty, empty[1:], (1, 1, 1))


def test_lesions_are_counted_each():
    truth = box(0, 0, 0, side=2) | box(6, 6, 6) | box(12, 12, 12, side=2)
    prediction = box(6, 6, 6) | box(12, 0, 0, side=2) | box(0, 0, 0, side=1)
    result = lesion_scores(prediction, truth)
    assert (result.truths, result.found, result.predictions, result.false) == (3, 2, 3, 1)
    assert result.sensitivity == pytest.approx(2 / 3)
    assert result.f1 == pytest.approx(4 / 6)
    assert result.dice == pytest.approx((1 + 2 * 1 / (8 + 1) + 0 + 0) / 4)
    assert math.isnan(lesion_scores(truth & False, truth & False).f1)


def test_a_confidence_that_is_right_as_often_as_it_says():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.4, 1, 200_000)
    right = rng.random(200_000) < confidence
    reliability = Reliability()
    reliability.add(np.ones(200_000, int), np.where(right, 1, 2), confidence)
    assert reliability.ece < 0.01
    reliability.add(np.ones(200_000, int), np.full(200_000, 2), np.full(200_000, 0.9))
    assert reliability.ece > 0.4


def test_temperature_of_logits_that_are_three_times_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 3))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (rng.random((20_000, 1)) > shares.cumsum(1)).sum(1)
    scaled = 3 * logits
    log_shares = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
    assert fit_temperature(log_shares, truth) == pytest.approx(3, rel=0.05)


def test_abstention_keeps_its_promise_on_new_cases():
    rng = np.random.default_rng(0)

    def case():
        confidence = rng.uniform(0.33, 1, 400)
        truth = np.ones(400, int)
        predicted = np.where(rng.random(400) < confidence, 1, 2)
        return risk_curve(predicted, truth, confidence)

    risks = []
    for _ in range(200):
        threshold = conformal_threshold([case() for _ in range(20)], 0.1)
        place = int(np.abs(THRESHOLDS - threshold).argmin())
        risks.append(case()[place])
    assert np.mean(risks) <= 0.1
    assert np.mean(risks) > 0.02  # and it is not merely cautious
    assert conformal_threshold([case() for _ in range(5)], 0.1) is None
    assert conformal_threshold([], 0.1) is None


def test_risk_falls_with_the_threshold():
    rng = np.random.default_rng(1)
    curve = risk_curve(rng.integers(0, 3, 500), rng.integers(0, 3, 500), rng.random(500))
    assert (np.diff(curve) <= 0).all()
