"""The rules of comparison, one by one."""

import math

import pytest
import torch

from core_attention.golden.compare import Rule, compare_json, compare_tensors, is_mask, parse_rules, rule_for, spread

LOOSE = Rule(rtol=1e-3, atol=1e-3)
EXACT = Rule(rtol=0.0, atol=0.0)


def holds(ours, recorded, rule=LOOSE, **options) -> bool:
    return compare_tensors("output/y", torch.as_tensor(ours), torch.as_tensor(recorded), rule, **options).ok


def test_floats_are_held_to_both_tolerances_element_by_element():
    recorded = torch.tensor([100.0, 0.0, 1.0])
    assert holds(recorded + torch.tensor([0.1, 0.00099, 0.0019]), recorded)
    assert not holds(recorded + torch.tensor([0.0, 0.0, 0.0021]), recorded)
    row = compare_tensors("output/y", recorded + torch.tensor([0.0, 0.0, 0.5]), recorded, LOOSE)
    assert (row.index, row.limit) == ((2,), pytest.approx(0.002))
    assert row.error == pytest.approx(0.5)
    assert row.ratio == pytest.approx(250)
    assert "is 1.5, recorded 1" in row.problem


def test_nothing_allowed_and_nothing_wrong():
    assert holds([0.5, -2.0], [0.5, -2.0], EXACT)
    assert not holds([0.5, -2.0], [0.5, -2.0000002], EXACT)


@pytest.mark.parametrize(
    ("ours", "recorded", "same"),
    [
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (-math.inf, -math.inf, True),
        (-math.inf, math.inf, False),
        (math.inf, 1.0, False),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (1.0, math.inf, False),
        (math.nan, math.inf, False),
    ],
)
def test_what_is_not_finite_equals_only_itself(ours, recorded, same):
    assert holds([2.0, ours, 3.0], [2.0, recorded, 3.0], Rule(rtol=1.0, atol=1e9)) == same


def test_small_values_cannot_pass_as_zero():
    gradient = torch.full((100,), 1e-5)
    assert not holds(torch.zeros(100), gradient, Rule(rtol=1e-4, atol=1e-4))  # each element is within atol
    assert holds(gradient * 1.01, gradient, Rule(rtol=1e-4, atol=1e-4))
    assert not holds(gradient * 1.03, gradient, Rule(rtol=1e-4, atol=1e-4))
    assert holds(gradient * 1.03, gradient, Rule(rtol=2e-3, atol=1e-4))  # 20·rtol is more than 0.02
    assert holds(torch.zeros(100), gradient, Rule(rtol=1e-4, atol=1e-4), norm_rule=False)  # a true zero


def test_mask_fills_say_nothing_about_the_norm():
    recorded = torch.tensor([-1e9, 1e-5, 2e-5])
    assert not holds([-1e9, 0.0, 0.0], recorded)
    assert holds(recorded.tolist(), recorded)
    assert holds([-1.0001e9, 1e-5, 2e-5], recorded)
    assert not holds([-1.1e9, 1e-5, 2e-5], recorded)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool])
def test_integers_are_equal_whatever_the_tolerances(dtype):
    recorded = torch.tensor([0, 1, 1, 0]).to(dtype)
    huge = Rule(rtol=10.0, atol=10.0)
    assert holds(recorded.long(), recorded, huge)
    assert holds(recorded.bool(), recorded, huge)
    assert holds(recorded.float(), recorded, huge)
    assert not holds(recorded.float() + 1e-6, recorded, huge)
    assert not holds(1 - recorded.long(), recorded, huge)


def test_integers_beyond_the_precision_of_float64():
    assert not holds(torch.tensor([2**53 + 1]), torch.tensor([2**53]))


def test_float_masks_are_exact_and_have_more_than_four_elements():
    mask = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    assert is_mask(mask)
    assert is_mask(torch.zeros(5))
    assert not is_mask(mask[:4])
    assert not is_mask(mask * 0.5)
    assert not holds(mask * 0.9999, mask)
    assert holds(mask[1:3] * 0.9999, mask[1:3])
    assert holds(mask.bool(), mask)
    assert not holds(1 - mask, mask)


def test_a_gradient_of_zeros_is_no_mask():
    rule = Rule(rtol=1e-5, atol=1e-6)
    for ours, same in ((1e-7, True), (1e-5, False)):
        row = compare_tensors("grad/input/x", torch.full((6,), ours), torch.zeros(6), rule, norm_rule=False)
        assert row.ok == same
    assert not compare_tensors("output/x", torch.full((6,), 1e-7), torch.zeros(6), rule, norm_rule=False).ok


def test_a_share_of_integers_may_differ_and_never_of_floats():
    recorded = torch.arange(100)
    ours = recorded.clone()
    ours[:2] += 1
    assert holds(ours, recorded, Rule(rtol=0.0, atol=0.0, mismatch=0.02))
    assert not holds(ours, recorded, Rule(rtol=0.0, atol=0.0, mismatch=0.019))
    assert not holds(ours.double(), recorded.double(), Rule(rtol=0.0, atol=0.0, mismatch=0.02))


def test_rows_as_a_set():
    recorded = torch.arange(100).reshape(50, 2)
    rows = Rule(rtol=0.0, atol=0.0, rows=True)
    assert holds(recorded.flip(0), recorded, rows)
    assert holds(torch.cat([recorded, recorded]), recorded, rows)
    assert not holds(recorded[1:], recorded, rows)
    assert not holds(recorded.flip(1), recorded, rows)
    assert holds(recorded[1:], recorded, Rule(rtol=0.0, atol=0.0, rows=True, mismatch=0.02))
    assert not holds(recorded[2:], recorded, Rule(rtol=0.0, atol=0.0, rows=True, mismatch=0.02))
    extra = torch.cat([recorded[1:], torch.tensor([[-1, -1]])])  # one missing and one too many
    assert not holds(extra, recorded, Rule(rtol=0.0, atol=0.0, rows=True, mismatch=0.02))
    assert holds(extra, recorded, Rule(rtol=0.0, atol=0.0, rows=True, mismatch=0.04))
    assert holds(recorded[:0], recorded[:0], rows)
    assert not holds(recorded[:1], recorded[:0], rows)
    assert not holds(recorded[:, :1], recorded, rows)
    assert holds(torch.tensor([3, 1]), torch.tensor([1, 3]), rows)


def test_shapes_are_equal_but_for_one_element():
    assert holds(torch.ones(1), torch.tensor(1.0))
    assert holds(torch.tensor(1.0), torch.ones(1))
    assert holds(torch.ones(1, 1), torch.ones(1))
    assert not holds(torch.ones(2, 1), torch.ones(2))
    assert not holds(torch.ones(4), torch.ones(2, 2))
    assert not holds(torch.ones(0), torch.ones(1))
    assert holds(torch.ones(0, 3), torch.ones(0, 3))
    assert not holds(torch.ones(0, 3), torch.ones(3, 0))


def test_where_leaves_out_what_it_says_and_broadcasts_over_trailing_axes():
    recorded = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    ours = recorded.clone()
    ours[1, 2] = 9.0
    where = torch.tensor([[1, 1, 1], [2, 1, 0]])
    assert holds(ours, recorded, where=where)
    assert not holds(ours, recorded, where=1 - where)
    assert not holds(ours, recorded)
    assert holds(ours, recorded, where=torch.tensor([True, False]))
    assert holds(ours, recorded, where=torch.zeros(2))
    integers = torch.arange(6).reshape(2, 3)
    assert holds(integers * torch.tensor([[1], [0]]), integers, where=torch.tensor([1, 0]))
    assert not holds(torch.tensor([2.0]), torch.tensor([1.0]), where=torch.zeros(2, 3))  # a loss is compared whole
    for wrong in (torch.ones(3), torch.ones(2, 4), torch.ones(2, 3, 4, 1)):
        with pytest.raises(ValueError, match="does not lead"):
            spread(wrong, recorded)


def test_complex_values_are_compared_as_pairs():
    recorded = torch.tensor([1 + 2j, 3 - 1j])
    assert holds(recorded * 1.0001, recorded)
    assert not holds(recorded.conj(), recorded)
    assert not holds(recorded.real, recorded)


def test_float_dtype_is_not_compared():
    recorded = torch.tensor([0.5, 0.25], dtype=torch.float64)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert holds(recorded.to(dtype), recorded, EXACT)


def test_the_first_pattern_that_matches_rules():
    compare = parse_rules({"output/a*": {"atol": 3}, "output/*": {"rtol": 0.5, "optional": True}, "*": {"mismatch": 1}})
    assert rule_for("output/ab", compare, rtol=0.1, atol=0.2) == Rule(0.1, 3.0)
    assert rule_for("output/b/c.0", compare, rtol=0.1, atol=0.2) == Rule(0.5, 0.2, optional=True)
    assert rule_for("grad/input/x", compare, rtol=0.1, atol=0.2) == Rule(0.1, 0.2, mismatch=1.0)
    assert rule_for("output/a", {}, rtol=0.1, atol=0.2) == Rule(0.1, 0.2)


@pytest.mark.parametrize(
    ("ours", "recorded", "path"),
    [
        ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.1}]}, "$.a[1].b: is 2.0, recorded 2.1"),
        ({"a": 1}, {"b": 1}, "$: keys missing ['b'], not recorded ['a']"),
        ([1, 2], [1, 2, 3], "$: has length 2, recorded 3"),
        ([1], {"0": 1}, "$: is [1] (list)"),
        (1, 1.0, "$: is 1 (int), recorded 1.0 (float)"),
        (True, 1, "$: is True (bool)"),
        ("x", "y", "$: is 'x', recorded 'y'"),
        (None, 0, "$: is None (NoneType)"),
        (math.inf, 1.0, "$: is inf, recorded 1.0"),
        (math.nan, 1.0, "$: is nan, recorded 1.0"),
        (object(), 1, "is not a JSON value"),
    ],
)
def test_json_names_the_path_of_the_first_difference(ours, recorded, path):
    row = compare_json("output/j", ours, recorded, LOOSE)
    assert not row.ok
    assert row.problem.startswith(path)


def test_json_that_agrees():
    value = {"a": [1, 2.0, None, True, "x", math.nan, math.inf], "b": {}}
    assert compare_json("output/j", value, value, EXACT).ok
    assert compare_json("output/j", {"a": 2.0005}, {"a": 2.0}, LOOSE).ok
    assert compare_json("output/j", {"b": 1, "a": (1, 2)}, {"a": [1, 2], "b": 1}, EXACT).ok
