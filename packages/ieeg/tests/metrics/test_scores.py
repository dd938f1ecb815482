"""Scores: equal to the `timescoring` package on random masks, and what is undefined is NaN."""

import math
from itertools import pairwise

import numpy as np
import pytest

from ieeg.metrics.scores import (
    EventRules,
    Score,
    apply_rules,
    cohen_kappa,
    pooled,
    score_event_masks,
    score_events,
    score_sample_masks,
    score_samples,
    szcore_mask,
    to_events,
    to_mask,
)


def random_events(rng, duration: float) -> list[tuple[float, float]]:
    """Up to eight events, some touching, some overlapping, some over the recording's ends, short and long."""
    onsets = rng.uniform(0, duration, rng.integers(0, 9))
    lengths = rng.choice([0.3, 4, 31, 89, 250, 301, 700], len(onsets)) * rng.uniform(0.5, 1.5, len(onsets))
    return [(float(a), float(min(a + b, duration))) for a, b in zip(onsets, lengths, strict=True)]


def truth_and_guess(seed: int) -> tuple[float, list, list]:
    rng = np.random.default_rng(seed)
    duration = float(rng.choice([200, 1000, 3600, 5000.5]))
    truth, guess = random_events(rng, duration), random_events(rng, duration)
    if seed % 2:  # detections near the truth
        guess = [(max(0, a + rng.normal(0, 40)), b) for a, b in truth]
        guess = [(min(a, b), b) for a, b in guess]
    return duration, truth, guess


def rules_of(seed: int) -> EventRules:
    return EventRules() if seed % 3 else EventRules(10, 20, 0.2, 120, 5)


def theirs(reference, hypothesis, rate: int, rules: EventRules):
    """timescoring's scores of two masks; and whether rounding errors of times in seconds decide something in them."""
    pytest.importorskip(
        "timescoring", reason="the reference of the scores, a dependency of the tests: pip install timescoring"
    )
    from timescoring.annotations import Annotation
    from timescoring.scoring import EventScoring, SampleScoring

    param = EventScoring.Parameters(
        rules.tolerance_start,
        rules.tolerance_end,
        rules.min_overlap,
        rules.max_event_duration,
        rules.min_duration_between_events,
    )
    masks = [Annotation(mask, rate) for mask in (reference, hypothesis)]
    events = EventScoring(*masks, param)
    pieces = [b - a for side in (events.ref, events.hyp) for a, b in side.events]
    gaps = [d[0] - c[1] for side in masks for c, d in pairwise(side.events)]
    limit = rules.min_duration_between_events
    shaky = any(piece < 1e-6 for piece in pieces) or any(abs(gap - limit) < 1e-6 for gap in gaps)
    return events, SampleScoring(*masks, fs=1), shaky and rate == 10


@pytest.mark.reliability("random events against timescoring (masks of 1, 10 and 256 Hz)", "the same scores", cases=20)
@pytest.mark.parametrize("first", range(0, 100, 20))
@pytest.mark.parametrize("rate", [1, 10, 256])
def test_masks_score_as_in_timescoring(first, rate):
    for seed in range(first, first + 20):
        duration, truth, guess = truth_and_guess(seed)
        rules = rules_of(seed)
        masks = [szcore_mask(events, duration, rate) for events in (truth, guess)]
        expected, samples, shaky = theirs(*masks, rate, rules)
        if not shaky:
            ours = score_event_masks(*masks, rate, rules).score
            assert (ours.true, ours.tp, ours.fp) == (expected.refTrue, expected.tp, expected.fp), seed
            _same_ratios(ours, expected)
        if rate == 1:
            ours = score_sample_masks(*masks, rate)
            assert (ours.true, ours.tp, ours.fp) == (samples.refTrue, samples.tp, samples.fp)
            _same_ratios(ours, samples)


def test_lists_of_events_score_as_the_official_evaluation_does():
    """It reads a table at 1 Hz, times cut to whole seconds: short events between two seconds vanish."""
    for seed in range(100):
        duration, truth, guess = truth_and_guess(seed)
        masks = []
        for events in (truth, guess):
            mask = np.zeros(int(duration), bool)
            for onset, offset in events:
                mask[int(onset) : int(offset)] = True
            masks.append(mask)
        expected, samples, _ = theirs(*masks, 1, EventRules())
        ours = score_events(truth, guess, duration).score
        assert (ours.true, ours.tp, ours.fp) == (expected.refTrue, expected.tp, expected.fp), seed
        ours = score_samples(truth, guess, duration)
        assert (ours.true, ours.tp, ours.fp) == (samples.refTrue, samples.tp, samples.fp), seed


def test_rules_at_their_edges():
    def after(*events, rate=1):
        return apply_rules(szcore_mask(events, 2000, rate), rate, EventRules(rate=rate)).tolist()

    assert after((10, 20), (110, 120)) == [[10, 20], [110, 120]], "a gap of 90 s stays"
    assert after((10, 20), (109, 120)) == [[10, 120]]
    assert after((10, 310)) == [[10, 310]], "300 s are not split"
    assert after((10, 311)) == [[10, 310], [310, 311]]
    assert after((10, 611)) == [[10, 310], [310, 610], [610, 611]]
    for onset in range(1, 3000, 7):  # in seconds, 300.1 − 0.1 is more than 300
        assert len(after((onset / 10, onset / 10 + 300), rate=10)) == 1, onset
    assert szcore_mask([(0, 1)], 99.9).shape == (99,)
    assert szcore_mask([(3.2, 3.9)], 100).sum() == 0
    assert szcore_mask([(2.9, 4.1)], 100).nonzero()[0].tolist() == [2, 3]
    score = score_events([(100, 110)], [(70, 71), (69, 69.9)], 1000)
    assert (score.score.tp, score.score.fp) == (1, 0), "a tolerance of 30 s before"
    assert score_events([(100, 110)], [(68, 70)], 1000).score.tp == 0
    assert score_events([(100, 110)], [(169, 175)], 1000).score.tp == 1, "and of 60 s after"
    assert score_events([(100, 110)], [(170, 175)], 1000).score.tp == 0


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
