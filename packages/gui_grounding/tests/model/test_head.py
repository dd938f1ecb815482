"""The pointer head, its losses, and regions."""

import numpy as np
import pytest
import torch
from torch import nn

from gui_grounding.model.head import PointerHead, scores_of
from gui_grounding.model.losses import pointer_loss, suppression_of
from gui_grounding.model.regions import find_regions


@pytest.fixture
def head():
    torch.manual_seed(0)
    return PointerHead(32).eval()


def test_it_has_the_published_number_of_parameters():
    for width in (1536, 2048, 3584):
        with torch.device("meta"):
            parameters = sum(p.numel() for p in PointerHead(width).parameters())
        assert parameters == 8 * width**2 + 10 * width
    with pytest.raises(ValueError, match="cannot have 8 heads"):
        PointerHead(36)


def test_its_self_attention_is_torchs(head):
    visual = torch.randn(21, 32)
    torchs = nn.MultiheadAttention(32, 8, batch_first=True).eval()
    torchs.in_proj_weight.data, torchs.in_proj_bias.data = head.project.weight.data, head.project.bias.data
    torchs.out_proj.load_state_dict(head.output.state_dict())
    mixed = torchs(visual[None], visual[None], visual[None], need_weights=False)[0][0]
    expected = head.encode_keys(head.norm(visual + mixed))
    torch.testing.assert_close(head.keys(visual), expected, rtol=1e-5, atol=1e-6)


def test_permuted_cells_permute_the_scores_and_leave_the_losses(head):
    visual, queries, labels = torch.randn(30, 32), torch.randn(2, 32), torch.rand(2, 30).round()
    order = torch.randperm(30)
    plain, permuted = head(visual, queries), head(visual[order], queries)
    torch.testing.assert_close(permuted, plain[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores_of(plain).sum(-1), torch.ones(2))
    for before, after in zip(pointer_loss(plain, labels), pointer_loss(permuted, labels[:, order]), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_losses_at_their_ends():
    logits = torch.randn(3, 20)
    everything = pointer_loss(logits, torch.ones(3, 20))
    assert everything.suppression.item() == 0
    assert everything.kl.item() > 0
    assert pointer_loss(torch.zeros(3, 20), torch.ones(3, 20)).kl.item() == pytest.approx(0, abs=1e-6)
    labels = torch.rand(3, 20) + 0.1
    exact = pointer_loss(torch.log(labels), labels)
    assert exact.total.item() == pytest.approx(0, abs=1e-6)
    sparse = (torch.rand(3, 20) > 0.7).float()
    assert 0 <= suppression_of(logits.softmax(-1), sparse).item() <= 1
    assert pointer_loss(logits, sparse, suppress=False).total == pointer_loss(logits, sparse).kl


def test_one_hot_cell_is_its_own_centre():
    scores = np.zeros(54)
    scores[3 * 9 + 4] = 1
    (region,) = find_regions(scores, 9, 6)
    assert (region.x, region.y) == (4.5 / 9, 3.5 / 6)
    assert region.mass == 1


def test_regions_do_not_depend_on_the_scale_and_the_two_rules_differ():
    scores = np.full((6, 9), 0.01)
    scores[1, 1] = 0.9  # small and sharp
    scores[3:5, 4:8] = 0.6  # broad
    scores[3, 4] = 1.0
    flat = scores.ravel()
    by_max = find_regions(flat, 9, 6)
    by_mean = find_regions(flat, 9, 6, scoring="mean")
    assert len(by_max[0].cells) == 8
    assert len(by_mean[0].cells) == 1
    scaled = find_regions(flat * 1e-3, 9, 6)
    np.testing.assert_allclose([(r.x, r.y) for r in scaled], [(r.x, r.y) for r in by_max])
    assert find_regions(flat, 9, 6, rect_center=True)[0].x == pytest.approx(6 / 9)


def test_diagonal_neighbours_are_two_regions():
    scores = np.zeros((4, 4))
    scores[0, 0] = scores[1, 1] = 1
    assert len(find_regions(scores.ravel(), 4, 4)) == 2


@pytest.mark.parametrize("scores", [np.zeros(12), np.full(12, np.nan), np.ones(11)])
def test_useless_attention_is_refused(scores):
    with pytest.raises(ValueError, match=r"attention is not finite|expected 12"):
        find_regions(scores, 4, 3)


def test_a_region_lies_above_the_threshold():
    scores = np.array([1.0, 0.5, 0.0, 0.51, 0.5])
    cells = [region.cells.tolist() for region in find_regions(scores, 1, 5, threshold=0.5)]
    assert cells == [[0], [3]], "a cell of half the maximum belongs to none"


def test_a_threshold_that_no_cell_passes_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        find_regions(np.ones(12), 4, 3, threshold=1.0)
    assert len(find_regions(np.ones(12), 4, 3, threshold=0.999)) == 1
