"""Measures: perfect, blind and random detectors; intervals, curve, calibration, paired test."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ieeg.metrics.measures import Judged, by_subject, calibration, compare, count, judge
from ieeg.results.options import EventOptions


def recording(subject="a", found=1.0, seed=0, seizures=((300.0, 360.0), (1500.0, 1550.0))):
    """An hour; `found`: how clearly seizures stand out."""
    rng = np.random.default_rng(seed)
    marked = np.array(seizures, float).reshape(-1, 2)
    low = np.arange(720) * 5
    truth = np.zeros(720)
    for a, b in marked:
        truth[(low <= b) & (a <= low + 5)] = 1
    p = np.clip(0.05 + 0.9 * found * truth + (1 - found) * rng.random(720), 0, 1).astype(np.float32)
    return Judged(subject, f"{subject}{seed}", 3600.0, 5.0, marked, p)


def test_a_perfect_detector():
    m = count(recording(), EventOptions()).measures()
    assert m["window_kappa"] == m["window_f1"] == m["event_sensitivity"] == m["event_precision"] == 1
    assert m["event_false_per_hour"] == m["latency"] == 0
    assert m["time_in_warning"] == pytest.approx(125 / 3600, abs=0.005)


def test_a_blind_detector_and_no_seizures():
    blind = replace(recording(), probability=np.zeros(720, np.float32))
    m = count(blind, EventOptions()).measures()
    assert m["event_sensitivity"] == 0
    assert math.isnan(m["event_precision"])
    assert math.isnan(m["latency"])
    nothing = count(recording(seizures=()), EventOptions()).measures()
    assert math.isnan(nothing["event_sensitivity"])
    assert nothing["event_false_per_hour"] == 0


def test_latency_is_from_onset_to_first_detection():
    found = Judged("a", "a", 3600, 5, np.array([[300.0, 360.0]]), None, np.array([[317.0, 350.0]]))
    assert count(found, EventOptions()).measures()["latency"] == 17


def test_everything_together():
    data = [recording(s, f, i) for i, (s, f) in enumerate([("a", 1.0), ("a", 0.8), ("b", 0.6), ("c", 0.7), ("d", 0.3)])]
    result = judge(data, EventOptions(min_duration=10), resamples=300)
    assert result["subjects"] == 4
    assert result["seizures"] == 10
    f1 = result["measures"]["event_f1"]
    assert f1["mean"] == pytest.approx(np.mean([m["event_f1"] for m in result["per_subject"].values()]))
    assert f1["mean_interval"][0] <= f1["mean"] <= f1["mean_interval"][1]
    assert f1["pooled_interval"][0] <= f1["pooled"] <= f1["pooled_interval"][1]
    false = [p["event_false_per_hour"] for p in result["curve"]]
    assert false[0] > false[-1]
    assert result["curve"][-1]["event_sensitivity"] < 1
    assert math.isnan(judge(data[:1], resamples=50)["measures"]["event_f1"]["mean_interval"][0])
    with pytest.raises(ValueError, match="no recording to evaluate"):
        judge([])


def test_time_in_warning_ends_with_the_recording():
    """A table of events may say more than the recording holds."""
    none = np.zeros((0, 2))
    judged = Judged("a", "a1", 20.0, 5.0, none, events=np.array([[5.0, 10.0], [15.0, 40.0]]))
    assert count(judged, EventOptions()).measures()["time_in_warning"] == pytest.approx(10 / 20)


def test_intervals_are_of_95_percent_and_the_curve_holds_the_threshold_in_use():
    from ieeg.metrics.measures import _quantiles

    np.testing.assert_allclose(_quantiles(np.linspace(0, 1, 1001)[:, None])[:, 0], [0.025, 0.975])
    data = [recording(s, f, i) for i, (s, f) in enumerate([("a", 1.0), ("b", 0.6), ("c", 0.7)])]
    result = judge(data, EventOptions(threshold=0.437), resamples=200)
    point = next(p for p in result["curve"] if p["threshold"] == 0.437)
    for name in ("event_sensitivity", "event_false_per_hour", "time_in_warning"):
        assert point[name] == result["measures"][name]["pooled"]


def test_calibration_of_honest_probabilities():
    rng = np.random.default_rng(0)
    truth = rng.random(4000)
    seizures = [(i * 5 + 1.0, i * 5 + 2.0) for i in range(4000) if rng.random() < truth[i]]
    honest = Judged("a", "a", 20000, 5, np.array(seizures), truth.astype(np.float32))
    assert calibration([honest])["expected_calibration_error"] < 0.03
    over = Judged("a", "a", 20000, 5, np.array(seizures), (truth**0.2).astype(np.float32))
    assert calibration([over])["expected_calibration_error"] > 0.2


def test_paired_comparison():
    good = by_subject([recording(f"s{i}", 0.95, i) for i in range(8)], EventOptions())
    poor = by_subject([recording(f"s{i}", 0.3, i) for i in range(8)], EventOptions())
    result = compare(good, poor)["window_f1"]
    assert result["difference"] < 0
    assert result["p"] == pytest.approx(2 / 2**8)
    assert compare(good, good)["window_f1"]["p"] == 1
    with pytest.raises(ValueError, match="different subjects"):
        compare(good, {})
