import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.measuring.cost import profile
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM, definition
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import EfficientChannelAttention, SqueezeExcitation


@pytest.fixture
def x():
    return torch.randn(2, 32, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_cbam_is_its_definition(x):
    module = CBAM(32).double()
    x.requires_grad_()
    y, want = module(x), definition(module, x)
    torch.testing.assert_close(y, want)
    given = [x, *module.parameters()]
    for one, other in zip(torch.autograd.grad(y.sum(), given), torch.autograd.grad(want.sum(), given), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(module(x), want)


def test_the_first_of_equal_maxima_gets_the_gradient():
    module = CBAM(2).double()
    x = torch.ones(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x).sum(), x)
    (want,) = torch.autograd.grad(definition(module, x).sum(), x)
    torch.testing.assert_close(grad, want)


def test_costs_of_the_published_table():
    """ULSAM's table at 512 channels, 14×14: SE 33 k parameters and 0.03 M multiply-accumulates, CBAM 33 k and 0.05 M.

    CBAM's shared MLP runs on the mean and the maximum; the table counts it once.
    """
    x = torch.randn(1, 512, 14, 14)
    se, cbam = profile(SqueezeExcitation(512), x), profile(CBAM(512), x)
    assert (se.parameters, se.macs) == (32768, 32768)
    assert (cbam.parameters, cbam.macs - 32768) == (32768 + 98, 32768 + 98 * 196)
    assert round((cbam.macs - 32768) / 1e6, 2) == 0.05


def test_squeeze_excitation(x):
    module = SqueezeExcitation(32, reduction=4).double()
    w1, w2 = module.excitation[0].weight, module.excitation[2].weight
    gate = torch.sigmoid(torch.relu(x.mean((2, 3)) @ w1.T) @ w2.T)
    torch.testing.assert_close(module(x), x * gate[..., None, None])
    assert SqueezeExcitation(4).excitation[0].out_features == 1  # 4 // 16, at least one unit
    assert SqueezeExcitation(32, bias=True).excitation[0].bias is not None


@pytest.mark.parametrize(("channels", "kernel"), [(64, 3), (256, 5), (512, 5), (1, 1), (2048, 7)])
def test_efficient_channel_attention(channels, kernel):
    module = EfficientChannelAttention(channels)
    assert module.conv.weight.shape == (1, 1, kernel)
    x = torch.randn(2, channels, 3, 2)
    gate = torch.sigmoid(
        torch.nn.functional.conv1d(x.mean((2, 3))[:, None], module.conv.weight, padding=kernel // 2)[:, 0]
    )
    torch.testing.assert_close(module(x), x * gate[..., None, None])


def test_gates_on_request(x):
    module = CBAM(32).double()
    with capture(module, kinds="gates") as maps:
        module(x)
    assert maps.all("channel_attention", "gates")[0].shape == (2, 32, 1, 1)
    assert maps.all("spatial_attention", "gates")[0].shape == (2, 1, 6, 5)
