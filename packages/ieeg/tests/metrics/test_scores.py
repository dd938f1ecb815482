"""Scores: equal to the `timescoring` package on random masks, and what is undefined is NaN."""

import math

import numpy as np
import pytest

from ieeg.metrics.scores import EventRules, Score, cohen_kappa, pooled, score_events, score_samples, to_events, to_mask

timescoring = pytest.importorskip("timescoring", reason="pip install timescoring")


def random_events(rng, duration: float) -> list[tuple[float, float]]:
    """Up to eight events, some touching, some overlapping, some over the recording's ends, short and long."""
    onsets = rng.uniform(0, duration, rng.integers(0, 9))
    lengths = rng.choice([0.3, 4, 31, 89, 250, 301, 700], len(onsets)) * rng.uniform(0.5, 1.5, len(onsets))
    return [(float(a), float(min(a + b, duration))) for a, b in zip(onsets, lengths, strict=True)]


@pytest.mark.parametrize("seed", range(150))
def test_equal_to_timescoring(seed):
    from timescoring.annotations import Annotation
    from timescoring.scoring import EventScoring, SampleScoring

    rng = np.random.default_rng(seed)
    duration = float(rng.choice([200, 1000, 3600, 5000.5]))
    truth, guess = random_events(rng, duration), random_events(rng, duration)
    if seed % 2:  # detections near the truth
        guess = [(max(0, a + rng.normal(0, 40)), b) for a, b in truth]
        guess = [(min(a, b), b) for a, b in guess]
    rules = EventRules() if seed % 3 else EventRules(10, 20, 0.2, 120, 5)
    samples = round(duration * 10)
    reference, hypothesis = (Annotation(to_mask(e, samples, 10), 10) for e in (truth, guess))
    param = EventScoring.Parameters(
        rules.tolerance_start,
        rules.tolerance_end,
        rules.min_overlap,
        rules.max_event_duration,
        rules.min_duration_between_events,
    )
    theirs = EventScoring(reference, hypothesis, param)
    ours = score_events(truth, guess, duration, rules=rules).score
    assert (ours.true, ours.tp, ours.fp) == (theirs.refTrue, theirs.tp, theirs.fp)
    _same_ratios(ours, theirs)
    seconds = int(duration)
    masks = [to_mask(e, seconds, 1) for e in (truth, guess)]
    theirs = SampleScoring(*(Annotation(m, 1) for m in masks), fs=1)
    ours = score_samples(truth, guess, seconds)
    assert (ours.true, ours.tp, ours.fp) == (theirs.refTrue, theirs.tp, theirs.fp)
    _same_ratios(ours, theirs)


def _same_ratios(ours: Score, theirs):
    for a, b in (
        (ours.sensitivity, theirs.sensitivity),
        (ours.precision, theirs.precision),
        (ours.f1, theirs.f1),
        (ours.false_per_day, theirs.fpRate),
    ):
        assert (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-9), (ours, vars(theirs))


def test_masks_and_events_round_trip():
    mask = np.random.default_rng(0).random(500) > 0.7
    assert (to_mask(to_events(mask, 10), 500, 10) == mask).all()


def test_events_outside_the_recording_are_clipped():
    score = score_events([(90, 130)], [(100, 400)], 100)
    assert score.reference.tolist() == [[90, 100]]
    assert len(score.hypothesis) == 0


def test_events_that_are_none():
    with pytest.raises(ValueError, match="onset"):
        score_events([(5, 3)], [], 100)
    with pytest.raises(ValueError, match="onset"):
        score_events([], [(1, float("nan"))], 100)


def test_kappa_and_pooling():
    assert cohen_kappa(20, 5, 15, 10) == pytest.approx(0.4)
    assert math.isnan(cohen_kappa(0, 0, 9, 0))
    assert cohen_kappa(3, 0, 7, 0) == 1
    total = pooled([Score(2, 1, 3, 1.0), Score(0, 0, 1, 23.0)])
    assert (total.true, total.tp, total.fp, total.false_per_day) == (2, 1, 4, 4.0)
