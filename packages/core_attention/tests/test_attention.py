"""The front door: equal results on every backend that runs here, and defined behaviour at the edges."""

import jaxtyping
import pytest
import torch

from core_attention.attention import attention
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


@pytest.fixture
def unchecked():
    """Switches the signatures' own shape checks off, so that the errors users see are tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
            torch.randn(2, heads, queries, 3, generator=g), torch.randn(1, heads, queries, 5, generator=g)
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", masks())
def test_sdpa_equals_reference(name, dtype):
    mask = masks()[name]
    found = {}
    for backend in ("reference", "sdpa"):
        q, k, v = qkv(dtype=dtype)
        out = attention(q, k, v, mask=mask, backend=backend)
        probe = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        found[backend] = [out, *torch.autograd.grad((out * probe).sum(), (q, k, v))]
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-6}
    for ours, theirs in zip(found["sdpa"], found["reference"], strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, **tolerance)


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
