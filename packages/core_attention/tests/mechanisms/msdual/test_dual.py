import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.msdual import dual as dual_module
from core_attention.mechanisms.msdual.dual import (
    CAM,
    PAM,
    PAMCAMLayer,
    channel_attention,
    definition,
    position_attention,
)


def image(*size, seed=0, dtype=torch.float64, scale=0.3):
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_position(q, k, v):
    a = torch.softmax(q.flatten(2).mT @ k.flatten(2), 2)
    return (v.flatten(2) @ a.mT).view_as(v)


@pytest.mark.parametrize("narrow", [2, 24])
@pytest.mark.parametrize("small", [1024, 0])
def test_position_attention_is_its_definition_on_both_routes(small, narrow, monkeypatch):
    monkeypatch.setattr(dual_module, "SMALL", small)
    given = [image(2, d, 5, 7, seed=n).requires_grad_() for n, d in enumerate((narrow, narrow, 16))]
    y, want = position_attention(*given), plain_position(*given)
    torch.testing.assert_close(y, want)
    for one, other in zip(
        torch.autograd.grad(y.pow(2).sum(), given), torch.autograd.grad(want.pow(2).sum(), given), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_no_array_of_all_pairs_of_pixels():
    """At 33×32 pixels no tensor that the graph keeps has 1056² elements."""
    sizes = []
    given = [image(1, 8, 33, 32, seed=s, dtype=torch.float32).requires_grad_() for s in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        position_attention(*given).sum().backward()
    assert sizes
    assert max(sizes) < 1056**2 / 10


@pytest.mark.parametrize("kind", [PAM, CAM])
def test_layers_are_their_definition(kind):
    x, layer = image(2, 6, 4, 5).requires_grad_(), kind(6).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    y, want = layer(x), definition(layer, x)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(*(torch.autograd.grad(t.pow(2).sum(), x)[0] for t in (y, want)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_channel_attention_is_safe_in_half_precision(dtype):
    x = image(1, 8, 128, 128, dtype=torch.float32, scale=3.0)  # xᵀx ≈ 147 000, over float16's 65 504
    y = channel_attention(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), channel_attention(x.to(dtype).float()), rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", dtype=dtype):
        assert channel_attention(x.to(dtype)).isfinite().all()


@pytest.mark.parametrize("kind", [PAM, CAM])
def test_gamma_starts_at_zero_which_is_the_identity(kind):
    x = image(2, 16, 4, 5, dtype=torch.float32)
    assert torch.equal(kind(16)(x), x)


def test_position_attention_follows_and_channel_attention_ignores_the_order_of_pixels():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def permuted(t):
        return t.flatten(2)[..., order].view_as(t)

    x = image(2, 16, 4, 5)
    for module in (PAM(16).double(), CAM(16).double()):
        torch.nn.init.constant_(module.gamma, 0.7)
        torch.testing.assert_close(module(permuted(x)), permuted(module(x)))
    with capture(None) as maps:
        channel_attention(x)
        channel_attention(permuted(x))
    torch.testing.assert_close(*maps.all("function"))


def test_the_most_similar_channel_gets_the_least_weight():
    x = image(1, 5, 6, 6)
    x[:, 3] = x[:, 1] * 1.5
    with capture(None) as maps:
        channel_attention(x)
    a = maps["function"][0, 0]
    torch.testing.assert_close(a.sum(1), torch.ones(5, dtype=a.dtype))
    assert a[1].argmin() == 3
    e = (x.flatten(2) @ x.flatten(2).mT)[0]
    torch.testing.assert_close(a, torch.softmax(e.amax(1, keepdim=True) - e, 1))


def test_rows_of_the_position_map_on_request():
    module, x = PAM(16).double(), image(2, 16, 4, 5)
    with capture(module, rows=[3, 7]) as maps:
        module(x)
    want = torch.softmax(module.query_conv(x).flatten(2).mT @ module.key_conv(x).flatten(2), 2)[:, None, [3, 7]]
    torch.testing.assert_close(maps["PAM"], want)


def test_parameters_as_published():
    """116 179 with position and 110 979 with channel attention at 128 → 64 channels."""
    assert sum(p.numel() for p in PAMCAMLayer(64).parameters()) == 116_179
    assert sum(p.numel() for p in PAMCAMLayer(64, use_pam=False).parameters()) == 110_979


def test_one_channel_and_narrow_maps():
    for module in (PAM(1), CAM(1), PAM(9)):
        torch.nn.init.ones_(module.gamma)
        channels = module.channels
        assert module(image(2, channels, 1, 1, dtype=torch.float32)).shape == (2, channels, 1, 1)
    with pytest.raises(ValueError, match=r"\(batch, 32, height, width\), got \(2, 16, 4, 4\)"):
        PAMCAMLayer(16)(torch.zeros(2, 16, 4, 4))
