"""Runs are compared on what they share, whole groups at a time, and the number of tests is paid for."""

import pytest

from core_runtime.comparison import compare_runs, holm
from core_runtime.errors import UserError


def run(values, *, group=lambda i: f"scene {i // 2}"):
    return {f"trial {i}": {"scene": group(i), "score": value, "blank": ""} for i, value in enumerate(values)}


def test_two_runs_are_compared_on_the_items_of_both():
    better = run([0.9, 0.8, 0.7, "0.9", 0.8, 0.9])
    worse = run([0.1, 0.2, 0.1, 0.3, None, 0.1, 0.5])
    outcome = compare_runs({"a": better, "b": worse}, ["score", "blank"], by="scene", item="trial")
    (row,) = outcome.rows  # of the blank measure nothing can be told
    assert (row["items"], row["groups"]) == (5, 3)
    assert row["difference"] == pytest.approx((0.9 + 0.8 + 0.7 + 0.9 + 0.9) / 5 - (0.1 + 0.2 + 0.1 + 0.3 + 0.1) / 5)
    # of three groups eight ways of swapping, two of them as far apart
    assert row["p"] == row["p_holm"] == pytest.approx(2 / 8)
    assert outcome.left_out == {"a and b": 1}
    text = "\n".join(outcome.lines())
    assert "5 trials, 3 scenes" in text
    assert "a and b: 1 trials of one side only" in text


def test_every_pair_counts_in_the_correction():
    runs = {name: run([value + 0.01 * i for i in range(12)]) for name, value in (("a", 0.1), ("b", 0.4), ("c", 0.8))}
    rows = compare_runs(runs, ["score"], by="scene").rows
    assert [(row["first"], row["second"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(row["p"] == pytest.approx(2 / 64) for row in rows)
    assert all(row["p_holm"] == pytest.approx(3 * 2 / 64) for row in rows)


def test_nothing_in_common_is_refused():
    single = run([0.1, 0.2], group=lambda i: "one scene")
    for other in ({}, single):
        with pytest.raises(UserError, match="no trials in common"):
            compare_runs({"a": single, "b": other}, ["score"], by="scene", item="trial")


def test_items_that_were_judged_by_something_else_are_no_pairs():
    one, other = run([0.9, 0.8, 0.7, 0.9, 0.8, 0.9]), run([0.1, 0.2, 0.1, 0.3, 0.3, 0.1])
    other["trial 0"]["target"] = "elsewhere"
    outcome = compare_runs({"a": one, "b": other}, ["score"], by="scene", same=["target"], item="trial")
    assert outcome.rows[0]["items"] == 5
    assert outcome.differing == {"a and b": 1}
    assert "1 trials were not judged by the same" in "\n".join(outcome.lines())
    for row in other.values():
        row["target"] = "elsewhere"
    with pytest.raises(UserError, match="6 trials were not judged by the same"):
        compare_runs({"a": one, "b": other}, ["score"], by="scene", same=["target"], item="trial")


def test_a_negative_seed_is_refused():
    runs = {"a": run([0.1, 0.2, 0.3]), "b": run([0.1, 0.2, 0.3])}
    with pytest.raises(UserError, match="--seed -1"):
        compare_runs(runs, ["score"], by="scene", seed=-1)


def test_holm_corrects_step_by_step():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
