"""Measures on six items by hand."""

from pathlib import Path

import numpy as np
import pytest

from gui_grounding.commands.evaluate import slices, tabulate
from gui_grounding.items.item import Item, Target
from gui_grounding.metrics import calibration, covered_cells, judge, means


def item(name, *targets, ui_type="text", group="web"):
    return Item(name, Path(f"{name}.png"), "x", targets, ui_type=ui_type, group=group)


BOX = Target("box", ((0.1, 0.1), (0.3, 0.3)))
TRIANGLE = Target("polygon", [(0, 0), (1, 0), (0, 1)])
SIX = [
    (item("hit", BOX), [(0.2, 0.2)], False, (1, 1)),
    (item("edge", BOX), [(0.3, 0.1)], False, (1, 1)),
    (item("second", BOX, ui_type="icon"), [(0.9, 0.9), (0.2, 0.2)], False, (0, 1)),
    (item("no format", BOX, ui_type="icon"), [], False, (0, 0)),
    (item("polygon", TRIANGLE, group="desktop"), [(0.6, 0.6)], False, (0, 0)),
    (item("refusal", Target("refusal"), group="desktop"), [(0.2, 0.2)], True, (1, 1)),
]


def test_the_table_of_six_items():
    rows = []
    for each, points, abstains, expected in SIX:
        judged = judge(each, points, abstains=abstains)
        assert (judged.hit1, judged.hitk) == expected
        row = {"predictor": "m", "image": str(each.image), "group": each.group, "type": each.ui_type}
        rows.append(row | {"platform": "", "size": each.bucket, "application": ""} | judged.values())
    table = tabulate(rows, resamples=50, seed=0)["m"]
    assert table["all"]["hit@1"]["value"] == 0.5
    assert table["all"]["hit@k"]["value"] == pytest.approx(4 / 6)
    assert table["type: icon"]["hit@1"]["value"] == 0
    assert table["group: desktop"]["items"] == 2
    assert table["group × type: web × text"]["hit@1"]["value"] == 1
    assert table["all"]["hit@1"]["low"] < 0.5 < table["all"]["hit@1"]["high"]
    assert "platform: " not in slices(rows)


def test_abstaining_misses_what_is_there_and_is_right_about_what_is_not():
    assert judge(item("a", BOX), [(0.2, 0.2)], abstains=True).hit1 == 0
    assert judge(item("a", Target("refusal")), [(0.2, 0.2)]).hit1 == 0
    assert np.isnan(judge(item("a", Target("refusal")), []).mass)


def test_more_points_never_hit_less():
    rng = np.random.default_rng(0)
    points = [tuple(point) for point in rng.random((8, 2))]
    hits = [judge(item("a", BOX, TRIANGLE), points[:k]).hitk for k in range(1, 9)]
    assert hits == sorted(hits)


def test_attention_and_distance():
    scores = np.zeros((10, 10))
    scores[1, 1] = 0.6  # in the box
    scores[5, 5] = 0.4
    judged = judge(item("a", BOX), [(0.2, 0.3)], scores=scores)
    assert judged.mass == pytest.approx(0.6)
    assert judged.overlap == 1
    assert judged.distance == pytest.approx(1)
    across = judge(item("a", BOX), [(0.1, 0.2)])
    assert across.distance == pytest.approx(1), "the left edge, in half widths"
    # published code adds 14 pixels to shares of the screenshot, so that every cell would meet every target
    assert covered_cells([BOX], (10, 10)).sum() == 4
    assert means([judged])["mass"] == pytest.approx(0.6)


def test_probabilities_that_can_be_believed():
    rng = np.random.default_rng(0)
    probability = rng.random(4000)
    hits = (rng.random(4000) < probability).astype(float)
    honest = calibration(probability.tolist(), hits.tolist())
    assert honest["mean probability"] == pytest.approx(honest["hit@1"], abs=0.02)
    assert honest["hit@1 of the surer half"] == pytest.approx(0.75, abs=0.03)
    assert honest["Brier"] == pytest.approx(1 / 6, abs=0.01)
    assert calibration([None, None], [1.0, 0.0]) is None
