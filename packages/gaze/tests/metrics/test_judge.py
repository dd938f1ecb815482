"""The judge: who is compared with whom, and measures of steps against their definitions."""

import math

import numpy as np
import pytest

from gaze.commands.evaluate import measured
from gaze.metrics.judge import MEASURES, judge_people, judge_predictor
from gaze.metrics.maps import auc
from gaze.metrics.sequences import sequence_score
from gaze.predictors.baselines import nearest_step
from gaze.predictors.predictor import log_likelihood

from ..shelves import grid_scene, trial_of, walks


def test_a_predictor_is_judged_trial_by_trial_against_its_definition():
    scene = grid_scene()
    scenes = {scene.name: scene}
    trials = walks(scene, 40)  # more than are drawn together
    predictor = nearest_step(trials, scenes)
    judged = judge_predictor(predictor, trials, scenes, samples=6, longest=12)
    assert judged.pairs == 6 * 40
    probabilities = predictor.step_probabilities(trials, scenes)
    paths = predictor.sample([scene] * 40, [None] * 40, samples=6, seeds=list(range(40)), longest=12)
    for row, trial, steps, drawn in zip(judged.rows, trials, probabilities, paths, strict=True):
        scores = [sequence_score(trial.objects, path) for path in drawn]
        assert row["sequence_score"] == pytest.approx(np.mean(scores))
        assert row["log_likelihood"] == pytest.approx(log_likelihood(steps, trial.objects).mean())
        areas = [
            auc(step[:-1], np.arange(len(scene)) == chosen) for step, chosen in zip(steps, trial.objects, strict=False)
        ]
        assert row["auc"] == pytest.approx(np.mean(areas))


def test_people_are_compared_with_others_on_the_same_search_and_never_with_themselves():
    scene = grid_scene()
    trials = [
        trial_of([0, 1, 2], scene, "a", "s1", 2),
        trial_of([0, 5, 2], scene, "b", "s2", 2),
        trial_of([7, 1, 2], scene, "c", "s3", 2),
        trial_of([0, 1, 2], scene, "a again", "s1", 2),  # the same subject: no partner of the first
        trial_of([4, 4, 3], scene, "d", "s2", 3),  # another target: alone
    ]
    judged = judge_people(trials, {scene.name: scene})
    scores = [row["sequence_score"] for row in judged.rows]
    assert scores[0] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert scores[1] == pytest.approx((2 / 3 + 1 / 3 + 2 / 3) / 3)
    assert math.isnan(scores[4])
    assert judged.pairs == 2 + 3 + 3 + 2
    assert judged.notes == ["1 of 5 searches that nobody else did have no ceiling of people"]


def test_means_are_over_trials_and_intervals_over_whole_units():
    rng = np.random.default_rng(0)
    rows = []
    for unit, mean, count in (("a", 0.2, 30), ("b", 0.4, 5), ("c", 0.9, 12)):
        for _ in range(count):
            values = dict.fromkeys(MEASURES, "")  # not told
            rows.append(values | {"scene": unit, "bits": mean + rng.normal(0, 0.01), "auc": "nan"})
    rows[0]["auc"] = 0.7
    (table,) = measured({"model": rows}, "scene").values()
    assert set(table) == {"bits", "auc"}
    assert table["bits"]["value"] == pytest.approx(np.mean([row["bits"] for row in rows]))
    assert table["bits"]["groups"] == 3
    # three units that differ: the interval reaches from near the least to near the greatest of them, not over 47 trials
    assert table["bits"]["low"] < 0.25
    assert table["bits"]["high"] > 0.8
    assert table["auc"]["value"] == 0.7
