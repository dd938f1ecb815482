"""Proposals and measures against their plain definitions."""

import numpy as np
import pytest

from vision_models.actions.metrics.precision import area, average_precision
from vision_models.actions.metrics.recall import average_recall
from vision_models.actions.model.cells import Cells
from vision_models.actions.model.proposals import Selection, candidates_of, soft_nms
from vision_models.actions.model.targets import segment_iou


def plain_soft_nms(segments, scores, alpha, low, high, most):
    """As the specification says it, one candidate after another."""
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    now, kept = {i: scores[i] for i in left}, []
    while len(left) > 1 and len(kept) < most:
        best = max(left, key=lambda i: now[i])
        left.remove(best)
        kept.append((best, now[best]))
        width = segments[best, 1] - segments[best, 0]
        for i in left:
            iou = segment_iou(segments[[i]], segments[[best]])[0, 0]
            if iou > low + (high - low) * width:
                now[i] *= np.exp(-(iou**2) / alpha)
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_soft_nms_is_the_plain_loop(seed):
    rng = np.random.default_rng(seed)
    segments = np.sort(rng.random((150, 2)), axis=1)
    scores = rng.random(150)
    kept, final = soft_nms(segments, scores, alpha=0.3, low=0.2, high=0.8, most=60)
    plain = plain_soft_nms(segments, scores, 0.3, 0.2, 0.8, 60)
    assert kept.tolist() == [i for i, _ in plain]
    np.testing.assert_allclose(final, [score for _, score in plain], rtol=1e-12)


def test_soft_nms_drops_the_last_unless_asked():
    segments, scores = np.array([[0.0, 0.5], [0.5, 1.0]]), np.array([0.5, 0.9])
    assert soft_nms(segments, scores)[0].tolist() == [1]
    assert soft_nms(segments, scores, keep_last=True)[0].tolist() == [1, 0]
    assert soft_nms(segments[:0], scores[:0])[0].tolist() == []


def test_candidates_by_hand():
    cells = Cells(3, 3)
    confidence = np.full((2, 3, 3), 0.5)
    start, end = np.array([0.9, 0.1, 0.2]), np.array([0.1, 0.2, 0.8])
    every = candidates_of(confidence, start, end, cells)
    assert len(every.scores) == 6
    published = candidates_of(confidence, start, end, cells, Selection(to_the_end=False))
    assert published.segments[:, 1].max() < 1
    row = np.flatnonzero((published.segments == [0, 1 / 3]).all(1))[0]
    assert published.scores[row] == pytest.approx(0.9 * 0.2 * 0.25)  # p_s[0] · p_e[1] · 0.5 · 0.5
    peaks = candidates_of(confidence, start, end, cells, Selection(candidates="peaks", score="cls*reg"))
    assert peaks.segments[:, 0].tolist() == [0, 0]
    assert set(peaks.scores) == {0.25}


def test_average_precision_by_hand():
    truth = np.array([[0, 0, 10, 0], [0, 20, 30, 0], [1, 0, 10, 0.0]])
    predicted = np.array([[0, 0, 10, 0, 0.9], [0, 0, 9, 0, 0.8], [1, 0, 5, 0, 0.7], [0, 20, 30, 0, 0.6]])
    # true, false (a duplicate), false at 0.6, true: 1/3 · 1 + 1/3 · 2/4
    assert average_precision(truth, predicted, [0.6], 1)[0, 0] == pytest.approx(1 / 3 + 1 / 6)
    assert area(np.array([], bool), 3) == 0
    assert np.isnan(average_precision(truth, predicted, [0.6], 2)[0, 1])


def test_a_prediction_in_a_video_without_that_class_is_false():
    truth = np.array([[0, 0, 10, 0.0]])
    predicted = np.array([[5, 0, 10, 0, 0.9], [0, 0, 10, 0, 0.5]])
    assert average_precision(truth, predicted, [0.5], 1)[0, 0] == pytest.approx(0.5)


def test_recall_of_the_truth_itself_is_1():
    truth = np.array([[0, 0, 10], [0, 20, 30], [1, 0, 10.0]])
    proposals = np.column_stack([truth, np.ones(3)])
    curve = average_recall(truth, proposals, most=10)
    assert curve.mean[-1] == 1
    assert curve.at(10) == 1
    assert average_recall(truth, proposals[:0], most=10).auc == 0
