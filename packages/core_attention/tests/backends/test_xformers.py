"""How xFormers is called, checked with a stand-in that computes the definition in xFormers' layout: its own kernels need CUDA."""

import sys
import types

import pytest
import torch

from core_attention.attention import attention
from core_attention.backends import xformers
from core_attention.masks import Causal


def compute(q, k, v, attn_bias=None, scale=None):
    """(batch, length, key heads, heads of a group, width), or (batch, length, heads, width) without groups."""
    assert k.shape[2:] == q.shape[2:]
    q, k, v = (t.movedim(1, -2) for t in (q, k, v))
    n, m = q.shape[-2], k.shape[-2]
    shift = {"LowerTriangularMask": 0, "LowerTriangularFromBottomRightMask": m - n}.get(type(attn_bias).__name__)
    scores = q @ k.mT * scale
    if shift is not None:
        scores = scores.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(1 + shift), -torch.inf)
    return (scores.softmax(-1) @ v).movedim(-2, 1), scores.logsumexp(-1)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = lambda *args, **options: compute(*args, **options)[0]
    ops.memory_efficient_attention_forward_requires_grad = compute
    kinds = ("LowerTriangularMask", "LowerTriangularFromBottomRightMask")
    ops.fmha = types.SimpleNamespace(attn_bias=types.SimpleNamespace(**{name: type(name, (), {}) for name in kinds}))
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", [None, Causal(), Causal(4)], ids=str)
def test_layout_and_masks(kv_heads, mask):
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, kv_heads, 9, 8), torch.randn(2, kv_heads, 9, 6)
    want, want_lse = attention(q, k, v, mask=mask, scale=0.3, backend="reference", return_lse=True)
    torch.testing.assert_close(xformers.run(q, k, v, mask=mask, scale=0.3, return_lse=False)[0], want)
    out, lse = xformers.run(q, k, v, mask=mask, scale=0.3, return_lse=True)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(lse, want_lse)


def test_a_shifted_triangle_is_refused():
    q = torch.randn(1, 1, 5, 8)
    with pytest.raises(RuntimeError, match="not shifted by 2"):
        xformers.run(q, q, q, mask=Causal(2), scale=1.0, return_lse=False)
