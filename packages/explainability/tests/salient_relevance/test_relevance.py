import pytest
import torch
from torch import nn

from explainability.salient_relevance.relprop import relprop, render
from explainability.salient_relevance.rules import Rule, propagate, propagate_max_pool
from explainability.salient_relevance.saliency import SaliencyOptions, context_aware_saliency


def doubles(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_linear_layers_conserve_relevance():
    torch.manual_seed(0)
    layers = [nn.Linear(20, 12).double(), nn.ReLU(), nn.Linear(12, 5).double()]
    for layer in (layers[0], layers[2]):
        layer.weight.data.abs_()
    result = relprop(layers, doubles(3, 20))
    start = result.logits.gather(1, result.target[:, None]).sum()
    assert result.relevance.sum().item() == pytest.approx(start.item(), rel=1e-6)


def test_convolutions_without_bias_conserve_relevance():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
    ]
    layers = [layer.double() for layer in layers]
    result = relprop(layers, doubles(1, 3, 13, 13))
    assert result.relevance.sum().item() == pytest.approx(result.logits.max().item(), rel=1e-4)


@pytest.mark.parametrize("name", ["z", "epsilon", "z+", "gamma", "alpha-beta", "flat", "w2", "zB"])
def test_every_rule_conserves_without_bias(name):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, groups=1, stride=2, dilation=2, bias=False).double()
    x = doubles(2, 3, 11, 12)
    relevance = torch.rand_like(layer(x))
    before = propagate(layer, x, relevance, Rule(name))
    assert before.shape == x.shape
    assert before.sum().item() == pytest.approx(relevance.sum().item(), rel=1e-5)


def test_rules_against_their_formulas():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    x, relevance = doubles(2, 5) - 0.5, doubles(2, 3)
    w, b = layer.weight.data, layer.bias.data
    contributions = x[:, None] * w
    gamma = contributions + 0.25 * x[:, None] * w.clamp(min=0)
    z = gamma.sum(2) + b + 0.25 * b.clamp(min=0)
    expected = (gamma / z[..., None] * relevance[..., None]).sum(1)
    assert torch.allclose(propagate(layer, x, relevance, Rule("gamma")), expected, atol=1e-6)
    positive, negative = contributions.clamp(min=0), contributions.clamp(max=0)
    shares = 2 * positive / (positive.sum(2) + b.clamp(min=0))[..., None]
    shares = shares - negative / (negative.sum(2) + b.clamp(max=0))[..., None]
    expected = (shares * relevance[..., None]).sum(1)
    assert torch.allclose(propagate(layer, x, relevance, Rule("alpha-beta", alpha=2)), expected, atol=1e-6)


def test_pooling_without_overlap_is_the_same_either_way():
    x = doubles(2, 3, 8, 8)
    for pool, same in ((nn.MaxPool2d(2), True), (nn.MaxPool2d(3, 1), False)):
        relevance = torch.rand_like(pool(x))
        ways = [propagate_max_pool(pool, x, relevance, overwrite=overwrite) for overwrite in (True, False)]
        assert torch.allclose(*ways) is same


def test_scaling_the_last_layer_scales_relevance():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8).double(), nn.ReLU(), nn.Linear(8, 3, bias=False).double()]
    x, target = doubles(1, 6), torch.tensor([1])
    before = relprop(layers, x, target=target).relevance
    layers[2].weight.data.mul_(3)
    assert torch.allclose(relprop(layers, x, target=target).relevance, 3 * before, atol=1e-7)
    layers[2].weight.data[1] = 0
    assert not relprop(layers, x, target=target).relevance.any()


def test_layers_that_pass_relevance_on_change_nothing():
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3).double(), nn.Linear(4 * 16, 3).double()
    x = doubles(2, 3, 6, 6)
    plain = relprop([first, nn.ReLU(), nn.Flatten(), last], x).relevance
    dropout = nn.Dropout().eval()
    more = relprop([nn.Identity(), first, dropout, nn.ReLU(), nn.Identity(), nn.Flatten(), dropout, last], x).relevance
    assert torch.equal(plain, more)


def test_unknown_layers_are_named():
    with pytest.raises(ValueError, match="layer 0: no rule for Tanh"):
        relprop([nn.Tanh()], torch.rand(1, 3))


def test_rendering_constant_relevance():
    assert not render(torch.full((1, 3, 4, 4), 2.0)).any()
    assert render(torch.rand(1, 3, 4, 4)).max() == 255


def test_saliency_of_a_constant_image_is_0():
    saliency = context_aware_saliency(torch.full((30, 40, 3), 0.4, dtype=torch.float64))
    assert saliency.single_scale.abs().max() < 1e-6
    assert saliency.map.isfinite().all()


def test_flipping_flips_the_map():
    options = SaliencyOptions(
        scales=(1.0, 0.5)
    )  # both grids are symmetric at a width of 50: 43 and 18 steps of 3 … 43 % 3 = 1
    image = doubles(31, 40, 3)  # (40 − 7) % 3 = 0; at half: 20 − 7 = 13, which is not symmetric, so one scale alone
    options = SaliencyOptions(scales=(1.0,), min_scale=0.9)
    a = context_aware_saliency(image, options).map
    b = context_aware_saliency(image.flip(1), options).map.flip(1)
    assert torch.allclose(a, b, atol=1e-9)


def test_more_neighbours_than_patches_are_all():
    image = doubles(20, 20, 3)
    few = SaliencyOptions(scales=(1.0,), min_scale=0.9, k=25)
    more = SaliencyOptions(scales=(1.0,), min_scale=0.9, k=1000)
    assert torch.equal(context_aware_saliency(image, few).map, context_aware_saliency(image, more).map)


def test_images_smaller_than_a_patch():
    with pytest.raises(ValueError, match="smaller than a patch"):
        context_aware_saliency(doubles(5, 40, 3))
