"""Measures of paths: identities, edges, and the plain definitions beside the fast forms."""

import math

import numpy as np
import pytest

from gaze.metrics.behaviour import Behaviour, behaviour_of, delta
from gaze.metrics.maps import auc, information_gain, nss
from gaze.metrics.multimatch import multimatch, multimatch_pairs
from gaze.metrics.recurrence import recurrence_of_objects, recurrence_of_points
from gaze.metrics.sequences import (
    edit_distance,
    edit_distances,
    scanmatch,
    scanmatch_pairs,
    sequence_score,
    sequence_scores,
)

SCREEN = (1680, 1050)


def plain_common(a, b):
    """Longest common subsequence, cell by cell."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = max(table[i, j + 1], table[i + 1, j], table[i, j] + (x == y))
    return table[-1, -1]


def plain_edits(a, b):
    """Levenshtein distance, cell by cell."""
    table = np.add.outer(np.arange(len(a) + 1), np.arange(len(b) + 1))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (x != y))
    return table[-1, -1]


def random_paths(count):
    rng = np.random.default_rng(count)
    return [rng.integers(0, 6, rng.integers(1, 13)).tolist() for _ in range(count)]


@pytest.mark.parametrize(("a", "b"), list(zip(random_paths(40), random_paths(41), strict=False)))
def test_sequence_score_and_edit_distance_are_their_definitions(a, b):
    assert sequence_score(a, b) == pytest.approx(plain_common(a, b) / max(len(a), len(b)))
    assert sequence_score(a, b) == sequence_score(b, a)
    assert edit_distance(a, b) == plain_edits(a, b)
    assert edit_distance(a, b, normalised=True) == pytest.approx(plain_edits(a, b) / max(len(a), len(b)))
    assert sequence_score(a, a) == 1
    assert edit_distance(a, a) == 0


def test_many_pairs_are_as_one_by_one():
    rng = np.random.default_rng(0)
    first = [rng.integers(0, 6, rng.integers(1, 20)).tolist() for _ in range(50)]
    second = [rng.integers(0, 6, rng.integers(1, 20)).tolist() for _ in range(50)]
    assert sequence_scores(first, second).tolist() == [sequence_score(a, b) for a, b in zip(first, second, strict=True)]
    assert edit_distances(first, second).tolist() == [edit_distance(a, b) for a, b in zip(first, second, strict=True)]
    assert math.isnan(sequence_score([], []))
    assert sequence_score([1], []) == 0
    with pytest.raises(ValueError, match="as many"):
        sequence_scores(first, second[1:])


@pytest.mark.parametrize("path", random_paths(20))
def test_search_refixation_and_revisit_add_up_to_one(path):
    behaviour = behaviour_of(path, 3)
    assert behaviour.search + behaviour.refix + behaviour.revisit == pytest.approx(1)
    assert behaviour.correct == (path[-1] == 3)


def test_behaviour_of_a_path():
    assert behaviour_of([1, 1, 2, 1, 3, 3, 3], 3) == Behaviour(1.0, 7.0, 3 / 7, 3 / 7, 1 / 7)
    assert behaviour_of([4], None).correct == 0
    with pytest.raises(ValueError, match="without fixations"):
        behaviour_of([], 1)


def test_delta_leaves_out_what_people_never_show():
    people = [behaviour_of([0, 1], 1), behaviour_of([2, 1], 1)]
    assert delta(people, people).value == 0
    assert delta(people, people).left_out == ["refix", "revisit"]
    longer = [behaviour_of([0, 1, 2, 3], 3)]
    assert delta(longer, people).value == pytest.approx((0 + 1 + 0) / 3)


def plain_multimatch(a, b):
    """MultiMatch's alignment, cell by cell, with the published order of ties."""
    u, v = np.diff(a[:, :2], axis=0), np.diff(b[:, :2], axis=0)
    cost = np.sqrt(((u[:, None] - v) ** 2).sum(-1))
    total = np.full((len(u) + 1, len(v) + 1), np.inf)
    total[1, 1] = 0
    for i in range(len(u)):
        for j in range(len(v)):
            if i or j:
                total[i + 1, j + 1] = min(total[i, j], total[i, j + 1], total[i + 1, j]) + cost[i, j]
    cells = [(len(u) - 1, len(v) - 1)]
    while cells[-1] != (0, 0):
        i, j = cells[-1]
        before = [(total[i, j], 0, (i - 1, j - 1)), (total[i, j + 1], 1, (i - 1, j)), (total[i + 1, j], 2, (i, j - 1))]
        cells.append(min(before)[2])
    i, j = np.array(cells).T
    angles = np.abs(np.arctan2(*u[i, ::-1].T) % (2 * np.pi) - np.arctan2(*v[j, ::-1].T) % (2 * np.pi))
    diagonal = np.hypot(*SCREEN)
    return [
        1 - np.median(cost[i, j]) / (2 * diagonal),
        1 - np.median(np.minimum(angles, 2 * np.pi - angles)) / np.pi,
        1 - np.median(np.abs(np.hypot(*u[i].T) - np.hypot(*v[j].T))) / diagonal,
        1 - np.median(np.hypot(*(a[i, :2] - b[j, :2]).T)) / diagonal,
        1 - np.median(np.abs(a[i, 2] - b[j, 2]) / np.maximum(a[i, 2], b[j, 2])),
    ]


def drawn_path(rng, *, grid):
    points = rng.random((int(rng.integers(3, 20)), 3)) * [*SCREEN, 500] + [0, 0, 50]
    return np.round(points / 300) * 300 if grid else points


@pytest.mark.parametrize("grid", [False, True])
def test_multimatch_is_its_plain_definition(grid):
    rng = np.random.default_rng(3)
    first, second = ([drawn_path(rng, grid=grid) + np.array([0, 0, 1]) for _ in range(40)] for _ in range(2))
    expected = [plain_multimatch(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(multimatch_pairs(first, second, SCREEN), expected, atol=1e-12)


def test_multimatch_of_a_path_with_itself_is_one():
    path = drawn_path(np.random.default_rng(0), grid=False)
    same = multimatch(path, path, SCREEN)
    assert (same.vector, same.direction, same.length, same.position, same.duration) == (1, 1, 1, 1, 1)
    assert math.isnan(multimatch(path[:, :2], path[:, :2], SCREEN).duration)


def test_multimatch_of_two_fixations_is_nan_unless_padded_as_published():
    path = drawn_path(np.random.default_rng(0), grid=False)
    assert math.isnan(multimatch(path[:2], path, SCREEN).vector)
    assert 0 < multimatch(path[:2, :2], path[:, :2], SCREEN, legacy_pad=True).vector < 1
    many = multimatch_pairs([path[:2], path], [path, path], SCREEN)
    assert np.isnan(many[0]).all()
    assert many[1].tolist() == [1] * 5
    with pytest.raises(ValueError, match="shape"):
        multimatch(path[:, :1], path, SCREEN)


def test_nss_is_that_of_the_map():
    predicted, human = np.array([[10.0, 5], [30, 7], [10, 5]]), np.array([[10.0, 5], [3, 3], [40, 2], [3, 3]])
    screen = np.zeros((50, 20))
    screen[[10, 30], [5, 7]] = 1
    standard = (screen - screen.mean()) / screen.std()
    assert nss(predicted, human, (50, 20)) == pytest.approx(standard[[10, 3, 40], [5, 3, 2]].mean())
    assert nss(predicted, human, (50, 20), repeats=True) == pytest.approx(standard[[10, 3, 40, 3], [5, 3, 2, 3]].mean())
    assert math.isnan(nss(predicted, human[:0], (50, 20)))


def test_auc_is_the_share_of_pairs_in_order():
    density, fixated = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    wins = [float(a > b) + 0.5 * (a == b) for a in density[fixated] for b in density[~fixated]]
    assert auc(density, fixated) == pytest.approx(np.mean(wins))
    assert auc(density, fixated, np.ones(4)) == auc(density, fixated)
    assert math.isnan(auc(density, np.ones(4, bool)))
    assert information_gain(np.log([0.5, 0.5]), np.log([0.25, 0.25])) == pytest.approx(1)


def test_recurrence_of_a_known_path():
    recurrence = recurrence_of_objects([0, 1, 2, 0, 1, 2])
    assert recurrence.rate == pytest.approx(100 * 3 / 15)
    assert recurrence.determinism == 100
    assert recurrence.laminarity == 0
    assert recurrence.corm == pytest.approx(100 * 9 / (5 * 3))
    assert recurrence_of_objects([0, 1, 2]).rate == 0
    points = np.array([[0.0, 0], [100, 0], [3, 4]])
    assert recurrence_of_points(points, 5.0).rate == pytest.approx(100 / 3)
    assert recurrence_of_points(points, 4.9).rate == 0


def test_scanmatch_is_one_for_the_same_and_less_for_others():
    rng = np.random.default_rng(0)
    path = drawn_path(rng, grid=False)
    assert scanmatch(path, path, SCREEN) == pytest.approx(1)
    assert scanmatch(path, drawn_path(rng, grid=False), SCREEN) < 1
    near = path + np.array([20, 0, 0])
    assert scanmatch(path, near, SCREEN) > scanmatch(path, path[::-1], SCREEN)
    assert math.isnan(scanmatch(path[:0], path, SCREEN))
    longer = np.repeat(path, 2, axis=0) / [1, 1, 2]
    assert scanmatch(path, longer, SCREEN) > 0.9  # the same places for the same time


def plain_scanmatch(a, b, bins, threshold, gap):
    """Needleman–Wunsch over parts of the screen, cell by cell."""

    def part(point):
        column, row = (int(np.clip(point[i] / SCREEN[i] * bins[i], 0, bins[i] - 1)) for i in (0, 1))
        return np.array([column, row])

    table = np.add.outer(np.arange(len(a) + 1.0) * gap, np.arange(len(b) + 1.0) * gap)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            alike = threshold - np.linalg.norm(part(x) - part(y))
            table[i + 1, j + 1] = max(table[i, j + 1] + gap, table[i + 1, j] + gap, table[i, j] + alike)
    return table[-1, -1] / (threshold * max(len(a), len(b)))


@pytest.mark.parametrize(("bins", "threshold", "gap"), [((12, 8), 3.5, 0.0), ((5, 7), 2.0, -0.4)])
def test_scanmatch_of_many_pairs_is_its_definition(bins, threshold, gap):
    rng = np.random.default_rng(4)
    first = [rng.uniform(-50, 1700, (rng.integers(1, 12), 2)) for _ in range(30)]
    second = [rng.uniform(-50, 1700, (rng.integers(1, 12), 2)) for _ in range(30)]
    scores = scanmatch_pairs(first, second, SCREEN, bins=bins, threshold=threshold, gap=gap)
    expected = [plain_scanmatch(a, b, bins, threshold, gap) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    empty = scanmatch_pairs([first[0][:0], first[0]], [second[0], second[0]], SCREEN)
    assert np.isnan(empty).tolist() == [True, False]


def test_multimatch_of_one_pair_is_that_of_many():
    """A pair alone is walked back by another loop; on a grid many ways are equally cheap."""
    rng = np.random.default_rng(5)
    for sizes in ((3, 3), (3, 12), (12, 5), (20, 20)):
        first = [np.column_stack([rng.integers(0, 4, (n, 2)) * 50.0, rng.random(n)]) for n in sizes]
        second = [np.column_stack([rng.integers(0, 4, (n, 2)) * 50.0, rng.random(n)]) for n in reversed(sizes)]
        together = multimatch_pairs(first, second, (300, 200))
        alone = [multimatch_pairs([a], [b], (300, 200))[0] for a, b in zip(first, second, strict=True)]
        np.testing.assert_array_equal(together, alone)
