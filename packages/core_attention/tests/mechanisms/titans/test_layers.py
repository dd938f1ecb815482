"""The layers of Titans and their memory: causality, streaming, limits, and bad input."""

import copy
import re

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import scaled_dot_product_attention

from core_attention.capture.capture import capture
from core_attention.mechanisms.titans.attention import segment_attention, sliding_attention
from core_attention.mechanisms.titans.layers import MemoryAsContext, TitansCache, titans_layer
from core_attention.mechanisms.titans.memory import MemoryCache, NeuralMemory

DIM, WINDOW = 6, 4

LAYERS = {
    "mac token": {"variant": "mac"},
    "mac previous": {"variant": "mac", "read": "previous"},
    "mac segment end": {"variant": "mac", "read": "segment_end"},
    "mag": {"variant": "mag"},
    "mal": {"variant": "mal"},
    "lmm": {"variant": "lmm"},
    "mag, convolved heads": {
        "variant": "mag",
        "num_heads": 2,
        "memory_heads": 3,
        "conv_kernel": 3,
        "gated_output": True,
    },
    "mac, convolved": {"variant": "mac", "conv_kernel": 3},
    "mac previous, convolved": {"variant": "mac", "read": "previous", "conv_kernel": 3, "gates": "chunk"},
    "lmm, gates a chunk": {"variant": "lmm", "gates": "chunk", "depth": 1},
}
CAUSAL = [name for name in LAYERS if name != "mac segment end"]


def layer(name, dtype=torch.float64, **more):
    torch.manual_seed(0)
    options = {"theta_max": 0.5, "expansion": 2, "num_persistent": 3} | LAYERS[name] | more
    if options["variant"] == "lmm":
        options.pop("num_persistent")
    made = titans_layer(dim=DIM, window=WINDOW, **options).to(dtype)
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if "alpha" in key or "eta" in key or "theta" in key:
                parameter.normal_()  # gates that differ from token to token
    return made


def sequence(time=11, batch=2, dtype=torch.float64):
    return torch.randn(batch, time, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_the_future_is_unseen(name):
    m, x = layer(name), sequence()
    changed = x.clone()
    changed[:, 6] += 1
    difference = (m(changed) - m(x)).abs().amax((0, 2))
    if name == "mac segment end":  # a token sees the later ones of its own segment
        assert difference[:4].max() == 0
        assert difference[4:].min() > 0
    else:
        assert difference[:6].max() == 0
        assert difference[6] > 0


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("cuts", [[4, 4, 3], [1] * 11, [2, 5, 4]])
def test_calls_that_continue_a_cache_are_one_call(name, cuts):
    m, x = layer(name), sequence()
    whole = m.new_cache()
    want, cache, ys = m(x, cache=whole), m.new_cache(), []
    for part in x.split(cuts, 1):
        ys.append(m(part, cache=cache))
        saved = m.new_cache()
        saved.load_state_dict(load(save(cache.state_dict())))
        saved_too, cache = cache, saved
        assert type(saved_too) is type(cache)
    torch.testing.assert_close(torch.cat(ys, 1), want)
    memory = lambda c: c if isinstance(c, MemoryCache) else c.memory  # noqa: E731
    for a, b in zip(memory(cache).memory, memory(whole).memory, strict=True):
        torch.testing.assert_close(a, b)
    cache.reset()
    torch.testing.assert_close(m(x, cache=cache), want)


@pytest.mark.parametrize("name", CAUSAL)
def test_decoded_tokens_are_one_call(name):
    """Without gradients a token waits as rows, and what it passes side by side is one product; beams go on as copies."""
    m, x = layer(name), sequence()
    with torch.no_grad():
        want, cache = m(x), m.new_cache()
        ys = [m(x[:, :3], cache=cache)]
        for t in range(3, 7):
            ys.append(m(x[:, t : t + 1], cache=cache))
        turned = copy.deepcopy(cache)
        turned.reorder(torch.tensor([1, 0]))
        for t in range(7, 11):
            ys.append(m(x[:, t : t + 1], cache=cache))
            torch.testing.assert_close(m(x[:, t : t + 1].flip(0), cache=turned).flip(0), ys[-1])
    torch.testing.assert_close(torch.cat(ys, 1), want)


@pytest.mark.parametrize("name", ["memory.to_v", "attention.to_v"])
@pytest.mark.parametrize("way", ["replaced", "hooked"])
def test_a_layer_that_is_changed_while_tokens_are_decoded_counts_from_then_on(name, way):
    m, x = layer("mag", num_persistent=0), sequence()  # what P gives is computed once a sequence
    path, _, leaf = name.rpartition(".")
    with torch.no_grad():
        cache = m.new_cache()
        for t in range(6):  # in the middle of a chunk
            m(x[:, t : t + 1], cache=cache)
        expected = copy.deepcopy(cache)
        plain = m.get_submodule(name)
        if way == "hooked":
            plain.register_forward_hook(lambda module, given, result: result * 2)
        else:
            doubled = copy.deepcopy(plain)
            doubled.weight.mul_(2)
            setattr(m.get_submodule(path), leaf, doubled)
        y = m(x[:, 6:7], cache=cache)
    # with gradients every layer is called by itself
    torch.testing.assert_close(y, m(x[:, 6:7], cache=expected).detach())


def test_whole_segments_continue_a_layer_that_is_not_causal():
    m, x = layer("mac segment end"), sequence()
    cache = m.new_cache()
    parts = [m(part, cache=cache) for part in x.split([8, 3], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), m(x))
    with pytest.raises(ValueError, match="whole segments of 4 tokens; the last call ended after 3"):
        m(x, cache=cache)


def test_backpropagation_through_chained_calls():
    m, x = layer("mag"), sequence()
    want = torch.autograd.grad(m(x).square().sum(), list(m.parameters()))
    cache = m.new_cache()
    y = torch.cat([m(part, cache=cache) for part in x.split(3, 1)], 1)
    got = torch.autograd.grad(y.square().sum(), list(m.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    cache.detach()
    assert not cache.memory.memory[0].requires_grad


@pytest.mark.parametrize("name", LAYERS)
def test_every_parameter_learns_and_samples_do_not_mix(name):
    m, x = layer(name), sequence()
    x.requires_grad_()
    y = m(x)
    grad = torch.autograd.grad(y[0].square().sum(), x, retain_graph=True)[0]
    assert grad[1].eq(0).all()
    assert all(g is not None and g.abs().max() > 0 for g in torch.autograd.grad(y.square().sum(), list(m.parameters())))


@pytest.mark.parametrize("name", ["mac token", "mag", "mal", "lmm", "mac segment end"])
def test_padding_at_the_end_stays_out_of_the_memory(name):
    m, x = layer(name), sequence()
    mask = torch.arange(11) < torch.tensor([[7], [11]])
    cache, alone = m.new_cache(), m.new_cache()
    y, want = m(x, mask=mask, cache=cache), m(x[:1, :7], cache=alone)
    if name != "mac segment end":
        torch.testing.assert_close(y[:1, :7], want)
    memory = lambda c: c if isinstance(c, MemoryCache) else c.memory  # noqa: E731
    if name != "mac segment end":  # there attention sees the padding of a segment
        for a, b in zip(memory(cache).memory, memory(alone).memory, strict=True):
            torch.testing.assert_close(a[:1], b)
    if name != "lmm":
        with pytest.raises(ValueError, match="at the end"):
            m(x, mask=~mask)


def test_a_window_as_long_as_the_sequence_is_causal_attention():
    q, k, v = torch.randn(3, 2, 2, 9, 4).double().unbind()
    causal = scaled_dot_product_attention(q, k, v, is_causal=True)
    for window in (9, 20):
        torch.testing.assert_close(sliding_attention(q, k, v, window=window), causal)
        torch.testing.assert_close(segment_attention(q, k, v, segment=window), causal)


@pytest.mark.parametrize("time", [1, 5, 12, 14])
@pytest.mark.parametrize("past", [0, 2, 7])
def test_windows_in_blocks_are_masked_attention(time, past):
    q = torch.randn(2, 2, time, 4).double()
    k, v, *prefix = (torch.randn(2, 2, n, 4).double() for n in (time + past, time + past, 3, 3))
    back = torch.arange(time)[:, None] + past - torch.arange(time + past)
    mask = torch.nn.functional.pad((back >= 0) & (back < WINDOW), (3, 0), value=True)
    everything = [torch.cat(pair, 2) for pair in zip(prefix, (k, v), strict=True)]
    want = scaled_dot_product_attention(q, *everything, attn_mask=mask)
    torch.testing.assert_close(sliding_attention(q, k, v, window=WINDOW, prefix=tuple(prefix)), want)
    with capture(None, rows=[0, time - 1]) as maps:
        sliding_attention(q, k, v, window=WINDOW, prefix=tuple(prefix))
    weights = maps["function"]
    kept = weights[..., 3:].shape[-1] - time  # of the past, what the first query's window reaches
    values = torch.cat([prefix[1], v[:, :, past - kept :]], 2)
    torch.testing.assert_close(weights @ values, want[:, :, [0, time - 1]])


def test_context_can_be_seen_whole_or_up_to_the_token():
    x = sequence()
    full = layer("mac token", context="full")
    assert not full.causal
    changed = x.clone()
    changed[:, 6] += 1
    assert (full(changed) - full(x)).abs()[:, 4:6].max() > 0
    assert layer("mac token").causal


def test_capture_sees_the_attention_of_a_layer():
    m, x = layer("mag"), sequence()
    with capture(m) as maps:
        m(x)
    weights = maps["MemoryAsGate"]
    assert weights.shape == (2, 1, 11, 3 + 11)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 11).double())


def test_reading_does_not_write():
    m, x = layer("lmm"), sequence()
    cache = m.new_cache()
    torch.testing.assert_close(m.read(x), m.read(x, cache=cache))
    m.write(x[:, :6], cache=cache)
    state = {k: v.clone() for k, v in cache.state_dict().items()}
    now, start = m.read(x, cache=cache), m.read(x, cache=cache, at="chunk start")
    assert (now - start).abs().max() > 1e-4
    assert all(torch.equal(v, state[k]) for k, v in cache.state_dict().items() if k in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mac token", "mag", "mal", "lmm"])
def test_half_precision_and_autocast(name, dtype):
    m, x = layer(name, torch.float32), sequence(dtype=torch.float32)
    want, cache = m(x), m.new_cache()
    with torch.autocast("cpu", dtype):
        got = m(x, cache=cache)
    torch.testing.assert_close(got.float(), want, rtol=5e-2, atol=8e-2)
    memory = cache if isinstance(cache, MemoryCache) else cache.memory
    assert memory.memory[0].dtype == torch.float32
    got.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())
    half = m.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), want, rtol=8e-2, atol=1.5e-1)


def test_a_memory_that_is_not_finite_is_reported():
    x = sequence()
    m = layer("lmm", max_grad_norm=None, theta_max=1e30)
    with pytest.raises(FloatingPointError, match="samples \\[0, 1\\] is not finite any more: set max_grad_norm"):
        m(x * 1e30)
    spoiled = x.clone()
    spoiled[1, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="x has values that are not finite in samples \\[1\\]"):
        layer("mag")(spoiled)
    quiet = layer("mag", check_finite=False)
    torch.testing.assert_close(quiet(spoiled)[0], quiet(x)[0])


def test_strides_do_not_matter():
    x = sequence()
    for name in LAYERS:
        m = layer(name)
        torch.testing.assert_close(m(x.transpose(0, 1).contiguous().transpose(0, 1)), m(x))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["mac token", "mag", "mal", "lmm"])
def test_errors_quote_shapes(name):
    m, x = layer(name), sequence()
    for wrong in (x[0], x[:, :0], x[..., 1:]):
        with pytest.raises(ValueError, match=re.escape(f"got {tuple(wrong.shape)}")):
            m(wrong)
    with pytest.raises(ValueError, match=r"\(2, 11\); got \(2, 3\)"):
        m(x, mask=torch.ones(2, 3, dtype=torch.bool))
    cache = m.new_cache()
    m(x, cache=cache)
    with pytest.raises(ValueError, match=r"of 2 samples; got x of shape \(1, 4, 6\)"):
        m(x[:1, :4], cache=cache)


@pytest.mark.usefixtures("unchecked")
def test_options_that_do_not_exist():
    with pytest.raises(ValueError, match="num_heads divides dim"):
        NeuralMemory(6, num_heads=4)
    with pytest.raises(ValueError, match="at least 1"):
        NeuralMemory(6, depth=0)
    with pytest.raises(ValueError, match="token"):
        NeuralMemory(6, gates="layer")
    with pytest.raises(ValueError, match="chunk_size 3 and window 4"):
        MemoryAsContext(6, memory=NeuralMemory(6, chunk_size=3), window=4)
    with pytest.raises(ValueError, match="widths 6 and 8"):
        MemoryAsContext(8, memory=NeuralMemory(6, chunk_size=4), window=4)
    with pytest.raises(ValueError, match="'end'"):
        layer("mac token", read="end")
    with pytest.raises(ValueError, match="mac, mag, mal or lmm"):
        titans_layer("mab", 6)
    with pytest.raises(TypeError):
        titans_layer("mag", 6, widht=3)
    assert TitansCache().state_dict().keys() == {"memory.position", "memory.pending.count"}


@pytest.mark.parametrize(
    "variant", ["mag", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mac", "mal", "lmm"))]
)
def test_compiles(variant, unhooked):
    code = f"""
import torch
from core_attention.mechanisms.titans.layers import titans_layer
m, x = titans_layer({variant!r}, 6, window=4, expansion=2), torch.randn(2, 7, 6)
torch.testing.assert_close(torch.compile(m, backend="aot_eager", fullgraph=True)(x), m(x))
"""
    unhooked(code)
