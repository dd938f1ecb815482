"""Sinks and their redistribution by hand: sums, limits, causality, and what cannot be asked."""

import pytest
import torch

from core_attention.mechanisms.var_sink.redistribution import Rule, behind_image, redistribute, select
from core_attention.mechanisms.var_sink.sinks import find_sinks, sink_scores


def case(batch=2, heads=4, tokens=14, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, heads, tokens, tokens, generator=generator, dtype=torch.float64)
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
    image = torch.zeros(batch, tokens, dtype=torch.bool)
    image[0, 2:8] = True
    image[1, 3:6] = True
    sinks = torch.zeros_like(image)
    sinks[:, 0] = True
    sinks[:, 4] = True
    return weights, image, sinks


RULE = Rule(keep_fraction=0.4, least_image_share=0.1, most_sink_share=0.9)


def test_rows_still_sum_to_one_and_only_sinks_and_picture_change():
    weights, image, sinks = case()
    edited, selected = redistribute(weights, image, sinks, behind_image(image), RULE)
    assert selected.any()
    assert not selected.all()
    torch.testing.assert_close(edited.sum(-1), torch.ones_like(edited.sum(-1)))
    assert not edited[weights == 0].any()  # causal zeros
    others = ~(image | sinks)
    for sample in range(2):
        torch.testing.assert_close(edited[sample][..., others[sample]], weights[sample][..., others[sample]])
    torch.testing.assert_close(edited[~selected], weights[~selected], rtol=0, atol=0)


def test_one_row_by_hand():
    weights = torch.tensor([0.2, 0.1, 0.3, 0.25, 0.15])[None, None, None]
    image = torch.tensor([[False, True, True, True, False]])
    sinks = torch.tensor([[True, False, True, False, False]])
    rule = Rule(keep_fraction=0.6, least_image_share=0.2, most_sink_share=0.5)
    editable = torch.tensor([[True]])
    edited, selected = redistribute(weights, image, sinks, editable, rule)
    assert selected.all()  # 0.3 of 0.65 lies on the sink
    budget = 0.4 * 0.5
    expected = [0.12, 0.1 + budget * 0.1 / 0.35, 0.18, 0.25 + budget * 0.25 / 0.35, 0.15]
    torch.testing.assert_close(edited[0, 0, 0], torch.tensor(expected))
    assert not select(weights, image, sinks, editable, Rule(0.6, 0.2, 0.4)).any()
    assert not select(weights, image, sinks, editable, Rule(0.6, 0.7, 0.5)).any()


def test_nothing_is_edited_where_no_picture_token_is_a_sink():
    weights, image, sinks = case()
    edited, selected = redistribute(weights, image, sinks & ~image, behind_image(image), RULE)
    assert not selected.any()
    torch.testing.assert_close(edited, weights, rtol=0, atol=0)


def test_queries_up_to_the_last_picture_token_are_never_edited():
    image = torch.tensor([[False, True, True, False, True, False, False], [False] * 7])
    assert behind_image(image).tolist() == [[False] * 5 + [True, True], [False] * 7]


def test_a_head_that_sees_only_sinks_of_the_picture_stays():
    weights = torch.tensor([0.5, 0.5])[None, None, None]
    image, sinks = torch.tensor([[False, True]]), torch.tensor([[False, True]])
    edited, _ = redistribute(weights, image, sinks, torch.tensor([[True]]), Rule(0.5, 0.1, 1.0))
    torch.testing.assert_close(edited, weights)


def test_scaling_the_hidden_states_changes_no_sink():
    hidden = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)) * 10
    hidden[0, 3, 7] = 400
    hidden[1, 5, 9] = 400
    found = find_sinks(hidden, (7,), 4.0)
    assert found.nonzero().tolist() == [[0, 3]]
    assert torch.equal(find_sinks(hidden * 30, (7,), 4.0), found)
    assert torch.equal(find_sinks(hidden.bfloat16(), (7,), 4.0), found)
    assert sink_scores(hidden, (7,)).amax() <= 8.0001


def test_dimensions_and_thresholds_that_find_nothing_are_refused():
    hidden = torch.zeros(1, 2, 64)
    with pytest.raises(ValueError, match=r"at most √64 = 8\.00"):
        find_sinks(hidden, (3,), 20.0)
    with pytest.raises(ValueError, match=r"\[64\] are not among the 64"):
        find_sinks(hidden, (3, 64), 4.0)
    with pytest.raises(ValueError, match="no sink dimensions"):
        find_sinks(hidden, (), 4.0)
    with pytest.raises(ValueError, match="keep_fraction"):
        Rule(keep_fraction=1.2)
