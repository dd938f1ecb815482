"""Dynamic mask attention: the fast path against the definition, and the properties that the paper states."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.measuring.clock import peak_memory
from core_attention.mechanisms.dma.attention import (
    create_mask,
    dynamic_mask,
    dynamic_mask_attention,
    dynamic_mask_attention_varlen,
    kept_density,
)
from core_attention.mechanisms.dma.tiles import NEVER, attend_alive, key_lifetimes


def problem(
    batch=2, heads=4, kv_heads=2, queries=33, keys=33, dim=6, value_dim=5, bias_heads=2, dtype=torch.float64, tied=True
):
    g = torch.Generator().manual_seed(0)
    shapes = [(heads, queries, dim), (kv_heads, keys, dim), (kv_heads, keys, value_dim), (bias_heads, 1, keys)]
    q, k, v, bias = (torch.randn(batch, *s, generator=g, dtype=dtype) for s in shapes)
    bias = (bias * 3).round() / 3 if tied else bias
    return [x.requires_grad_() for x in (q, k, v, bias)]


def with_gradients(inputs, **options):
    out = dynamic_mask_attention(*inputs, **options)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * probe).sum(), inputs)]


@pytest.mark.parametrize("window", [1, 5, 20, 40])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("selection", ["per_query", "shared"])
@pytest.mark.parametrize(
    ("padded", "queries", "kv_heads", "bias_heads"),
    [(False, 33, 2, 2), (True, 33, 2, 1), (True, 7, 4, 4), (False, 7, 2, 4), (True, 7, 1, 1)],
)
def test_tiles_equal_the_definition(window, causal, selection, padded, queries, kv_heads, bias_heads):
    inputs = problem(queries=queries, kv_heads=kv_heads, bias_heads=bias_heads)
    mask = torch.rand(2, 33, generator=torch.Generator().manual_seed(1)) > 0.3 if padded else None
    if mask is not None:
        mask[0, :5] = False  # left padding: the first rows see nothing
    options = {"window": window, "causal": causal, "selection": selection, "mask": mask}
    expected = with_gradients(inputs, backend="reference", **options)
    for backend in ("auto", "tiles"):
        for ours, theirs in zip(with_gradients(inputs, backend=backend, **options), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("bias_heads", "mask_heads"), [(2, 4), (4, 2), (1, 4), (2, 1), (1, 2)])
def test_bias_and_mask_may_have_heads_of_queries_or_of_keys(bias_heads, mask_heads):
    inputs = problem(bias_heads=bias_heads)
    mask = torch.rand(2, mask_heads, 1, 33, generator=torch.Generator().manual_seed(1)) > 0.3
    group = {1: 4, 2: 2, 4: 1}
    q, k, v, bias = inputs
    whole = [q, k, v, bias.repeat_interleave(group[bias_heads], 1)]
    whole_mask = mask.repeat_interleave(group[mask_heads], 1)
    expected = dynamic_mask_attention(*whole, window=5, mask=whole_mask, backend="reference")
    for backend in ("auto", "tiles", "reference"):
        torch.testing.assert_close(dynamic_mask_attention(*inputs, window=5, mask=mask, backend=backend), expected)


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_other_heads_is_refused_in_words():
    with pytest.raises(ValueError, match=r"1, 2 \(keys'\) or 4 \(queries'\) heads, got \(2, 3, 1, 33\)"):
        dynamic_mask_attention(*problem(), window=5, mask=torch.ones(2, 3, 1, 33, dtype=torch.bool))


def test_many_tiles_and_lse():
    q, k, v, bias = problem(batch=1, heads=2, queries=40, keys=47, kv_heads=2)
    rows = [x.flatten(0, 1) for x in (q, k, v, bias[:, :, 0])]
    expiry = key_lifetimes(rows[3], 6)
    results = [attend_alive(rows[0][:, None], *rows[1:], expiry, window=6, scale=0.4, tile=tile) for tile in (3, 64)]
    probe = torch.randn(40, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out[..., 0] * probe).sum() + (lse * probe).sum(), (q, k, v, bias), retain_graph=True)
        for out, lse in results
    ]
    kept = dynamic_mask(bias, window=6, queries=40)
    score = (q @ k.mT * 0.4 + bias).masked_fill(~kept, -torch.inf)
    lse = score.logsumexp(-1)
    expected = torch.autograd.grad(
        ((score.softmax(-1) @ v)[..., 0] * probe).sum() + (lse * probe).sum(), (q, k, v, bias)
    )
    torch.testing.assert_close(results[0][1][:, 0], lse[0])
    for found in gradients:
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("window", [1, 3, 30, 64, 100])
@pytest.mark.parametrize("keys", [1, 2, 63, 64, 65])
def test_lifetimes_are_when_a_key_leaves(window, keys):
    bias = (torch.randn(3, keys, generator=torch.Generator().manual_seed(keys)) * 2).round()
    expiry = key_lifetimes(bias, window)
    kept = dynamic_mask(bias[:, None, None], window=window)[:, 0]
    i, j = torch.arange(keys)[:, None], torch.arange(keys)
    assert torch.equal(kept, (j <= i) & (i < expiry[:, None]))
    assert (expiry == NEVER).sum(-1).eq(min(window, keys)).all()


def test_a_window_of_all_keys_is_biased_attention():
    q, k, v, bias = problem(heads=2)
    expected = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias.expand(-1, -1, 33, -1).masked_fill(~torch.ones(33, 33).bool().tril(), -math.inf)
    )
    for window in (33, 1000):
        for backend in ("auto", "tiles", "reference"):
            torch.testing.assert_close(dynamic_mask_attention(q, k, v, bias, window=window, backend=backend), expected)


def test_kept_keys_are_the_best_and_no_more():
    _, _, _, bias = problem(keys=20)
    kept = dynamic_mask(bias, window=6)
    allowed = torch.ones(20, 20).bool().tril()
    assert torch.equal(kept.sum(-1), allowed.sum(-1).clamp(max=6).expand(2, 2, 20))
    best = bias.expand(-1, -1, 20, -1).masked_fill(~kept, -math.inf).sort(-1, descending=True).values[..., :6]
    expected = bias.expand(-1, -1, 20, -1).masked_fill(~allowed, -math.inf).sort(-1, descending=True).values[..., :6]
    torch.testing.assert_close(best, expected)
    assert kept_density(kept, allowed.expand_as(kept)) == pytest.approx((21 + 14 * 6) / 210)


def test_equal_importance_keeps_the_most_recent():
    kept = dynamic_mask(torch.zeros(1, 1, 1, 6), window=2)[0, 0]
    assert kept.int().tolist()[5] == [0, 0, 0, 0, 1, 1]
    assert key_lifetimes(torch.zeros(1, 6), 2)[0].tolist()[:4] == [2, 3, 4, 5]


@pytest.mark.parametrize("backend", ["reference", "tiles"])
def test_the_future_has_no_influence(backend):
    q, k, v, bias = (x.detach() for x in problem(queries=33))
    changed = [x.clone() for x in (k, v, bias)]
    for x in changed[:2]:
        x[:, :, 20:] += 1
    changed[2][..., 20:] += 5
    before, after = (
        dynamic_mask_attention(q, *kvb, window=4, backend=backend)[:, :, :20] for kvb in ((k, v, bias), changed)
    )
    assert torch.equal(before, after)


def test_shared_selection_looks_ahead_and_empty_rows_are_zero():
    q, k, v, bias = problem(batch=1, heads=1, kv_heads=1, bias_heads=1)
    with torch.no_grad():
        bias.copy_(torch.arange(33.0))  # the best keys come last
    for backend in ("reference", "tiles"):
        out, *gradients = with_gradients((q, k, v, bias), window=4, selection="shared", backend=backend)
        assert (out[:, :, :29] == 0).all()
        assert (out[:, :, 29:] != 0).all()
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("backend", ["reference", "tiles"])
def test_rows_without_an_allowed_key(backend):
    inputs = problem()
    mask = torch.zeros(2, 33, dtype=torch.bool)
    mask[1] = True
    out, *gradients = with_gradients(inputs, window=4, mask=mask, backend=backend)
    assert (out[0] == 0).all()
    assert all(g.isfinite().all() for g in gradients)
    assert all((g[0] == 0).all() for g in gradients)


def test_permuting_keys_without_causality_changes_nothing():
    q, k, v, _ = problem()
    bias = torch.randn(2, 2, 1, 33, dtype=torch.float64)
    order = torch.randperm(33)
    a = dynamic_mask_attention(q, k, v, bias, window=7, causal=False)
    b = dynamic_mask_attention(q, k[:, :, order], v[:, :, order], bias[..., order], window=7, causal=False)
    torch.testing.assert_close(a, b)


def test_capture_records_the_weights_of_chosen_rows():
    q, k, v, bias = problem()
    with capture(None, rows=[3, 30], heads=[0, 3]) as maps:
        out = dynamic_mask_attention(q, k, v, bias, window=5)
    weights = maps["function"]
    assert weights.shape == (2, 2, 2, 33)
    assert (weights > 0).sum(-1).max() == 5
    values = v.repeat_interleave(2, dim=1)[:, [0, 3]]
    torch.testing.assert_close(weights @ values, out[:, [0, 3]][:, :, [3, 30]])
    assert torch.equal(out, dynamic_mask_attention(q, k, v, bias, window=5))


def test_gradcheck():
    inputs = problem(batch=1, heads=2, kv_heads=1, queries=9, keys=11, bias_heads=1, dim=3, value_dim=2, tied=False)
    assert torch.autograd.gradcheck(
        lambda *x: dynamic_mask_attention(*x, window=3, backend="tiles"), inputs, fast_mode=True
    )


def test_a_bias_or_mask_for_each_query():
    q, k, v, _ = problem(queries=5, keys=9)
    bias = torch.randn(1, 1, 5, 9, dtype=torch.float64)
    mask = torch.rand(2, 1, 5, 9) > 0.3
    out = dynamic_mask_attention(q, k, v, bias, window=3, mask=mask)
    assert out.shape == (2, 4, 5, 5)
    kept = dynamic_mask(bias, window=3, mask=mask)
    assert (kept & ~mask).sum() == 0
    with pytest.raises(ValueError, match=r"'tiles' needs.*\(1, 1, 5, 9\)"):
        dynamic_mask_attention(q, k, v, bias, window=3, mask=mask, backend="tiles")


def test_variable_lengths_equal_each_sequence_alone():
    q, k, v, bias = problem(batch=1, queries=20, keys=30)
    query_starts, key_starts = [0, 5, 5, 20], torch.tensor([0, 11, 14, 30])
    tokens_first = [q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), bias[0, :, 0].T]
    out = dynamic_mask_attention_varlen(*tokens_first, query_starts=query_starts, key_starts=key_starts, window=4)
    for (a, b), (c, d) in zip(pairwise(query_starts), pairwise(key_starts.tolist()), strict=True):
        alone = dynamic_mask_attention(
            q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], bias[..., c:d], window=4, backend="reference"
        )
        torch.testing.assert_close(out[a:b], alone[0].transpose(0, 1))
    with pytest.raises(ValueError, match="must rise from 0 to the 20 tokens"):
        dynamic_mask_attention_varlen(*tokens_first, query_starts=[0, 5], key_starts=[0, 30], window=4)
    with pytest.raises(ValueError, match="counts 1 sequences, key_starts 2"):
        dynamic_mask_attention_varlen(*tokens_first, query_starts=[0, 20], key_starts=[0, 4, 30], window=4)


def test_dropout_drops_weights_and_its_backward_uses_the_same():
    q, k, v, bias = problem(queries=33)
    torch.manual_seed(0)
    dropped = torch.stack([dynamic_mask_attention(q, k, v, bias, window=8, dropout=0.4) for _ in range(400)])
    torch.testing.assert_close(dropped.mean(0), dynamic_mask_attention(q, k, v, bias, window=8), rtol=0.3, atol=0.15)

    small = problem(batch=1, heads=2, kv_heads=1, queries=7, keys=9, bias_heads=1, dim=3, value_dim=2, tied=False)

    def again(*inputs):
        torch.manual_seed(3)
        return dynamic_mask_attention(*inputs, window=3, dropout=0.4)

    assert torch.autograd.gradcheck(again, small, fast_mode=True)


@pytest.mark.parametrize("queries", [0, 4])
def test_nothing_to_attend_to(queries):
    q, k, v, bias = problem(queries=queries, keys=0 if queries else 5)
    for backend in ("auto", "reference", "tiles"):
        out, *gradients = with_gradients((q, k, v, bias), window=3, backend=backend)
        assert out.shape == (2, 4, queries, 5)
        assert (out == 0).all()
        assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_queries_stay_in_their_rows(bad):
    q, k, v, bias = (x.detach() for x in problem())
    q[0, 1, 7] = bad
    for backend in ("reference", "tiles"):
        out = dynamic_mask_attention(q, k, v, bias, window=5, backend=backend)
        assert not out[0, 1, 7].isfinite().any()
        out[0, 1, 7] = 0
        assert out.isfinite().all()


def test_half_precision_does_not_overflow():
    q, k, v, bias = (x.detach().half() for x in problem())
    out = dynamic_mask_attention(q * 300, k * 300, v, bias, window=5)
    assert out.dtype == torch.float16
    assert out.isfinite().all()
    expected = dynamic_mask_attention(q.double() * 300, k.double() * 300, v.double(), bias.double(), window=5)
    torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)


def test_strided_and_expanded_tensors():
    q, k, v, bias = (x.detach() for x in problem())
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    expanded = [strided[0], k[:, :1].expand(-1, 2, -1, -1), v[:, :1].expand(-1, 2, -1, -1), bias]
    out = dynamic_mask_attention(*expanded, window=5)
    torch.testing.assert_close(
        out, dynamic_mask_attention(q, k[:, :1].repeat(1, 2, 1, 1), v[:, :1].repeat(1, 2, 1, 1), bias, window=5)
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo, at the frame of the type checker
def test_compiles_and_autocasts():
    inputs = problem(dtype=torch.float32)
    expected = with_gradients(inputs, window=5)
    compiled = torch.compile(dynamic_mask_attention, backend="aot_eager")
    out = compiled(*inputs, window=5)
    torch.testing.assert_close(out, expected[0])
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    for ours, theirs in zip(torch.autograd.grad((out * probe).sum(), inputs), expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(dynamic_mask_attention(*inputs, window=5), expected[0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"k": torch.zeros(2, 3, 33, 6), "v": torch.zeros(2, 3, 33, 5)},
            r"multiple of key heads: q \(2, 4, 33, 6\), k \(2, 3, 33, 6\)",
        ),
        ({"k": torch.zeros(2, 2, 30, 6)}, r"differ: q \(2, 4, 33, 6\), k \(2, 2, 30, 6\)"),
        ({"bias": torch.zeros(2, 2, 1, 30)}, r"must broadcast .* bias \(2, 2, 1, 30\)"),
        ({"bias": torch.zeros(2, 33)}, r"four axes.*\(2, 33\)"),
        ({"q": torch.zeros(2, 4, 33, 6, dtype=torch.long)}, "floating point"),
        ({"q": torch.zeros(2, 4, 50, 6)}, r"more queries than keys.*\(2, 4, 50, 6\)"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"mask": torch.ones(2, 7, dtype=torch.bool)}, r"mask \(2, 7\) fits neither"),
    ],
)
def test_errors_quote_the_shapes(change, message):
    given = dict(zip(("q", "k", "v", "bias"), problem(dtype=torch.float32), strict=True)) | {"window": 4}
    with pytest.raises(ValueError, match=message):
        dynamic_mask_attention(**given | change)


def test_block_smoothing_needs_more_than_half():
    bias = torch.tensor([3.0, 2.0, 1.0, 0.0, 5.0, 4.0, -1.0])[None, None, None]
    assert create_mask(bias, queries=1, window=4)[0, 0, 0].tolist() == [True, True, False, False, True, True, False]
    assert create_mask(bias, queries=1, window=4, block=4)[0, 0, 0].tolist() == [False] * 4 + [True] * 3
    filled = bias.masked_fill(
        bias > 3, torch.finfo(bias.dtype).min
    )  # masked keys of a bias are not counted among the largest
    assert create_mask(filled, queries=1, window=6)[0, 0, 0].tolist() == [True, True, True, True, False, False, True]
    assert create_mask(bias, queries=1, window=4, kind="relu")[0, 0, 0].tolist() == [
        True,
        True,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.slow
def test_memory_is_linear_in_length():
    """A window of 512 at 65,536 and 131,072 tokens, in fresh processes."""
    setup = """
from core_attention.mechanisms.dma.attention import dynamic_mask_attention
def layer(n):
    q, k, v = (torch.randn(1, 2, n, 32) for _ in range(3))
    return q, k, v, torch.randn(1, 2, 1, n)
dynamic_mask_attention(*layer(256), window=64)
inputs = layer({length})
"""
    work = "dynamic_mask_attention(*inputs, window=512)"
    short, long = (peak_memory(setup.replace("{length}", str(n)), work) for n in (65536, 131072))
    assert short > 2**24  # more than the output alone: what a process had freed hides little of it
    assert long < 2.5 * short
