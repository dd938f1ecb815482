"""Baselines: distributions that sum to one, samples that follow them, and what they learn."""

import numpy as np
import pytest

from gaze.predictors.baselines import centre, nearest_step, stop_probabilities, uniform
from gaze.predictors.predictor import log_likelihood

from ..shelves import grid_scene, trial_of, walks


@pytest.mark.parametrize("make", [uniform, centre, nearest_step])
def test_probabilities_sum_to_one_and_never_stop_at_once(make):
    scene = grid_scene()
    trials = walks(scene, 20)
    baseline = make(trials, {scene.name: scene})
    for trial, steps in zip(trials, baseline.step_probabilities(trials, {scene.name: scene}), strict=True):
        assert steps.shape == (len(trial.objects) + 1, len(scene) + 1)
        np.testing.assert_allclose(steps.sum(1), 1)
        assert steps[0, -1] == 0
        assert np.isfinite(log_likelihood(steps, trial.objects)).all()


@pytest.mark.parametrize("make", [uniform, centre, nearest_step])
def test_samples_follow_the_probabilities(make):
    scene = grid_scene()
    baseline = make(walks(scene, 40), {scene.name: scene})
    (paths,) = baseline.sample([scene], [None], samples=4000, seeds=[3], longest=6)
    firsts = np.bincount([path[0] for path in paths], minlength=len(scene)) / len(paths)
    expected = baseline._next(scene, np.zeros((1, 0), np.int64))[0, :-1]
    np.testing.assert_allclose(firsts, expected, atol=0.03)
    start = int(firsts.argmax())
    after = [path[1] if len(path) > 1 else len(scene) for path in paths if path[0] == start]
    seconds = np.bincount(after, minlength=len(scene) + 1) / len(after)
    np.testing.assert_allclose(seconds, baseline._next(scene, np.array([[start]]))[0], atol=0.07)
    assert all(1 <= len(path) <= 6 for path in paths)


def test_samples_depend_on_the_seed_alone():
    scene, other = grid_scene(), grid_scene(2, 2, "other")
    baseline = nearest_step(walks(scene, 20), {scene.name: scene})
    alone = baseline.sample([scene], [None], samples=5, seeds=[7], longest=9)
    both = baseline.sample([other, scene], [None, 2], samples=5, seeds=[1, 7], longest=9)
    assert both[1] == alone[0]
    more = baseline.sample([scene], [None], samples=9, seeds=[7], longest=9)
    assert more[0][:5] == alone[0]


def test_nearest_step_learns_how_far_and_how_often_people_stay():
    scene = grid_scene()
    near = nearest_step(walks(scene, 60), {scene.name: scene})
    rng = np.random.default_rng(1)
    far = nearest_step(
        [trial_of(rng.integers(0, len(scene), 8), scene, str(number)) for number in range(60)], {scene.name: scene}
    )
    assert near.settings["reach_in_cells"] < 1 < far.settings["reach_in_cells"]
    stays = sum(a == b for trial in walks(scene, 60) for a, b in zip(trial.objects, trial.objects[1:], strict=False))
    steps = sum(len(trial.objects) - 1 for trial in walks(scene, 60))
    assert near.settings["refixations"] == pytest.approx(stays / steps)


def test_one_object_alone_is_looked_at():
    scene = grid_scene(1, 1)
    trials = [trial_of([0], scene), trial_of([0, 0], scene, "again")]
    for make in (uniform, centre, nearest_step):
        baseline = make(trials, {scene.name: scene})
        (steps,) = baseline.step_probabilities(trials[1:], {scene.name: scene})
        np.testing.assert_allclose(steps.sum(1), 1)
        assert set(baseline.sample([scene], [None], samples=3, seeds=[0], longest=4)[0][0]) == {0}


def test_paths_stop_as_training_paths_do():
    scene = grid_scene()
    trials = [trial_of([0] * length, scene, f"{length} {n}") for length in (2, 3) for n in range(50)]
    stops = stop_probabilities(trials)
    assert stops[0] == 0
    assert stops[1] < 0.01
    assert stops[2] == pytest.approx(0.5, abs=0.01)
    assert stops[3] > 0.95
