import itertools

import pytest
import torch

from explainability.chm_corr.decision import (
    Support,
    common_mask,
    cross_correlation,
    decide,
    score_common,
    score_user,
    similarity_map,
)
from explainability.chm_corr.kernels import groups, kernel4d, parameters
from explainability.chm_corr.learner import CHMLearner, convolve4d, convolve6d, correlate6d, resizing
from explainability.chm_corr.official import convert, split_trunks
from explainability.chm_corr.transfer import source_keypoints, target_cells, transfer_keypoints


def naive(x, kernel):
    """Zero-padded cross-correlation over all axes but the first, one output at a time."""
    sides = kernel.shape
    padding = [p for side in reversed(sides) for p in (side // 2, side // 2)]
    padded = torch.nn.functional.pad(x, padding)
    out = torch.zeros_like(x)
    for place in itertools.product(*(range(n) for n in x.shape[1:])):
        window = padded[(slice(None), *(slice(p, p + side) for p, side in zip(place, sides, strict=True)))]
        out[(slice(None), *place)] = (window * kernel).flatten(1).sum(1)
    return out


def test_layers_are_plain_cross_correlations():
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 3, 4, 4, 3, dtype=torch.float64), torch.randn(5, 5, 5, 5, dtype=torch.float64)
    assert torch.allclose(convolve4d(x, kernel), naive(x, kernel))
    x, kernel = torch.randn(1, 3, 3, 2, 3, 3, 2).double(), torch.randn(3, 3, 3, 3, 3, 3).double()
    assert torch.allclose(convolve6d(x, kernel), naive(x, kernel))


def test_sharing():
    assert parameters(5, "psi") == 55
    assert parameters(5, "iso") == 15
    for kind in ("psi", "iso"):
        index = groups(5, kind)
        assert torch.bincount(index.flatten()).sum() == 625
        assert index[0, 0, 0, 0] == 0  # by first occurrence
        kernel = kernel4d(torch.rand(parameters(5, kind)), 5, kind)
        assert torch.equal(kernel, kernel.permute(2, 3, 0, 1))
        assert torch.equal(kernel, kernel.flip(0, 2))
        assert torch.equal(kernel, kernel.permute(1, 0, 3, 2))
    with pytest.raises(ValueError, match="odd side"):
        groups(4, "psi")


def test_resized_features_give_resized_correlations():
    torch.manual_seed(0)
    sizes = (3, 4, 6)
    source = [torch.randn(1, 5, n, n) for n in sizes]
    target = [torch.randn(1, 5, n, n) for n in sizes]
    fast = correlate6d(source, target, 4)
    normed = [torch.nn.functional.normalize(f, dim=1) for f in (source[0], target[2])]
    plain = torch.einsum("bcij,bckl->bijkl", *normed)
    a, b = resizing(3, 4, plain), resizing(6, 4, plain)
    resized = torch.einsum("yi,xj,bijkl,wk,vl->byxwv", a, a, plain, b, b).clamp(min=0)
    assert torch.allclose(fast[:, 0, 2], resized, atol=1e-6)


def test_identity_returns_the_points_and_a_constant_the_middle():
    points = source_keypoints()
    identity = 50 * torch.eye(900, dtype=torch.float64)[None]
    moved = transfer_keypoints(identity, points)[0]
    assert (moved - points).abs().max() < 2 / 7 / 2
    constant = transfer_keypoints(torch.ones(1, 900, 900, dtype=torch.float64), points)
    # up to the window, which stands around the first of equal targets
    assert torch.allclose(constant, constant[:, :1, :1].expand_as(constant))
    assert constant.abs().max() < 0.15


def test_cells_on_the_far_border():
    assert target_cells(torch.tensor([[[1.0, -1.0], [0.99, 0.0]]])).tolist() == [[[6, 6], [0, 3]]]


def a_query(seed=0, support=12):
    generator = torch.Generator().manual_seed(seed)
    query = torch.rand(16, 7, 7, generator=generator, dtype=torch.float64)
    supports = torch.rand(support, 16, 7, 7, generator=generator, dtype=torch.float64)
    cells = torch.randint(0, 7, (support, 49, 2), generator=generator)
    labels = torch.randint(0, 4, (support,), generator=generator)
    return query, supports, cells, labels


def test_masks_of_a_person():
    query, supports, cells, labels = a_query()
    similarity = similarity_map(query, supports, cells)
    mask = common_mask(cross_correlation(query, supports)[0], 0.55)
    support = Support(similarity, mask, labels.tolist(), k=5)
    assert torch.allclose(score_user(similarity, torch.ones(7, 7)), similarity.mean((1, 2)))
    assert torch.equal(support.predict(torch.zeros(7, 7)).order, support.predict().order)
    allowed = torch.zeros(7, 7)
    allowed[2, 3] = 1
    order = support.predict(allowed).order
    blank = similarity.clone()
    blank[:, 0, 0] = 0
    allowed[0, 0] = 1
    assert torch.equal(score_user(blank, allowed).argsort(descending=True), order)
    with pytest.raises(ValueError, match="7 × 7 cells of 0 and 1"):
        support.predict(torch.full((7, 7), 0.5))


def test_scale_and_order_of_supports():
    query, supports, cells, labels = a_query()
    scores = _scores(query, supports, cells)
    assert torch.allclose(_scores(3 * query, 0.5 * supports, cells), scores)
    order = torch.randperm(len(supports))
    assert torch.allclose(_scores(query, supports[order], cells[order]), scores[order])
    everyone = decide(scores, labels, len(labels))
    assert everyone.label == torch.bincount(labels).argmax()


def _scores(query, supports, cells):
    mask = common_mask(cross_correlation(query, supports)[0], 0.55)
    return score_common(similarity_map(query, supports, cells), mask)


def test_both_rules_of_ties():
    scores = torch.tensor([5.0, 4, 3, 2, 1])
    assert decide(scores, [2, 1, 2, 1, 1], 4).label == 1
    more = decide(scores, [2, 1, 2, 1, 2], 4, ties="more")
    assert (more.label, more.k, more.votes) == (2, 5, 3)
    assert decide(scores, [2, 1, 2, 1, 0], 4, ties="more").k == 5
    with pytest.raises(ValueError, match="between 1 and the 5"):
        decide(scores, [0] * 5, 6)


def test_grouped_trunks_are_two_networks():
    torch.manual_seed(0)
    grouped = torch.nn.Conv2d(6, 8, 3, groups=2, bias=False)
    source, target = split_trunks({"backbone.conv1.weight": grouped.weight.data})
    a, b = torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9)
    whole = grouped(torch.cat([a, b], 1))
    halves = [torch.nn.functional.conv2d(x, s["conv1.weight"]) for x, s in ((a, source), (b, target))]
    assert torch.allclose(whole, torch.cat(halves, 1), atol=1e-6)


def test_published_sizes_and_prefixes():
    with torch.device("meta"):
        model = CHMLearner()
    assert sum(p.numel() for p in model.parameters()) == 7_078_165
    small = CHMLearner(8)
    state = {"learner.chm4d.bias": small.votes4d.bias.data, "learner.chm4d.weight": small.votes4d.sets[0].data}
    assert set(convert(state, {})) == {"votes4d.bias", "votes4d.sets.0"}


def test_features_of_other_shapes():
    with pytest.raises(ValueError, match="square features"):
        CHMLearner(8)(torch.rand(1, 8, 4, 5), torch.rand(1, 8, 4, 5))


def test_features_that_are_zero_give_no_nan():
    assert CHMLearner(8)(torch.zeros(1, 8, 4, 4), torch.rand(1, 8, 4, 4)).isfinite().all()
