import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_model, save_model

from core_attention.capture.capture import capture
from core_attention.measuring.cost import profile
from core_attention.mechanisms.ulsam.attention import ULSAM, definition, published_state, subspace_gate


def module(channels=16, num_splits=4, seed=0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    made = ULSAM(channels, num_splits=num_splits, **options).to(dtype)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p))
    return made


def image(*size, seed=1, dtype=torch.float64):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_vectorised_is_the_plain_loop(norm, train):
    made, x = module(norm=norm, dtype=torch.float32), image(3, 16, 7, 5, dtype=torch.float32).requires_grad_()
    made.train(train)
    want, y = definition(made, x), made(x)
    torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
    given = [x, *made.parameters()]
    gradients = (torch.autograd.grad(t.pow(2).sum(), given) for t in (y, want))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_maps_sum_to_one_and_the_output_stays_between_once_and_twice():
    made, x = module().eval(), image(2, 16, 9, 7)
    a = made.attention(x)
    torch.testing.assert_close(a.sum((2, 3)), torch.ones(2, 4, dtype=a.dtype))
    y = made(x)
    assert ((y.abs() >= x.abs()) & (y.abs() <= 2 * x.abs()) & (y.sign() == x.sign())).all()


def test_one_pixel_doubles():
    x = image(2, 16, 1, 1)
    assert torch.equal(module().eval()(x), 2 * x)


def test_zero_scores_are_uniform():
    made, x = module().eval(), image(2, 16, 3, 5)
    torch.nn.init.zeros_(made.conv_point.weight)
    torch.testing.assert_close(made(x), x * (1 + 1 / 15))


def test_subspaces_do_not_interact_and_permute_with_their_parameters():
    made, x = module().eval(), image(2, 16, 5, 6)
    order = [2, 0, 3, 1]
    state = published_state(made)
    permuted = ULSAM(16).double().eval()
    permuted.load_state_dict({k: state[f"subspaces.{order[int(k.split('.')[1])]}.{k.split('.', 2)[2]}"] for k in state})
    blocks = torch.cat([x.chunk(4, 1)[n] for n in order], 1)
    torch.testing.assert_close(permuted(blocks), torch.cat([made(x).chunk(4, 1)[n] for n in order], 1))
    changed = x.clone()
    changed[:, :4] += 1
    assert torch.equal(made(changed)[:, 4:], made(x)[:, 4:])


@pytest.mark.parametrize(
    ("m", "g", "count"), [(512, 4, 2572), (512, 1, 2563), (160, 4, 812), (96, 4, 492), (320, 4, 1612)]
)
def test_parameters_as_published(m, g, count):
    assert sum(p.numel() for p in ULSAM(m, num_splits=g).parameters()) == count == 5 * m + 3 * g
    assert sum(p.numel() for p in ULSAM(m, num_splits=g, norm=False).parameters()) == 2 * m


def test_multiply_accumulates_of_the_published_table():
    """2·m·h·w: at 512 channels and 14×14 0.2 M. The scale of each channel, a product and no convolution here, is half of them."""
    x = torch.randn(1, 512, 14, 14)
    assert profile(ULSAM(512, norm=False), x).macs == 512 * 196
    assert profile(torch.nn.Conv2d(512, 512, 1, groups=512, bias=False), x).macs == 512 * 196
    assert round(2 * 512 * 196 / 1e6, 1) == 0.2


def test_any_size_and_clear_errors():
    for size in ((1, 16, 1, 9), (2, 16, 2, 3), (0, 16, 4, 4)):
        assert module().eval()(image(*size)).shape == size
    with pytest.raises(ValueError, match=r"channels 10 and num_splits 4"):
        ULSAM(10)


@pytest.mark.parametrize("norm", [True, False])
def test_published_names_load_and_are_written_on_request(norm, tmp_path):
    made, x = module(norm=norm).eval(), image(2, 16, 4, 4)
    state = {f"0.attn.{key}": tensor.contiguous() for key, tensor in published_state(made).items()}
    assert all(key.startswith("0.attn.subspaces.") for key in state)
    assert state["0.attn.subspaces.3.conv_point.weight"].shape == (1, 4, 1, 1)
    assert len(state) == 4 * (14 if norm else 2)
    again = torch.nn.Sequential(torch.nn.ModuleDict({"attn": ULSAM(16, norm=norm)})).double().eval()
    again.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
    assert torch.equal(again[0]["attn"](x), made(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({k: v for k, v in state.items() if "subspaces.2." not in k})


@pytest.mark.parametrize("norm", [True, False])
def test_saves_and_shares_memory_as_any_module(norm, tmp_path):
    made, x = module(norm=norm).eval(), image(2, 16, 4, 4)
    save_model(made, str(tmp_path / "ulsam.safetensors"))
    again = ULSAM(16, norm=norm).double().eval()
    load_model(again, tmp_path / "ulsam.safetensors")
    assert torch.equal(again(x), made(x))
    for tensor in again.state_dict().values():  # as exponential moving averages are written
        tensor.zero_()
    assert not any(bool(parameter.any()) for parameter in again.parameters())


def test_momentum():
    assert ULSAM(8).bn_dws.momentum == 0.1
    assert ULSAM(8, official_momentum=True).bn_point.momentum == 0.9


def test_softmax_in_float32_under_autocast():
    made, x = module(dtype=torch.float32).eval(), image(2, 16, 9, 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = made.attention(x)
    assert a.dtype == torch.float32
    torch.testing.assert_close(a.sum((2, 3)), torch.ones(2, 4))
    torch.testing.assert_close(subspace_gate(x, a), made(x), rtol=2e-2, atol=2e-2)


def test_maps_on_request():
    made, x = module().eval(), image(2, 16, 5, 6)
    with capture(made) as maps:
        made(x)
    assert torch.equal(maps.all("ULSAM", "gates")[0], made.attention(x))


def test_importing_changes_no_default():
    code = "import core_attention.mechanisms.ulsam.attention\nimport torch\nassert torch.get_default_dtype() is torch.float32\n"
    code += "assert torch.ones(1).device.type == 'cpu'"
    subprocess.run([sys.executable, "-c", code], check=True)
