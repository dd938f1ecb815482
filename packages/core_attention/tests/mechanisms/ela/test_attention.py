import pytest
import torch

from core_attention.measuring.cost import profile
from core_attention.mechanisms.ela.attention import ELA, VARIANTS, definition
from core_attention.parts.strips import strip_means


def ela(channels=32, seed=0, **options):
    torch.manual_seed(seed)
    module = ELA(channels, **options).double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
    return module


def image(*size, seed=1):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("variant", "factor"), [("T", 7), ("B", 9), ("S", 42), ("L", 58)])
def test_parameters_and_multiply_accumulates_as_published(variant, factor):
    c, (h, w) = 64, (14, 12)
    x = torch.randn(1, c, h, w)
    v = VARIANTS[variant]
    cost = profile(ELA(c, variant=variant), x)
    assert cost.parameters == factor * c
    assert cost.macs == c * v.kernel_size * v.channels_a_group * (h + w)
    assert profile(ELA(c, variant=variant, shared=False), x).parameters == 2 * factor * c


@pytest.mark.parametrize("size", [(2, 32, 5, 9), (1, 32, 1, 6), (1, 32, 6, 1), (1, 32, 2, 3), (1, 32, 1, 1)])
def test_keeps_every_size(size):
    assert ela(variant="L")(image(*size)).shape == size


@pytest.mark.parametrize("options", [{"variant": "S"}, {"variant": "T", "shared": False}])
@pytest.mark.parametrize("size", [(2, 32, 6, 9), (2, 32, 6, 6)])
def test_is_its_definition(size, options):
    module, x = ela(**options), image(*size).requires_grad_()
    y, want = module(x), definition(module, x)
    torch.testing.assert_close(y, want)
    given = [x, *module.parameters()]
    gradients = (torch.autograd.grad(t.pow(2).sum(), given) for t in (y, want))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(2, 32, 6, 9), (2, 32, 6, 6)])
def test_transposition(size):
    module, x = ela(variant="S"), image(*size)
    torch.testing.assert_close(module(x.mT), module(x).mT)


def test_square_maps_take_both_strips_at_once_with_the_same_result():
    module, x = ela(variant="S"), image(2, 32, 6, 6)
    rows, columns = strip_means(x)
    a_h, a_w = module.gates(rows, columns)
    torch.testing.assert_close(a_h, module._gate_axis(rows, ""))
    torch.testing.assert_close(a_w, module._gate_axis(columns, ""))


def test_zero_norm_halves_twice_and_a_large_bias_opens():
    module, x = ela(), image(2, 32, 4, 5)
    torch.nn.init.zeros_(module.gn.weight)
    torch.nn.init.zeros_(module.gn.bias)
    assert torch.equal(module(x), x / 4)
    torch.nn.init.constant_(module.gn.bias, 50.0)
    torch.testing.assert_close(module(x), x)


def test_gates_shrink_keep_the_sign_and_are_an_outer_product():
    x = image(2, 32, 5, 6)
    y = ela()(x)
    assert (y.abs() <= x.abs()).all()
    assert (y.sign() == x.sign()).all()
    assert (torch.linalg.svdvals(y / x)[..., 1:] < 1e-10).all()


def test_scale_of_the_map_passes_through():
    module, x = ela(), image(2, 32, 12, 9)
    torch.testing.assert_close(module(10 * x), 10 * module(x), rtol=1e-3, atol=1e-3)


def test_flip_with_palindromic_kernels():
    module, x = ela(variant="L"), image(2, 32, 5, 7)
    with torch.no_grad():
        module.conv.weight.copy_(module.conv.weight + module.conv.weight.flip(2))
    torch.testing.assert_close(module(x.flip(3)), module(x).flip(3))


@pytest.mark.parametrize("channels", [24, 40, 144, 20, 1, 7])
@pytest.mark.parametrize("variant", "TBSL")
def test_any_width_with_the_fallback(channels, variant):
    nominal = VARIANTS[variant]
    module = ela(channels, variant=variant, strict=False)
    assert channels % module.groups == channels % module.num_groups == 0
    assert module.num_groups <= nominal.num_groups
    assert module(image(2, channels, 3, 4)).shape == (2, channels, 3, 4)


def test_strict_names_the_width_and_the_variant():
    with pytest.raises(ValueError, match=r"ELA-S cannot take 24 channels.*strict=False"):
        ELA(24, variant="S")
    with pytest.raises(ValueError, match="one of T, B, S, L"):
        ELA(24, variant="M")
    with pytest.raises(ValueError, match="odd kernel_size"):
        ELA(32, kernel_size=4)


@pytest.mark.parametrize("names", [("conv.weight", "gn.weight", "gn.bias"), ("con1.weight", "GN.weight", "GN.bias")])
def test_both_circulating_namings_load_under_a_prefix(names):
    module = ela()
    theirs = {f"0.ela.{theirs}": v for theirs, v in zip(names, module.state_dict().values(), strict=True)}
    ours = torch.nn.Sequential(torch.nn.ModuleDict({"ela": ELA(32)})).double()
    ours.load_state_dict(theirs)
    x = image(1, 32, 4, 4)
    assert torch.equal(ours[0]["ela"](x), module(x))


def test_separate_axes():
    module, x = ela(shared=False), image(1, 32, 5, 5)
    assert set(module.state_dict()) == {
        f"{part}_{axis}.{kind}"
        for part, kinds in (("conv", ["weight"]), ("gn", ["weight", "bias"]))
        for axis in "hw"
        for kind in kinds
    }
    assert not torch.allclose(module(x.mT), module(x).mT)


def test_channels_last_and_bfloat16_autocast():
    torch.manual_seed(0)
    module, x = ELA(32, variant="S"), torch.randn(2, 32, 6, 9)
    y = module(x)
    last = module(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(x).float(), y, rtol=2e-2, atol=2e-2)
