import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from core_attention.parts.linear import linear, product

SHAPES = [(24,), (7, 24), (2, 3, 5, 24), (0, 24), (2, 0, 24)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_one_pass_is_the_layer(shape, gelu, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    expected = F.gelu(layer(x)) if gelu else layer(x)
    with torch.no_grad():
        torch.testing.assert_close(linear(layer, x, gelu=gelu), expected)
    torch.testing.assert_close(linear(layer, x, gelu=gelu), expected)


def test_inputs_that_are_not_contiguous_and_parts_of_a_weight():
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), torch.randn(3, 24, 10).transpose(1, 2)[:, ::2]
    weights, biases = layer.weight.split([16, 24]), layer.bias.split([16, 24])
    with torch.no_grad():
        joined = torch.cat([product(x, w, b) for w, b in zip(weights, biases, strict=True)], -1)
        torch.testing.assert_close(joined, layer(x))


def test_what_is_watched_or_changed_sees_the_layer_itself():
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), torch.randn(3, 24)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        linear(layer, x)
    assert counter.get_total_flops() == 2 * 3 * 24 * 40
    seen = []
    layer.register_forward_hook(lambda _, inputs, y: seen.append(y))
    with torch.no_grad():
        assert linear(layer, x) is seen[0]
    fresh = nn.Linear(24, 40)
    linear(fresh, x, gelu=True).sum().backward()
    assert fresh.weight.grad is not None
    with torch.no_grad():
        assert linear(fresh.double(), x.double()).dtype == torch.float64
        assert torch.vmap(lambda row: linear(fresh.float(), row))(x).shape == (3, 40)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(fresh, x).dtype == torch.bfloat16
