"""The front door: equal results on every backend that runs here, and defined behaviour at the edges."""

import pytest
import torch

from core_attention.attention import attention
from core_attention.backends import pieces
from core_attention.masks import (
    Additive,
    Blocks,
    Causal,
    Dense,
    Factorised,
    KeyLengths,
    Segments,
    Window,
)


def qkv(batch=2, heads=4, kv_heads=2, queries=13, keys=15, width=8, value_width=6, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(heads, queries, width), (kv_heads, keys, width), (kv_heads, keys, value_width)]
    return [torch.randn(batch, *s, generator=g, dtype=dtype).requires_grad_() for s in shapes]


def ids(*runs):
    return torch.tensor([[i for i, n in enumerate(run) for _ in range(n)] for run in runs])


def masks(queries=13, keys=15, heads=4):
    g = torch.Generator().manual_seed(1)
    segments = Segments(ids((5, 8), (1, 12)), ids((5, 4, 6), (2, 13)))
    return {
        "none": None,
        "causal": Causal(),
        "causal, cache": Causal(keys - queries),
        "causal, first rows empty": Causal(-3),
        "window": Window(2, 1),
        "window left": Window(3, None),
        "window, wider than all": Window(99, 99),
        "lengths": KeyLengths(torch.tensor([0, 9])),
        "segments": segments,
        "segments, any order": Segments(
            torch.randint(-1, 4, (2, queries), generator=g), torch.randint(-1, 4, (2, keys), generator=g)
        ),
        "blocks": Blocks(torch.rand(1, heads, 5, 3, generator=g) > 0.5, (3, 5)),
        "dense": Dense(torch.rand(2, 1, queries, keys, generator=g) > 0.5),
        "additive": Additive(torch.randn(heads, queries, keys, generator=g)),
        "additive, a key": Additive(torch.randn(2, 1, 1, keys, generator=g)),
        "factorised": Factorised(
            torch.randn(2, heads, queries, 3, generator=g, dtype=torch.float64),
            torch.randn(1, heads, queries, 5, generator=g, dtype=torch.float64),
        ),
        "causal & lengths": Causal() & KeyLengths(torch.tensor([4, 9])),
        "causal & segments": Causal() & segments,
        "window & additive & lengths": Window(4, 4)
        & Additive(torch.randn(queries, keys, generator=g))
        & KeyLengths(torch.tensor([15, 1])),
    }


def direct(q, k, v, mask, scale):
    """Softmax attention written out once more, head by head, to judge the reference itself."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if mask(b, h, i, j)]
                if seen:
                    s = torch.stack([q[b, h, i] @ k[b, g, j] * scale for j in seen])
                    out[b, h, i] = s.softmax(0) @ v[b, g, seen]
    return out


@pytest.mark.parametrize(
    ("mask", "sees"),
    [
        (None, lambda b, h, i, j: True),
        (Causal(2), lambda b, h, i, j: j <= i + 2),
        (Window(1, 2, offset=-1), lambda b, h, i, j: i - 2 <= j <= i + 1),
        (KeyLengths(torch.tensor([0, 5])), lambda b, h, i, j: j < (0, 5)[b]),
        (
            Segments(torch.tensor([[0, 0, 1, -1]]), torch.tensor([[1, -1, 0, 0, 1, 1]])),
            lambda b, h, i, j: i < 3 and (0, 0, 1)[i] == (1, -1, 0, 0, 1, 1)[j],
        ),
        (Blocks(torch.tensor([[[[True, False], [False, False]]]]), (3, 4)), lambda b, h, i, j: i < 3 and j < 4),
    ],
)
def test_reference_is_the_definition(mask, sees):
    q, k, v = qkv(queries=4, keys=6, dtype=torch.float64)
    ours = attention(q, k, v, mask=mask, scale=0.3, backend="reference")
    torch.testing.assert_close(ours, direct(q, k, v, sees, 0.3))


BOUNDS = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 5e-6},
    torch.float16: {"rtol": 1e-2, "atol": 1e-2},
    torch.bfloat16: {"rtol": 5e-2, "atol": 7e-2},
}


def everything(backend, mask, dtype, *, lse=False, **shape):
    """Output (and log-sum-exp) and the gradients of a weighted sum of them."""
    q, k, v = qkv(dtype=dtype, **shape)
    out = attention(q, k, v, mask=mask, backend=backend, return_lse=lse)
    total, found = 0, list(out) if lse else [out]
    for one in found:
        seen = one.masked_fill(one == -torch.inf, 0)
        total = total + (seen * torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view_as(one)).sum()
    return [*found, *torch.autograd.grad(total, (q, k, v))]


@pytest.mark.parametrize("small", [False, True], ids=["one mask", "pieces"])
@pytest.mark.parametrize("lse", [False, True], ids=["", "lse"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", masks())
def test_sdpa_equals_reference(name, dtype, lse, small, monkeypatch):
    if small:
        monkeypatch.setattr(pieces, "BUDGET", 200)
        monkeypatch.setattr(pieces, "NEAR", (3, 4))
    mask = masks()[name]
    ours, theirs = (everything(backend, mask, dtype, lse=lse) for backend in ("sdpa", "reference"))
    for one, other in zip(ours, theirs, strict=True):
        assert not one.isnan().any()
        torch.testing.assert_close(one, other, **BOUNDS[dtype])


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (1, 1), (1, 7), (257, 3)])
def test_any_length(backend, queries, keys):
    shape = {"queries": queries, "keys": keys}
    out, *grads = everything(backend, None, torch.float32, **shape)
    assert out.shape == (2, 4, queries, 6)
    torch.testing.assert_close(out, everything("reference", None, torch.float32, **shape)[0], rtol=1e-4, atol=1e-6)
    assert all(g.isfinite().all() for g in grads)
    if keys == 0:
        assert (out == 0).all()


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_rows_that_see_nothing_give_zero(backend, dtype):
    hidden = torch.ones(13, 15, dtype=torch.bool)
    hidden[4] = False
    for mask in (Dense(hidden), Additive(torch.zeros(13, 15).masked_fill(~hidden, -torch.inf))):
        out, lse, *grads = everything(backend, mask, dtype, lse=True)
        assert (out[:, :, 4] == 0).all()
        assert (lse[:, :, 4] == -torch.inf).all()
        assert lse[:, :, 3].isfinite().all()
        assert (grads[0][:, :, 4] == 0).all()
        assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["none", "causal", "window", "lengths", "dense"])
def test_a_bad_query_stays_in_its_row(backend, bad, name):
    q, k, v = (t.detach() for t in qkv())
    mask = masks()[name]
    clean = attention(q, k, v, mask=mask, backend=backend)
    q[1, 2, 7, 3] = bad
    out = attention(q, k, v, mask=mask, backend=backend)
    assert out[1, 2, 7].isnan().all()
    out[1, 2, 7] = clean[1, 2, 7]
    torch.testing.assert_close(out, clean, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("name", ["none", "causal", "window", "segments"])
def test_layout_does_not_matter(backend, name):
    q, k, v = (t.detach() for t in qkv())
    k, v = (t[:, :1].expand(-1, 2, -1, -1) for t in (k, v))
    q, k = q[:1].expand(2, -1, -1, -1), k
    mask = masks()[name]
    want = attention(q.clone(), k.clone(), v.clone(), mask=mask, backend=backend)
    scattered = torch.empty(2, 13, 4, 16)[..., ::2].transpose(1, 2).copy_(q)
    for layout in (q, scattered):
        torch.testing.assert_close(attention(layout, k, v, mask=mask, backend=backend), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [None, 0.0])
@pytest.mark.parametrize("small", [False, True], ids=["one mask", "pieces"])
def test_gradients_of_biases(small, scale, monkeypatch):
    if small:
        monkeypatch.setattr(pieces, "BUDGET", 10_000)  # a few rows at a time
    g = torch.Generator().manual_seed(3)
    full = torch.randn(1, 4, 13, 15, generator=g, dtype=torch.float64)
    rows, columns = (torch.randn(2, 4, 13, n, generator=g, dtype=torch.float64) for n in (3, 5))
    found = {}
    for backend in ("reference", "sdpa"):
        leaves = [t.clone().requires_grad_() for t in (full, rows, columns)]
        q, k, v = qkv(dtype=torch.float64)
        mask = Causal(4) & Additive(leaves[0]) & Factorised(leaves[1], leaves[2])
        out, lse = attention(q, k, v, mask=mask, scale=scale, backend=backend, return_lse=True)
        loss = (out**2).sum() + (lse**2).sum()
        found[backend] = torch.autograd.grad(loss, [q, k, v, *leaves])
    for ours, theirs in zip(found["sdpa"], found["reference"], strict=True):
        torch.testing.assert_close(ours, theirs, **BOUNDS[torch.float64])


def test_parts_merge_by_their_log_sum_exp():
    q, k, v = qkv(dtype=torch.float64)
    halves = [attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 6), slice(6, 15))]
    share = torch.stack([lse for _, lse in halves]).softmax(0)
    merged = sum(p[..., None] * out for p, (out, _) in zip(share, halves, strict=True))
    torch.testing.assert_close(merged, attention(q, k, v), **BOUNDS[torch.float64])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["none", "causal", "window", "lengths", "segments", "dense", "factorised"])
def test_compiles_in_one_graph(name, monkeypatch):
    mask = masks()[name]
    monkeypatch.setattr(pieces, "BUDGET", 2000)

    def loss(q, k, v):
        return (attention(q, k, v, mask=mask) ** 2).sum()

    inputs = qkv()
    want = torch.autograd.grad(loss(*inputs), inputs)
    got = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*inputs), inputs)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, **BOUNDS[torch.float32])


def test_autocast_keeps_its_dtypes():
    q, k, v = qkv()
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(q, k, v, mask=Causal()).dtype in (torch.float32, torch.bfloat16)
        assert attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask=Window(2, 2)).dtype == torch.bfloat16


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_wrong_shapes_are_quoted(backend):
    q, k, v = qkv()
    with pytest.raises(ValueError, match=r"\(2, 4, 13, 8\).*\(2, 3, 15, 8\)"):
        attention(q, torch.zeros(2, 3, 15, 8), torch.zeros(2, 3, 15, 8), backend=backend)
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        attention(q, k, v, backend="fast")
    with pytest.raises(ValueError, match=r"\(7, 15\).*\(2, 4, 13, 15\)"):
        attention(q, k, v, mask=torch.ones(7, 15, dtype=torch.bool), backend=backend)
