import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention, balanced_fusion, definition
from core_attention.mechanisms.eurosat_bmta.coordinate import CoordinateAttention
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import channel_gate
from core_attention.parts.strips import strip_gate, strip_means
from core_attention.registry.systems import StateError, load_strictly


def module_and_map(channels=32, size=(9, 12), seed=0):
    torch.manual_seed(seed)
    return BalancedMultiTaskAttention(channels).double().eval(), torch.randn(2, channels, *size, dtype=torch.float64)


def branches(module, x):
    rows, columns = strip_means(x)
    a_h, a_w = module.coord_attention.gates(rows, columns)
    return a_h, a_w, module.se_attention.gate(rows.mean(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(9, 12), (1, 1), (64, 64)])
def test_fused_gate_is_the_three_step_form(size, dtype):
    module, x = module_and_map(size=size)
    module, x = module.to(dtype), x.to(dtype).requires_grad_()
    y = module(x)
    want = definition(module, x)
    torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
    given = [x, *module.parameters()]
    probe = torch.randn_like(y)
    for one, other in zip(torch.autograd.grad(y, given, probe), torch.autograd.grad(want, given, probe), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_training_updates_the_running_statistics_once():
    module, x = module_and_map()
    plain, _ = module_and_map()
    module.train()(x)
    definition(plain.train(), x)
    for one, other in zip(module.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_limits_of_the_scalar():
    module, x = module_and_map()
    a_h, a_w, e = branches(module, x)
    torch.nn.init.constant_(module.alpha, 50.0)
    torch.testing.assert_close(module(x), strip_gate(x, a_h, a_w))
    torch.testing.assert_close(module(x), module.coord_attention(x))
    torch.nn.init.constant_(module.alpha, -50.0)
    torch.testing.assert_close(module(x), channel_gate(x, e))
    torch.testing.assert_close(module(x), module.se_attention(x))


def test_zero_weights_and_the_published_start():
    module, x = module_and_map()
    assert abs(module.balance.item() - 0.622459) < 1e-6
    for p in [*module.coord_attention.parameters(), *module.se_attention.parameters()]:
        torch.nn.init.zeros_(p)
    alpha = module.balance
    torch.testing.assert_close(module(x), x * (alpha / 4 + (1 - alpha) / 2))


def test_gradient_of_the_scalar_in_closed_form():
    module, x = module_and_map()
    (given,) = torch.autograd.grad(module(x).sum(), module.alpha)
    alpha, (a_h, a_w, e) = module.balance, branches(module, x)
    want = alpha * (1 - alpha) * (strip_gate(x, a_h, a_w) - channel_gate(x, e)).sum()
    torch.testing.assert_close(given, want)


def test_fusion_function():
    x, a_h, a_w, e = (torch.rand(s) for s in [(2, 3, 4, 5), (2, 3, 4), (2, 3, 5), (2, 3)])
    alpha = torch.tensor(0.3)
    want = 0.3 * x * a_h[..., None] * a_w[:, :, None] + 0.7 * x * e[..., None, None]
    torch.testing.assert_close(balanced_fusion(x, a_h, a_w, e, alpha), want)


def test_gate_on_request():
    module, x = module_and_map()
    with capture(module, rows=[2], heads=[0, 5]) as maps:
        y = module(x)
    gate = maps.all("BalancedMultiTaskAttention", "gates")[0]
    torch.testing.assert_close(gate, (y / x)[:, [0, 5]][:, :, [2]])


def test_parameters_and_names():
    module = BalancedMultiTaskAttention(64)
    # coordinate: C·C/8 + 2·C/8 (norm) + 2·C/8·C; squeeze-excitation: 2·C·C/16; the scalar
    assert sum(p.numel() for p in module.parameters()) == 3 * 64 * 8 + 2 * 8 + 2 * 64 * 4 + 1
    assert {k.split(".")[0] for k in module.state_dict()} == {"coord_attention", "se_attention", "alpha"}


def test_state_dicts_with_a_scalar_without_axes_load():
    module = BalancedMultiTaskAttention(64)
    state = {**module.state_dict(), "alpha": torch.tensor(0.25)}
    torch.nn.ModuleDict({"gate": module}).load_state_dict({f"gate.{key}": tensor for key, tensor in state.items()})
    assert module.alpha.tolist() == [0.25]
    load_strictly(module, {**state, "alpha": torch.tensor(0.75)})
    assert module.alpha.tolist() == [0.75]
    with pytest.raises(StateError, match="alpha"):
        load_strictly(module, {**state, "alpha": torch.zeros(2)})


def test_coordinate_attention_as_first_published():
    module = CoordinateAttention(64)
    assert module.conv1.weight.shape == (8, 64, 1, 1)  # 64 // 32 raised to the least of 8
    assert module.conv_h.bias is not None
    assert isinstance(module.act, torch.nn.Hardswish)
    with pytest.raises(ValueError, match="one of hardswish, relu"):
        CoordinateAttention(64, activation="gelu")
