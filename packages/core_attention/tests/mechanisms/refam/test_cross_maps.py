"""RefAM's columns, sinks and heat maps: against whole maps, in limits, and with planted peaks."""

import pytest
import torch

from core_attention import attention
from core_attention.mechanisms.refam.cross_maps import cross_map, cross_map_of
from core_attention.mechanisms.refam.heatmap import (
    Accumulated,
    Cleaner,
    TextTokens,
    heatmap,
    heatmap_of,
    spatial_prior,
    word_maps,
)
from core_attention.mechanisms.refam.sinks import clean, find_sinks


def joint(heads=3, text=5, image=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 2, heads, text + image, 8, generator=generator, dtype=torch.float64)
    return q, k, (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1)


@pytest.mark.parametrize("image_first", [False, True])
@pytest.mark.parametrize("renormalise", ["none", "text"])
def test_columns_from_queries_and_keys_are_those_of_the_whole_map(image_first, renormalise):
    q, k, full = joint()
    image, text = (slice(0, 12), slice(12, 17)) if image_first else (slice(5, 17), slice(0, 5))
    _, lse = attention(q, k, k, scale=8**-0.5, return_lse=True)
    ours = cross_map(q, k, lse.double(), image=image, text=text, scale=8**-0.5, renormalise=renormalise)
    expected = cross_map_of(full, image=image, text=text, renormalise=renormalise)
    torch.testing.assert_close(ours.cross, expected.cross, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.load, expected.load, rtol=1e-5, atol=1e-7)


def test_a_fair_share_is_one():
    uniform = torch.full((1, 2, 10, 10), 0.1)
    load = cross_map_of(uniform, image=slice(4, 10), text=slice(0, 4)).load
    torch.testing.assert_close(load, torch.ones(1, 4))


def test_redirecting_keeps_each_rows_text_mass_and_suppressing_loses_just_the_sinks():
    cross = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
    sinks = torch.tensor([False, True, False, True, False, False])
    redirected = clean(cross, sinks, magnets=(4, 5), mode="redirect")
    torch.testing.assert_close(redirected.sum(1), cross.sum(1))
    assert not redirected[:, sinks].any()
    torch.testing.assert_close(redirected[:, [0, 2]], cross[:, [0, 2]])
    ratio = redirected[:, 4] / redirected[:, 5]
    torch.testing.assert_close(ratio, cross[:, 4] / cross[:, 5])
    suppressed = clean(cross, sinks, magnets=(4, 5), mode="suppress")
    torch.testing.assert_close(suppressed.sum(1), cross.sum(1) - cross[:, sinks].sum(1))


def test_magnets_without_weight_share_evenly():
    cross = torch.tensor([[0.8, 0.0, 0.0]])
    redirected = clean(cross, torch.tensor([True, False, False]), magnets=(1, 2), mode="redirect")
    torch.testing.assert_close(redirected, torch.tensor([[0.0, 0.4, 0.4]]))


def test_redirecting_without_magnets_is_refused():
    with pytest.raises(ValueError, match="needs magnets"):
        clean(torch.rand(3, 2), torch.tensor([True, False]), mode="redirect")


def test_magnets_are_no_sinks():
    assert find_sinks(torch.tensor([9.0, 9.0, 1.0]), magnets=(1,)).tolist() == [True, False, False]


def test_without_sinks_magnets_and_stop_words_it_is_the_mean_of_normalised_maps():
    _, _, full = joint()
    layers = [(str(n), cross_map_of(full[:1] ** 1, image=slice(5, 17), text=slice(0, 5))) for n in range(2)]
    tokens = TextTokens(words=((0,), (1, 2), (3,), (4,)))
    found, accumulated = heatmap_of(layers, tokens, (3, 4), cleaner=Cleaner(kappa=1e9))
    maps = word_maps(layers[0][1].cross[0], tokens.words)
    torch.testing.assert_close(found.heat, maps.mean(0).reshape(3, 4))
    assert maps.amin() == 0
    assert maps.amax() == 1
    assert not any(bool(mask.any()) for mask in accumulated.sinks.values())


@pytest.mark.parametrize(("grid", "cell"), [((3, 5), 7), ((5, 3), 14), ((1, 7), 0), ((2, 3, 4), 19)])
def test_a_planted_peak_is_the_point(grid, cell):
    count = torch.Size(grid).numel()
    cross = torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) * 0.1
    cross[cell, 1:] = 1
    found = heatmap(cross, TextTokens(words=((1,), (2,))), grid)
    rows, columns = grid[-2:]
    frame, cell = divmod(cell, rows * columns)
    assert found.frame == frame
    assert found.point == ((cell % columns + 0.5) / columns, (cell // columns + 0.5) / rows)


def test_a_map_without_difference_is_zero_and_not_nan():
    assert not word_maps(torch.ones(6, 2), [(0,), (1,)]).any()


def test_weights_and_places():
    cross = torch.eye(4)[:, :2]
    tokens = TextTokens(words=((0,), (1,)))
    assert heatmap(cross, tokens, (2, 2), weights=(0.0, 1.0)).point == (0.75, 0.25)
    left = spatial_prior(["the", "Left"], (2, 4))
    assert left is not None
    assert (left[:, :-1] > left[:, 1:]).all()
    assert spatial_prior(["cup"], (2, 4)) is None


def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="only stop words"):
        TextTokens(words=())
    with pytest.raises(ValueError, match="filtered out"):
        TextTokens(words=((1, 2),), stop=(2,))
    with pytest.raises(ValueError, match="15 cells, got 12"):
        heatmap(torch.rand(12, 2), TextTokens(words=((0,),)), (3, 5))
    with pytest.raises(ValueError, match="no layer"):
        _ = Accumulated(TextTokens(words=((0,),))).cross
