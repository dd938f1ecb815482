import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.deconstructing.attention import (
    KINDS,
    DeconstructedAttention,
    approximate_attention,
    approximate_map,
    attention_indicators,
    nonapproximate_attention,
    nonapproximate_map,
)


def qkv(n=29, d=6, positive=False):
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 3, n, d, dtype=torch.float64) for _ in range(3))
    return (q.abs() + 0.1, k.abs() + 0.1, v) if positive else (q, k, v)


@pytest.mark.parametrize("chunk", [1, 4, 29, 64])
def test_chunked_forms_are_the_explicit_maps(chunk):
    q, k, v = qkv()
    exact = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(approximate_attention(q, k, v, chunk_size=chunk)[0], approximate_map(q, k) @ v, **exact)
    torch.testing.assert_close(
        nonapproximate_attention(q, k, v, chunk_size=chunk)[0], nonapproximate_map(q, k) @ v, **exact
    )
    q, k, v = qkv(positive=True)
    parts = [v.cumsum(-2) / torch.arange(1, 30)[:, None]]
    for a, b in ((q, k), (q * q, k * k)):
        w = (a @ b.mT).tril()
        parts.append(w / w.sum(-1, keepdim=True) @ v)
    torch.testing.assert_close(
        approximate_attention(q, k, v, form="paper_recurrent", chunk_size=chunk)[0], sum(parts), **exact
    )


def test_gradients_are_those_of_the_explicit_maps():
    for fast, slow in (
        (lambda q, k, v: approximate_attention(q, k, v, chunk_size=5)[0], lambda q, k, v: approximate_map(q, k) @ v),
        (
            lambda q, k, v: nonapproximate_attention(q, k, v, chunk_size=5)[0],
            lambda q, k, v: nonapproximate_map(q, k) @ v,
        ),
    ):
        leaves = [t.requires_grad_() for t in qkv(n=13)]
        probe = torch.randn(2, 3, 13, 6, dtype=torch.float64)
        ours = torch.autograd.grad((fast(*leaves) * probe).sum(), leaves)
        theirs = torch.autograd.grad((slow(*leaves) * probe).sum(), leaves)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_constant_scores_give_the_running_mean_whatever_their_size():
    _, _, v = qkv()
    q = torch.zeros_like(v)
    torch.testing.assert_close(nonapproximate_attention(q, q, v)[0], v.cumsum(-2) / torch.arange(1, 30)[:, None])


def test_huge_scores_neither_overflow_nor_vanish():
    q, k, v = (t.float() for t in qkv())
    for scale in (1e3, -1e3):
        torch.testing.assert_close(
            nonapproximate_attention(q * scale, k, v, chunk_size=8)[0],
            nonapproximate_map(q * scale, k) @ v,
            rtol=1e-4,
            atol=1e-4,
        )


def test_vanishing_denominators_warn():
    q, k, v = qkv(n=2)
    k = torch.cat([k[:, :, :1], -k[:, :, :1]], -2)
    with pytest.warns(UserWarning, match="joint_outer"):
        y, _ = approximate_attention(q, k, v, form="paper_recurrent")
    assert y.isfinite().all()


def layer_and_inputs(kind, n=10, **options):
    torch.manual_seed(0)
    layer = DeconstructedAttention(12, num_heads=3, kind=kind, **options).double()
    x = torch.randn(2, n, 12, dtype=torch.float64)
    source = {"static": torch.randn_like(x), "rnd": torch.randn(1, 16, 12, dtype=torch.float64)}
    source["fixedseq"] = source["rnd"]
    return layer, x, source.get(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_same_parameters_causal_and_incremental(kind):
    layer, x, source = layer_and_inputs(kind)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 12 * 12 + 3 * 12
    whole = layer(x, source=source)
    changed = x.clone()
    changed[:, 6] += 1
    after = layer(changed, source=source)
    torch.testing.assert_close(after[:, :6], whole[:, :6], rtol=0, atol=0)
    assert not torch.allclose(after[:, 6], whole[:, 6])
    if kind == "mlp":
        torch.testing.assert_close(after[:, 7:], whole[:, 7:], rtol=0, atol=0)
    cache = layer.new_cache()
    parts = [
        layer(x[:, part], source=source[:, part] if kind == "static" else source, cache=cache)
        for part in (slice(0, 4), slice(4, 5), slice(5, 10))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_incremental_decode_of_the_separately_normalised_form():
    layer, x, _ = layer_and_inputs("approx", approx_form="paper_recurrent")
    cache = layer.new_cache()
    torch.testing.assert_close(torch.cat([layer(x[:, i : i + 1], cache=cache) for i in range(10)], 1), layer(x))


def test_fixed_maps_are_the_same_for_all_inputs():
    layer, x, source = layer_and_inputs("rnd")
    values = layer.v_proj(x).unflatten(-1, (3, 4)).transpose(1, 2)
    y = (layer.fixed_map(source, 10) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, source=source), layer.o_proj(y))


def test_a_fixed_stream_that_is_too_short_is_refused():
    layer, x, source = layer_and_inputs("fixedseq")
    with pytest.raises(ValueError, match="at least 10 tokens"):
        layer(x, source=source[:, :9])
    with pytest.raises(ValueError, match="needs source"):
        layer(x)
    with pytest.raises(ValueError, match="takes no source"):
        DeconstructedAttention(12, num_heads=3)(x.float(), source=x.float())


def test_indicators_of_known_maps():
    n = 6
    uniform = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    got = attention_indicators(torch.stack([torch.eye(n), uniform]))
    torch.testing.assert_close(got["entropy"], torch.tensor([0.0, torch.arange(1, n + 1).log().sum()]))
    torch.testing.assert_close(got["concentration"][0], torch.tensor(6.0).sqrt())
    assert got["local_focus"][0, 0] == 1
    assert got["local_focus"][1, 0] == 0
    torch.testing.assert_close(got["sink"][0], torch.tensor(1 / 6))


@pytest.mark.parametrize("options", [{"num_heads": 5}, {"num_heads": 0}, {"num_heads": 3, "kind": "other"}])
def test_unfitting_options_are_refused(options):
    with pytest.raises(ValueError, match=r"heads|kind"):
        DeconstructedAttention(12, **options)


def test_empty_sequences_are_refused():
    empty = torch.zeros(1, 1, 0, 4)
    for f in (approximate_attention, nonapproximate_attention):
        with pytest.raises(ValueError, match="no tokens"):
            f(empty, empty, empty)


@pytest.mark.parametrize("kind", ["approx", "nonapprox"])
def test_half_precision_over_a_long_prefix(kind):
    layer, x, _ = layer_and_inputs(kind, n=3000)
    layer, x = layer.half(), 10 * x.half()
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("kind", ["standard", "approx", "nonapprox"])
def test_captured_weights_are_those_that_mix_the_values(kind):
    layer, x, _ = layer_and_inputs(kind)
    with torch.no_grad(), capture(layer, rows=[3, 9]) as maps:
        y = layer(x)
    weights = next(iter(maps.values()))
    values = layer.v_proj(x).unflatten(-1, (3, 4)).transpose(1, 2)
    torch.testing.assert_close(layer.o_proj((weights @ values).transpose(1, 2).flatten(2)), y[:, [3, 9]])


def test_static_maps_depend_on_the_embeddings_alone():
    layer, x, source = layer_and_inputs("static")
    with capture(layer) as maps:
        layer(x, source=source)
        layer(x.flip(0) + 1, source=source)
        layer(x, source=source + torch.randn_like(source))
    first, same, other = maps.all(next(iter(maps)))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_bad_and_odd_inputs(kind):
    layer, x, source = layer_and_inputs(kind)
    for bad in (x[0], x[None], x[..., :5], x[:, :0]):
        with pytest.raises(ValueError, match=r"\(batch, length, 12\).*got shape"):
            layer(bad, source=source)
    want = layer(x, source=source)
    torch.testing.assert_close(layer(x.mT.contiguous().mT, source=source), want)
    spoilt = x.clone()
    spoilt[0, 4] = torch.nan
    y = layer(spoilt, source=source)
    assert y[0, 4].isnan().all()
    torch.testing.assert_close(y[1], want[1])
    narrow = DeconstructedAttention(2, num_heads=1, kind=kind)
    one = torch.randn(1, 1, 2)
    assert narrow(one, source=None if source is None else one).shape == (1, 1, 2)
    layer, x, source = layer.float(), x.float(), None if source is None else source.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x, source=source), want.float(), rtol=5e-2, atol=5e-2, check_dtype=False)


def test_compiles_in_one_graph(unhooked):
    """Without the tests' own checks of signatures, which Dynamo cannot trace."""
    code = """
import torch
from core_attention.mechanisms.deconstructing.attention import KINDS, DeconstructedAttention
for kind in KINDS:
    torch._dynamo.reset()
    layer, x = DeconstructedAttention(12, num_heads=3, kind=kind).double(), torch.randn(2, 10, 12).double()
    source = {"static": x + 1, "rnd": x[:1], "fixedseq": x[:1]}.get(kind)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, source=source), layer(x, source=source))
"""
    unhooked(code)
