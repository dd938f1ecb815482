"""Bi-level routing attention: the acceptance checks of the mechanism, and its edges."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.measuring.clock import peak_memory
from core_attention.mechanisms.biformer.attention import (
    BiLevelRoutingAttention,
    bi_level_routing_attention,
    bi_level_routing_attention_reference,
)
from core_attention.mechanisms.biformer.block import AttentionLePE, BiFormerBlock
from core_attention.mechanisms.biformer.regions import from_regions, route_regions, to_regions
from core_attention.systems import system


def attention_of(dim=16, *, seed=0, **options):
    torch.manual_seed(seed)
    return BiLevelRoutingAttention(dim, **({"num_heads": 2, "n_win": 4, "topk": 3} | options)).double()


def image(height=8, width=12, dim=16, batch=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, height, width, dim, generator=g, dtype=torch.float64)


def full(module, x):
    """Softmax attention over the whole map with the module's own weights, LePE and scale."""
    q, k, v = module.qkv(x).split([module.qk_dim, module.qk_dim, module.dim], -1)
    heads = [t.flatten(1, 2).unflatten(2, (module.num_heads, -1)).transpose(1, 2) for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*heads, scale=module.scale).transpose(1, 2).reshape(x.shape)
    return module.wo(out + module.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


@pytest.mark.parametrize("pad_mode", ["masked", "legacy", "nchw", "refuse"])
def test_all_regions_is_full_attention(pad_mode):
    module, x = attention_of(topk=16, pad_mode=pad_mode), image()
    torch.testing.assert_close(module(x), full(module, x))
    one = attention_of(n_win=1, topk=1, pad_mode=pad_mode)
    torch.testing.assert_close(one(x), full(one, x))


def test_more_regions_than_there_are_is_all():
    x = image()
    torch.testing.assert_close(attention_of(topk=16)(x), attention_of(topk=99)(x))


def test_masked_padding_is_full_attention_of_the_map_alone():
    """Every region chosen on sizes that divide by nothing: no padded token receives weight."""
    for height, width in ((7, 11), (5, 3), (1, 1), (3, 13)):
        module, x = attention_of(topk=99), image(height, width)
        torch.testing.assert_close(module(x), full(module, x))


def test_masked_equals_the_others_where_nothing_is_padded():
    x = image()
    y = attention_of(pad_mode="masked")(x)
    for pad_mode in ("legacy", "nchw", "refuse"):
        torch.testing.assert_close(attention_of(pad_mode=pad_mode)(x), y)


def test_weights_of_both_published_forms_give_the_same():
    """Linear layers of the first, 1 × 1 convolutions of the second."""
    module, components = attention_of(), system("biformer").components
    config = {"dim": 16, "num_heads": 2, "n_win": 4, "topk": 3, "side_dwconv": 3}
    state = dict(module.state_dict())
    legacy = {key.replace("qkv.", "qkv.qkv."): value for key, value in state.items()}
    nchw = {key.replace("qkv.", "qkv_linear.").replace("wo.", "output_linear."): v for key, v in state.items()}
    nchw = {key: v[..., None, None] if v.ndim == 2 else v for key, v in nchw.items()}
    for name, official in (("BiLevelRoutingAttention", legacy), ("nchwBRA", nchw)):
        torch.testing.assert_close(components[name].load(config, official).double()(image()), module(image()))


def test_masked_padding_does_not_move_the_region_means():
    module, x = attention_of(n_win=2, topk=1), image(5, 5)
    _, routing = module(x, return_routing=True)
    q, k, _ = module.qkv(x).split(16, -1)
    mean = [torch.stack([t[:, a, b].mean((1, 2)) for a in (slice(3), slice(3, 5)) for b in (slice(3), slice(3, 5))], 1)
            for t in (q, k)]  # fmt: skip
    expected = route_regions(*mean, topk=1, scale=0.25)
    assert torch.equal(routing.index, expected.index)
    torch.testing.assert_close(routing.affinity, expected.affinity)


def test_one_region_each_to_itself_is_window_attention():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, 5, 8, generator=g) for _ in range(3))
    own = torch.arange(6).expand(2, 6)[..., None]
    out = bi_level_routing_attention(q, k, v, own, num_heads=2, scale=0.4)
    heads = [t.unflatten(3, (2, 4)).transpose(2, 3) for t in (q, k, v)]
    torch.testing.assert_close(out, F.scaled_dot_product_attention(*heads, scale=0.4).transpose(2, 3).flatten(3))


def test_routing_is_distinct_descending_and_breaks_ties_downwards():
    _, routing = attention_of(topk=5)(image(), return_routing=True)
    assert routing.index.shape == (2, 16, 5)
    assert all(len(set(row)) == 5 for row in routing.index.flatten(0, 1).tolist())
    assert routing.index.min() >= 0
    assert routing.index.max() < 16
    assert (routing.affinity.diff(dim=-1) <= 0).all()
    assert not routing.affinity.requires_grad
    tied = route_regions(torch.ones(1, 6, 2), torch.ones(1, 6, 2), topk=3, scale=1.0)
    assert (tied.index == torch.arange(3)).all()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_equals_the_gather_form(soft, pooled):
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 9, n, 8, generator=g, dtype=torch.float64).requires_grad_()
        for n in (6, 6 - 2 * pooled, 6 - 2 * pooled)
    )
    index = torch.stack([torch.randperm(9, generator=g)[:4] for _ in range(18)]).view(2, 9, 4)
    weight = torch.rand(2, 9, 4, generator=g, dtype=torch.float64).requires_grad_() if soft else None
    real = torch.rand(2, 9, k.shape[2], generator=g) > 0.3
    leaves = [q, k, v, *([weight] if soft else [])]
    options = {"num_heads": 2, "scale": 0.3, "weight": weight, "real": real}
    ours, theirs = (
        f(q, k, v, index, **options) for f in (bi_level_routing_attention, bi_level_routing_attention_reference)
    )
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_gradient_is_that_of_the_gathered_attention_alone():
    module, x = attention_of(), image().requires_grad_()
    y, routing = module(x, return_routing=True)
    q, k, v = (to_regions(t, (2, 3)) for t in module.qkv(x).split(16, -1))
    z = bi_level_routing_attention_reference(q, k, v, routing.index, num_heads=2, scale=module.scale)
    lepe = module.lepe(from_regions(v, (4, 4), (2, 3)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    z = module.wo(from_regions(z, (4, 4), (2, 3)) + lepe)
    for a, b in zip(*(torch.autograd.grad(out.cos().sum(), x) for out in (y, z)), strict=True):
        torch.testing.assert_close(a, b)


def test_soft_routing_learns_through_its_router():
    module = attention_of(param_routing=True, diff_routing=True, soft_routing=True)
    module(image()).sin().sum().backward()
    assert module.router.weight.grad.abs().max() > 0


def test_moving_the_image_by_a_region_moves_the_routing():
    module, x = attention_of(side_dwconv=0), image()
    y, routing = module(x, return_routing=True)
    z, moved = module(x.roll((2, 3), (1, 2)), return_routing=True)
    torch.testing.assert_close(z, y.roll((2, 3), (1, 2)))
    place = torch.arange(16).view(4, 4).roll((1, 1), (0, 1)).flatten()  # where each old region went, read from the new
    renamed = torch.empty(16, dtype=torch.long).scatter(0, place, torch.arange(16))
    assert torch.equal(moved.index, renamed[routing.index[:, place]])


def test_capture_gives_weights_and_routed_regions():
    module, x = attention_of(side_dwconv=0).float(), image(7, 11).float()
    with capture(module) as maps:
        y, routing = module(x, return_routing=True)
    weights = maps.all("BiLevelRoutingAttention", "weights")[0]
    assert weights.shape == (2, 2, 77, 77)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 77))
    v = module.qkv(x)[..., 32:].flatten(1, 2).unflatten(2, (2, 8)).transpose(1, 2)
    torch.testing.assert_close(
        module.wo((weights @ v).transpose(1, 2).flatten(2)).view(y.shape), y, rtol=1e-4, atol=1e-5
    )
    with capture(module, rows=[40], kinds="blocks") as maps:
        module(x)
    (blocks,) = maps.all("BiLevelRoutingAttention", "blocks")
    region = 40 // 11 // 2 * 4 + 40 % 11 // 3
    assert blocks.shape == (2, 1, 1, 16)
    assert blocks[0, 0, 0].nonzero().flatten().tolist() == sorted(routing.index[0, region].tolist())


@pytest.mark.parametrize("mode", ["ada_avgpool", "ada_maxpool", "avgpool", "maxpool"])
def test_pooled_keys(mode):
    module = attention_of(kv_downsample_mode=mode, kv_per_win=2, kv_downsample_ratio=2, topk=16, side_dwconv=0)
    x = image(8, 16)
    q, k, v = (t.flatten(1, 2).unflatten(2, (2, 8)).transpose(1, 2) for t in module.qkv(x).split(16, -1))
    pool = {"avgpool": F.avg_pool2d, "maxpool": F.max_pool2d}.get(mode)
    if pool is None:
        pool = F.adaptive_avg_pool2d if "avg" in mode else F.adaptive_max_pool2d
    size = (2, 2) if mode.startswith("ada") else 2
    regions = [
        to_regions(t, (2, 4)).flatten(0, 1).unflatten(1, (2, 4)).permute(0, 3, 1, 2)
        for t in module.qkv(x).split(16, -1)[1:]
    ]
    k, v = (pool(t, size).flatten(2).mT.reshape(2, -1, 2, 8).transpose(1, 2) for t in regions)
    out = F.scaled_dot_product_attention(q, k, v, scale=module.scale).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(module(x), module.wo(out))
    with capture(module) as maps:
        module(x)
    assert maps["BiLevelRoutingAttention"].shape == (2, 2, 128, k.shape[2])


def test_what_is_not_a_number_stays_where_it_is_seen():
    """A spoiled region is chosen by none that has a choice."""
    module, x = attention_of(side_dwconv=0, topk=3), image()
    x[0, 0, 0] = torch.nan
    y, routing = module(x, return_routing=True)
    assert y[0, :2, :3].isnan().any()
    assert torch.equal(y[1], module(x[1:])[0])
    assert not (routing.index[0, 1:] == 0).any()
    assert y[0, 2:].isfinite().all()


def test_half_precision_and_autocast():
    module, x = attention_of().float(), image().float()
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    half = attention_of().half()
    torch.testing.assert_close(half(x.half()).float(), expected, rtol=0.01, atol=0.01)


def test_strided_and_expanded_maps():
    module, x = attention_of(), image()
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(module(turned), module(x))
    torch.testing.assert_close(module(x[:1].expand(3, -1, -1, -1))[2], module(x[:1])[0])


def test_options_and_sizes_that_do_not_fit(unchecked):
    for options, words in (
        ({"num_heads": 3}, "num_heads 3 must divide dim 16"),
        ({"param_routing": True}, "without diff_routing"),
        ({"diff_routing": True}, "without soft_routing"),
        ({"topk": 0}, "positive"),
        ({"pad_mode": "zeros"}, "unknown pad_mode"),
        ({"kv_downsample_mode": "conv"}, "unknown kv_downsample_mode"),
    ):
        with pytest.raises(ValueError, match=words):
            attention_of(**options)
    with pytest.raises(ValueError, match=r"multiples of n_win = 4"):
        attention_of(pad_mode="refuse")(image(7, 8))
    with pytest.raises(ValueError, match=r"expected \(batch, height, width, 16\).*\(2, 8, 12, 15\)"):
        attention_of()(image(dim=15))
    with pytest.raises(ValueError, match="at least one token"):
        attention_of()(image(0, 8))
    with pytest.raises(ValueError, match="pooled keys cannot leave out"):
        attention_of(kv_downsample_mode="ada_avgpool")(image(7, 8))
    with pytest.raises(TypeError):
        attention_of(windows=7)


@pytest.mark.parametrize("topk", [2, -1, -2, 0])
@pytest.mark.parametrize(
    "options", [{}, {"mlp_dwconv": True, "layer_scale": 0.1}, {"pre_norm": False, "before_attn_dwconv": 0}], ids=str
)
def test_block_runs_on_maps_of_any_size(topk, options):
    torch.manual_seed(0)
    extra = {"num_heads": 2, "n_win": 3} if topk > 0 else {}
    block = BiFormerBlock(16, topk=topk, drop_path=0.5, **options, **extra)
    x = torch.randn(16, 16, 7, 5)
    assert block(x).shape == x.shape
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_block_options_that_do_not_fit(unchecked):
    with pytest.raises(ValueError, match="topk is positive"):
        BiFormerBlock(16, topk=-3)
    with pytest.raises(ValueError, match="must divide"):
        AttentionLePE(12)
    with pytest.raises(ValueError, match="lepe_of"):
        AttentionLePE(16, lepe_of="v")


def test_lepe_of_the_value():
    torch.manual_seed(0)
    module, x = AttentionLePE(16, lepe_of="value"), torch.randn(1, 3, 4, 16)
    v = module.qkv(x)[..., 32:]
    of_input = AttentionLePE(16)
    of_input.load_state_dict(module.state_dict())
    difference = module(x) - of_input(x)
    lepe = [module.lepe(t.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for t in (v, x)]
    torch.testing.assert_close(difference, F.linear(lepe[0] - lepe[1], module.proj.weight), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_peak_memory_is_at_most_half_of_the_gather_form():
    """1 × 64 × 160 × 160, S = 8, k = 16, in processes of their own."""
    code = """
import sys, torch
from core_attention.mechanisms.biformer import attention as biformer
torch.set_num_threads(1)
module, x = biformer.BiLevelRoutingAttention(64, num_heads=2, n_win=8, topk=16), torch.randn(1, 160, 160, 64)
module(torch.randn(1, 16, 16, 64))
if sys.argv[1] == "gather":
    reference = biformer.bi_level_routing_attention_reference
    biformer.bi_level_routing_attention = lambda *args, backend, **options: reference(*args, **options)
def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
before = status("VmRSS")
with torch.no_grad():
    module(x)
print(status("VmHWM") - before)
"""

    def peak(form):
        done = subprocess.run([sys.executable, "-c", code, form], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak("ours") <= peak("gather") / 2


@pytest.mark.slow
def test_a_map_of_600_by_500_takes_less_than_4_gb():
    """7 × 7 regions, k = 4; the gather form would need 60 GB for its scores."""
    setup = """
from core_attention.mechanisms.biformer.attention import BiLevelRoutingAttention
module = BiLevelRoutingAttention(64, num_heads=2, n_win=7, topk=4, side_dwconv=5).eval()
x = torch.randn(1, 600, 500, 64)
torch.set_grad_enabled(False)
module(x[:, :14, :14])
"""
    peak = peak_memory(setup, "module(x)")
    assert peak < 4e9


@pytest.mark.parametrize("mode", ["avgpool", "maxpool"])
def test_regions_thinner_than_the_pooling_are_refused_in_words(mode):
    layer = BiLevelRoutingAttention(8, num_heads=2, n_win=2, topk=1, kv_downsample_mode=mode, kv_downsample_ratio=4)
    assert layer(torch.randn(1, 8, 10, 8)).shape == (1, 8, 10, 8)  # regions of 4 × 5
    with pytest.raises(ValueError, match="kv_downsample_ratio 4 leaves nothing of regions of 2 × 5 tokens"):
        layer(torch.randn(1, 4, 10, 8))


@pytest.mark.parametrize("mode", ["ada_avgpool", "ada_maxpool"])
def test_thin_regions_are_pooled_adaptively(mode):
    """A region of one row has the same row in every row of its pooled keys, and its output is a mean of its values."""
    options = {"num_heads": 2, "n_win": 4, "topk": 4, "side_dwconv": 0, "output": False}
    layer = BiLevelRoutingAttention(8, kv_downsample_mode=mode, kv_per_win=2, **options)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)  # regions of 1 × 2
    y = layer(x)
    assert y.shape == x.shape
    same = BiLevelRoutingAttention(8, **options)  # each key counts twice in the pooled ones, which changes no softmax
    same.load_state_dict(layer.state_dict())
    torch.testing.assert_close(y, same(x))
    y.square().sum().backward()
    assert x.grad.isfinite().all()
