"""Intervals by group and paired tests: known values, coverage by simulation, no certainty from little."""

import math

import numpy as np
import pytest

from core_runtime.statistics import Interval, intervals, paired_test, resampled, wilson


def accuracy_of(right):
    return lambda indices: {"accuracy": float(right[indices].mean())}


def test_wilson_is_the_published_interval():
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29
    for share, count, expected in (
        (81 / 263, 263, (0.2553, 0.3662)),
        (15 / 148, 148, (0.0624, 0.1605)),
        (0.0, 20, (0.0, 0.1611)),
        (1 / 29, 29, (0.0061, 0.1718)),
    ):
        assert wilson(share, count) == pytest.approx(expected, abs=5e-5)
    assert wilson(1.0, 20)[1] == 1.0
    low, high = wilson(0.5, 10, level=0.9)
    assert wilson(0.5, 10)[0] < low < high < wilson(0.5, 10)[1]


def test_five_items_are_no_certainty():
    for right in (np.ones(5), np.zeros(5)):
        found = intervals(accuracy_of(right), list("abcde"), resamples=200)["accuracy"]
        assert found.high - found.low > 0.4
        assert found.low <= right.mean() <= found.high
        assert found.groups == 5


def test_few_groups_never_make_a_measure_certain():
    """A measure that no resample changes: the bootstrap alone would be a point."""
    constant = lambda indices: {"auroc": 0.5}  # noqa: E731
    found = intervals(constant, range(20), resamples=50)["auroc"]
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 20))


def test_a_perfect_measure_of_many_groups_does_not_collapse():
    found = intervals(accuracy_of(np.ones(200)), range(200), resamples=50)["accuracy"]
    assert found.low == pytest.approx(wilson(1.0, 200)[0])
    assert found.high == 1.0


def test_level_and_seed():
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.7).astype(float)
    wide = intervals(accuracy_of(right), range(400), resamples=2000)["accuracy"]
    narrow = intervals(accuracy_of(right), range(400), level=0.9, resamples=2000)["accuracy"]
    spread = math.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert (wide.high - wide.low) / 2 == pytest.approx(1.96 * spread, rel=0.06)
    assert (narrow.high - narrow.low) / 2 == pytest.approx(1.645 * spread, rel=0.06)
    assert wide == intervals(accuracy_of(right), range(400), resamples=2000)["accuracy"]
    assert str(Interval(0.1, 0.25, 0.95, 3)) == "95 % interval 0.100 to 0.250"


def test_repeats_of_a_patient_are_no_new_evidence():
    """Ten copies of each patient's item: the interval is that of the patients."""
    rng = np.random.default_rng(1)
    right = (rng.random(60) < 0.8).astype(float)
    once = intervals(accuracy_of(right), range(60), resamples=3000)["accuracy"]
    copies = intervals(accuracy_of(np.repeat(right, 10)), np.repeat(np.arange(60), 10).tolist(), resamples=3000)[
        "accuracy"
    ]
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high), abs=0.02)
    assert copies.groups == 60
    for indices in resampled(["a", "b", "a"], 20):
        counts = np.bincount(indices, minlength=3)
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] == 2


@pytest.mark.parametrize("patients", [6, 15, 40, 120])
def test_intervals_cover_the_truth(patients):
    """Accuracy of 0.9 over patients with one to three slides that agree with each other: at least 93 of 100 intervals hold it."""
    rng = np.random.default_rng(patients)
    hits, trials = 0, 100
    for _ in range(trials):
        of_patient = rng.random(patients) < 0.9
        slides = rng.integers(1, 4, patients)
        right = np.repeat(of_patient, slides).astype(float)
        groups = np.repeat(np.arange(patients), slides).tolist()
        found = intervals(accuracy_of(right), groups, resamples=200)["accuracy"]
        hits += found.low <= 0.9 <= found.high
    assert hits / trials >= 0.93


def test_what_cannot_be_told_has_no_interval():
    found = intervals(lambda indices: {"x": math.nan, "y": 1.0}, [1, 2], independent={"y": 1}, resamples=10)
    assert math.isnan(found["x"].low)
    assert found["y"].high - found["y"].low > 0.6, "one group says next to nothing"
    assert math.isnan(intervals(lambda i: {"x": 3.0}, ["a"], bounded=False, resamples=10)["x"].low)


def agreement(truth):
    return lambda answers, indices: float((answers == truth[indices]).mean())


def test_paired_test_is_exact_for_few_and_finds_a_real_difference():
    truth = np.zeros(5, int)
    found = paired_test(agreement(truth), truth, 1 - truth, range(5), resamples=50)
    assert found.p == pytest.approx(2 / 32)
    assert found.difference == 1
    same = paired_test(agreement(truth), truth, truth, range(5), resamples=50)
    assert (same.p, same.difference) == (1.0, 0.0)

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 120)
    good = np.where(rng.random(120) < 0.95, truth, 1 - truth)
    poor = np.where(rng.random(120) < 0.7, truth, 1 - truth)
    found = paired_test(agreement(truth), good, poor, range(120), resamples=500)
    assert found.p < 0.01
    assert found.interval.low > 0


def test_paired_test_counts_patients_not_slides():
    """One patient with fifty slides is one patient."""
    truth = np.zeros(53, int)
    first, second = truth.copy(), truth.copy()
    second[:50] = 1
    found = paired_test(agreement(truth), first, second, ["a"] * 50 + ["b", "c", "d"], resamples=50)
    assert found.p == 1.0


def test_under_the_null_p_is_not_too_small():
    rng = np.random.default_rng(2)
    small = 0
    for _ in range(120):
        truth = rng.integers(0, 2, 30)
        first, second = (np.where(rng.random(30) < 0.8, truth, 1 - truth) for _ in range(2))
        small += paired_test(agreement(truth), first, second, range(30), resamples=99).p <= 0.05
    assert small / 120 <= 0.1
