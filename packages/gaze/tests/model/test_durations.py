"""Durations of predicted fixations: fitted to people's by kind of fixation, and named as such."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.model.durations import KINDS, fit_durations, kinds_of, read_durations

from ..shelves import grid_scene, trial_of

MEDIANS = {"first": 150.0, "target": 500.0, "again": 120.0, "back": 200.0, "new": 260.0}


def people(count=200, spread=0.3):
    scene, rng = grid_scene(), np.random.default_rng(0)
    trials = []
    for number in range(count):
        path = rng.integers(0, 5, 8).tolist()
        trial = trial_of(path, scene, str(number), target=3)
        lasted = [MEDIANS[kind] * np.exp(spread * rng.standard_normal()) for kind in kinds_of(path, 3)]
        trials.append(replace(trial, scanpath=replace(trial.scanpath, duration=np.array(lasted))))
    return trials


def test_kinds_of_fixations():
    assert kinds_of([3, 1, 1, 2, 1, 3, 3], 3) == ["first", "new", "again", "new", "back", "target", "target"]
    assert kinds_of([3, 1, 3], None) == ["first", "new", "back"]


def test_what_people_do_is_learned_by_kind():
    fitted = fit_durations(people())
    for kind, median in MEDIANS.items():
        assert np.exp(fitted.kinds[kind].mean) == pytest.approx(median, rel=0.08)
        assert fitted.kinds[kind].deviation == pytest.approx(0.3, rel=0.15)
    path = [0, 1, 1, 3]
    assert fitted.typical(path, 3) == pytest.approx([150, 260, 120, 500], rel=0.08)
    rng = np.random.default_rng(1)
    drawn = np.array([fitted.draw(path, 3, rng) for _ in range(2000)])
    np.testing.assert_allclose(np.median(drawn, 0), fitted.typical(path, 3), rtol=0.05)


def test_a_rare_kind_takes_all_fixations_and_unknown_durations_give_none():
    few = fit_durations(people(4))
    assert few.kinds["again"] == few.kinds["first"]
    assert few.kinds["again"].fixations == 32
    scene = grid_scene()
    assert fit_durations([trial_of([0, 1, 2], scene)] * 30) is None


def test_a_model_folder_keeps_them_strictly():
    fitted = fit_durations(people())
    config = json.loads(json.dumps({"preprocessing": {"durations": fitted.to_json()}}))
    assert read_durations(config, "config.json") == fitted
    assert set(config["preprocessing"]["durations"]) == set(KINDS)
    assert read_durations({"preprocessing": {"durations": None}}, "config.json") is None
    config["preprocessing"]["durations"]["new"]["mean"] = "long"
    with pytest.raises(UserError, match=r"preprocessing\.durations\.new\.mean"):
        read_durations(config, "config.json")
