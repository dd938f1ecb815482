import re

import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.davit import attention as davit
from core_attention.mechanisms.davit.attention import (
    ChannelAttention,
    ChannelBlock,
    SpatialBlock,
    WindowAttention,
    channel_attention,
    channel_map,
    merge,
    partition,
)
from core_attention.mechanisms.davit.declaration import system


def qkv(tokens=30, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(2, 3, tokens, 8, dtype=dtype) for _ in range(3)]


def test_channel_attention_is_its_definition():
    q, k, v = qkv()
    m = torch.softmax(8**-0.5 * torch.einsum("bhni,bhnj->bhij", k, v), -1)
    torch.testing.assert_close(m.sum(-1), torch.ones_like(m[..., 0]))
    torch.testing.assert_close(channel_attention(q, k, v), torch.einsum("bhij,bhnj->bhni", m, q))
    m = torch.softmax(30**-0.5 * torch.einsum("bhni,bhnj->bhij", q, k), -1)
    torch.testing.assert_close(channel_attention(q, k, v, scaling="tokens"), torch.einsum("bhij,bhnj->bhni", m, v))


@pytest.mark.parametrize("scaling", ["channels", "tokens"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_many_tokens_take_the_folded_form_with_the_same_gradients(scaling, qkv_bias, monkeypatch):
    torch.manual_seed(0)
    layer = ChannelAttention(12, 3, scaling=scaling, qkv_bias=qkv_bias).double()
    x = torch.randn(2, 5, 12, 12, dtype=torch.float64, requires_grad=True)
    given, found = [x, *layer.parameters()], []
    for many in (60, 61):
        monkeypatch.setattr(davit, "MANY", many)
        with capture(layer) as maps:
            y = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), given), maps["ChannelAttention"]])
    for folded, plain in zip(*found, strict=True):
        torch.testing.assert_close(folded, plain)
    monkeypatch.setattr(
        layer, "_folded", None
    )  # not in half precision, nor under autocast, nor past an adapter or a hook
    monkeypatch.setattr(davit, "MANY", 1)
    handle = layer.qkv.register_forward_hook(lambda module, args, output: output + 1)
    assert not torch.allclose(layer(x), found[0][0])
    handle.remove()
    adapted = type("Adapted", (torch.nn.Linear,), {"forward": lambda self, t: torch.nn.Linear.forward(self, t) + 1})
    layer.proj.__class__ = adapted
    torch.testing.assert_close(layer(x), found[0][0] + 1)
    layer.proj.__class__ = torch.nn.Linear
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x.float()).isfinite().all()
    assert layer.bfloat16()(x.bfloat16()).isfinite().all()


@pytest.mark.parametrize("scaling", ["channels", "tokens"])
def test_channel_attention_is_equivariant_to_the_order_of_tokens(scaling):
    q, k, v = qkv()
    order = torch.randperm(30)
    moved = channel_attention(q[:, :, order], k[:, :, order], v[:, :, order], scaling=scaling)
    torch.testing.assert_close(moved, channel_attention(q, k, v, scaling=scaling)[:, :, order])


def test_repeated_tokens_double_the_logits_or_grow_them_by_the_root():
    q, k, _ = qkv()
    twice = [torch.cat([t, t], 2) for t in (q, k)]

    def logits(m):  # up to a constant a row
        return m.log() - m.log().mean(-1, keepdim=True)

    torch.testing.assert_close(logits(channel_map(*twice, 0.1)), 2 * logits(channel_map(q, k, 0.1)))
    torch.testing.assert_close(logits(channel_map(*twice, 60**-0.5)), 2**0.5 * logits(channel_map(q, k, 30**-0.5)))


@pytest.mark.parametrize(("height", "width"), [(9, 13), (7, 7), (1, 1), (14, 5)])
def test_windows_come_back(height, width):
    x = torch.randn(2, height, width, 3)
    windows = partition(x, 7)
    assert windows.shape == (2 * -(-height // 7) * -(-width // 7), 49, 3)
    assert torch.equal(merge(windows, 7, height, width), x)


def test_one_window_over_the_whole_map_is_full_attention():
    torch.manual_seed(0)
    layer, x = WindowAttention(12, 3, window_size=4).double(), torch.randn(2, 4, 4, 12, dtype=torch.float64)
    q, k, v = layer.qkv(x.flatten(1, 2)).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    y = torch.softmax(q @ k.mT / 2, -1) @ v
    torch.testing.assert_close(layer(x), layer.proj(y.transpose(1, 2).flatten(2)).unflatten(1, (4, 4)))


def test_windows_do_not_see_each_other():
    torch.manual_seed(0)
    layer, x = WindowAttention(8, 2, window_size=4), torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, 0, 0] += 1
    difference = (layer(changed) - layer(x)).abs().sum(-1)[0]
    assert (difference[:4, :4] > 0).all()
    assert difference[4:].sum() + difference[:, 4:].sum() == 0


def test_hidden_padding_equals_attention_over_the_real_tokens():
    torch.manual_seed(0)
    layer, x = WindowAttention(8, 2, window_size=4, mask_pad=True), torch.randn(1, 3, 4, 8)
    q, k, v = layer.qkv(x.flatten(1, 2)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    y = torch.softmax(q @ k.mT / 2, -1) @ v
    torch.testing.assert_close(layer(x), layer.proj(y.transpose(1, 2).flatten(2)).unflatten(1, (3, 4)))
    seen = WindowAttention(8, 2, window_size=4)
    seen.load_state_dict(layer.state_dict())
    assert not torch.allclose(seen(x), layer(x)), "the published networks see the padding"


@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock])
def test_blocks_take_any_size_and_layout(kind):
    torch.manual_seed(0)
    block = kind(16, 2, ffn=False, cpe_act=True)
    assert not hasattr(block, "mlp")
    for size in ((1, 1), (5, 9)):
        x = torch.randn(2, *size, 16)
        y = block(x)
        assert y.shape == x.shape
        torch.testing.assert_close(block(x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)), y)


@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock])
def test_stochastic_depth_leaves_branches_out_in_training_only(kind):
    torch.manual_seed(0)
    block, x = kind(16, 2, drop_path=0.5), torch.randn(64, 2, 2, 16)
    bare = block.cpe[1](block.cpe[0](x))
    skipped = (block.train()(x) - bare).abs().amax((1, 2, 3)) < 1e-6
    assert 4 < skipped.sum() < 32, "a quarter of the samples skips both branches"
    assert not ((block.eval()(x) - bare).abs().amax((1, 2, 3)) < 1e-6).any()


@pytest.mark.parametrize("scaling", ["channels", "tokens"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_over_a_large_map(scaling, dtype):
    q, k, v = (20 * torch.randn(1, 1, 256 * 256, 16).to(dtype) for _ in range(3))
    assert channel_attention(q, k, v, scaling=scaling).isfinite().all()
    layer = ChannelAttention(16, 1, scaling=scaling)
    with torch.autocast("cpu", dtype=dtype):
        assert layer(20 * torch.randn(1, 64, 64, 16)).isfinite().all()


def test_the_channel_map_is_captured():
    torch.manual_seed(0)
    layer, x = ChannelAttention(16, 2), torch.randn(1, 3, 3, 16)
    with torch.no_grad(), capture(layer) as maps:
        layer(x)
    assert next(iter(maps.values())).shape == (1, 2, 8, 8)


def test_unfitting_sizes_are_refused():
    for make in (
        lambda: WindowAttention(8, 3),
        lambda: WindowAttention(8, 2, window_size=0),
        lambda: ChannelAttention(8, 0),
    ):
        with pytest.raises(ValueError, match="num_heads"):
            make()
    with pytest.raises(ValueError, match="scaling"):
        ChannelBlock(8, 2, scaling="other")
    with pytest.raises(ValueError, match="num_heads"):
        ChannelBlock(0, 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock, WindowAttention, ChannelAttention])
def test_unfitting_maps_are_refused(kind):
    for shape in ((1, 2, 2, 9), (1, 0, 2, 8), (1, 2, 0, 8), (2, 2, 8), (1, 1, 2, 2, 8)):
        with pytest.raises(
            ValueError, match=re.escape(f"(batch, height, width, 8) of at least one pixel, got shape {shape}")
        ):
            kind(8, 2)(torch.zeros(shape))


@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock])
@pytest.mark.parametrize("side", [5, 24])
def test_not_a_number_stays_in_its_sample(kind, side):
    torch.manual_seed(0)
    block, x = kind(8, 2), torch.randn(2, side, side, 8)
    want, spoilt = block(x), x.clone()
    spoilt[0, 0, 0, 0] = torch.nan
    y = block(spoilt)
    assert y[0].isnan().any()
    torch.testing.assert_close(y[1], want[1])


@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock])
def test_one_channel_and_autocast(kind):
    torch.manual_seed(0)
    assert kind(1, 1)(torch.randn(2, 3, 4, 1)).shape == (2, 3, 4, 1)
    block, x = kind(16, 2), torch.randn(2, 24, 24, 16)
    want = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(block(x), want, rtol=5e-2, atol=5e-2, check_dtype=False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock])
@pytest.mark.parametrize("side", [5, 24])
def test_compiles_in_one_graph(kind, side):
    torch.manual_seed(0)
    block, x = kind(8, 2), torch.randn(2, side, side, 8, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    given = [x, *block.parameters()]
    for a, b in zip(*(torch.autograd.grad(f(x).square().sum(), given) for f in (block, compiled)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_an_identical_map_of_channels_passes_the_queries_through(monkeypatch):
    q, k, v = qkv()
    monkeypatch.setattr(davit, "channel_map", lambda left, right, scale: torch.eye(8, dtype=q.dtype).expand(2, 3, 8, 8))
    torch.testing.assert_close(channel_attention(q, k, v), q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [SpatialBlock, ChannelBlock])
def test_half_precision_is_finite_over_a_megapixel(kind, dtype):
    """1024×1024 pixels, whose stride-4 map has 256×256 tokens."""
    torch.manual_seed(0)
    block = kind(8, 1, mlp_ratio=1.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        assert block(torch.randn(1, 256, 256, 8)).isfinite().all()


def test_weights_of_timm_give_the_same_outputs():
    published = pytest.importorskip("timm.models.davit")
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 13)
    for kind, options in (
        ("SpatialBlock", {"window_size": 7}),
        ("SpatialBlock", {"cpe_act": True, "qkv_bias": False}),
        ("ChannelBlock", {}),
        ("ChannelBlock", {"v2": True}),
        ("ChannelBlock", {"ffn": False, "v2": False}),
    ):
        config = {"dim": 16, "num_heads": 2, "qkv_bias": True, "mlp_ratio": 2.0} | options
        theirs = getattr(published, kind)(**config).eval()
        component = system.components[kind]
        ours = component.load(config, theirs.state_dict())
        got = component.run(ours, {"x": x}, config=config, mode="eval")["y"]
        torch.testing.assert_close(got, theirs(x), rtol=1e-4, atol=1e-5)
