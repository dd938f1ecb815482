"""The EuroSAT networks: published sizes, limits of the fusion, DropBlock, other bands and tile sizes."""

import pytest
import torch
from torch import nn

from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from remote_sensing.landuse.model.dropblock import DropBlock2D, drop_block
from remote_sensing.landuse.model.eurosat import (
    Attention7LayerCNN,
    Balanced12LayerCNN,
    BalancedConfig,
    Baseline3LayerCNN,
    BaselineConfig,
    CBAMConfig,
    folded,
)

SMALL = BalancedConfig(width=8, depths=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("form", "parameters"),
    [(Balanced12LayerCNN, 13_115_813), (Attention7LayerCNN, 9_912_212), (Baseline3LayerCNN, 4_293_642)],
)
def test_published_parameter_counts(form, parameters):
    network = form()
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_balanced_state_dict_and_start():
    network = Balanced12LayerCNN()
    assert len(network.state_dict()) == 279
    assert network.attention_weights() == pytest.approx([0.6224593] * 11)


def random_fusion(channels: int = 16) -> BalancedMultiTaskAttention:
    torch.manual_seed(0)
    return BalancedMultiTaskAttention(channels).double().eval()


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_scalars_leave_one_branch(sign):
    layer, x = random_fusion(), torch.randn(2, 16, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        layer.alpha.fill_(sign * 80.0)
        expected = layer.coord_attention(x) if sign > 0 else layer.se_attention(x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_zero_branches_give_a_constant_gate():
    layer, x = random_fusion(), torch.randn(2, 16, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        for branch in (layer.coord_attention, layer.se_attention):
            for module in branch.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.weight.zero_()
        alpha = layer.balance
        torch.testing.assert_close(layer(x), x * (alpha / 4 + (1 - alpha) / 2))


def test_gradient_of_the_scalar_has_its_closed_form():
    layer, x = random_fusion(), torch.randn(2, 16, 9, 7, dtype=torch.float64)
    weight = torch.randn_like(x)
    (layer(x) * weight).sum().backward()
    with torch.no_grad():
        alpha = layer.balance
        expected = (alpha * (1 - alpha) * (layer.coord_attention(x) - layer.se_attention(x)) * weight).sum()
    torch.testing.assert_close(layer.alpha.grad, expected[None])


def test_drop_block_is_the_identity_in_evaluation_and_without_probability():
    x = torch.randn(2, 3, 8, 8)
    assert DropBlock2D(0.5).eval()(x) is x
    assert DropBlock2D(0.0).train()(x) is x


def test_drop_block_drops_its_share_in_blocks_and_keeps_the_mean():
    torch.manual_seed(0)
    y = DropBlock2D(0.1).train()(torch.ones(4, 2, 256, 256))
    dropped = y[:, :1] == 0
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(y.mean()) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(dropped, y[:, 1:] == 0), "one mask for all channels"
    noise = torch.ones(1, 1, 21, 21)
    noise[0, 0, 10, 10] = 0
    one = drop_block(torch.ones(1, 1, 21, 21), noise, drop_prob=0.1, block_size=7)
    assert int((one == 0).sum()) == 49


@pytest.mark.parametrize("size", [32, 64, 200, 256])
@pytest.mark.parametrize("bands", [3, 13])
def test_balanced_takes_any_bands_and_tile_size(size, bands):
    network = Balanced12LayerCNN(BalancedConfig(width=8, depths=(1, 1, 1, 1), in_chans=bands)).eval()
    assert network(torch.randn(1, bands, size, size)).shape == (1, 10)


def test_thirteen_bands_and_other_sizes_of_the_peers():
    assert Baseline3LayerCNN(BaselineConfig(in_chans=13, tile_size=32)).eval()(torch.randn(1, 13, 32, 32)).shape == (
        1,
        10,
    )
    assert Attention7LayerCNN(CBAMConfig(in_chans=13, width=16)).eval()(torch.randn(1, 13, 96, 96)).shape == (1, 10)


@pytest.mark.parametrize("network", [Balanced12LayerCNN(SMALL), Attention7LayerCNN(), Baseline3LayerCNN()])
@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 3, 4, 4), (3, 64, 64)])
def test_wrong_shapes_are_quoted(network, shape):
    with pytest.raises((ValueError, TypeError), match=r"got|shape|Type-check"):
        network(torch.randn(shape))


@pytest.mark.parametrize("form", [Balanced12LayerCNN, Attention7LayerCNN, Baseline3LayerCNN])
def test_folded_equals(form):
    torch.manual_seed(0)
    network = form(SMALL) if form is Balanced12LayerCNN else form()
    network.train()(torch.randn(4, 3, 64, 64))  # running statistics that are not 0 and 1
    network.eval()
    x = torch.randn(2, 3, 64, 64)
    quick = folded(network)
    torch.testing.assert_close(quick(x), network(x), rtol=1e-4, atol=1e-5)
