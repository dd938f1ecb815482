"""Edges that the mechanisms over routed attention share: what is not finite, ranges of half precision, strides, nothing, compilation."""

import pytest
import torch

from core_attention.mechanisms.biformer.attention import bi_level_routing_attention
from core_attention.mechanisms.sparsifiner.attention import sparse_attention
from core_attention.mechanisms.sparsifiner.predictor import MaskPredictor
from core_attention.mechanisms.vmoba.attention import mixture_of_blocks
from core_attention.mechanisms.vmoba.moba import MoBA, moba_attention


def predictor():
    torch.manual_seed(4)
    made = MaskPredictor(24, num_heads=3, num_tokens=48, rank=8, coef_topk=99)  # more coefficients than there are
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made


def biformer(q, k, v):
    index = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(r))[:3] for r in range(6)])
    parts = [t.transpose(1, 2).flatten(2).unflatten(1, (6, -1)) for t in (q, k, v)]
    out = bi_level_routing_attention(*parts, index.expand(len(q), -1, -1), num_heads=3, scale=8**-0.5)
    return out.flatten(1, 2).unflatten(2, (3, -1)).transpose(1, 2)


def sparsifiner(q, k, v):
    # in the precision of what it sees; keys by number, so that a row that is not a number keeps a list too
    return sparse_attention(q, k, v, predictor().to(q.dtype), path="gather")


ATTENTIONS = {
    "biformer": biformer,
    "moba": lambda q, k, v: moba_attention(q, k, v, block=10, topk=2),
    "sparsifiner": sparsifiner,
    "sparsifiner masked": lambda q, k, v: sparse_attention(q, k, v, predictor().to(q.dtype), path="mask"),
    "vmoba": lambda q, k, v: mixture_of_blocks(q, k, v, grid=(3, 4, 4), chunk=(2, 2)),
}
every = pytest.mark.parametrize("name", ATTENTIONS)


def qkv(dtype=torch.float64, tokens=48):
    """Three heads, which no power of two divides."""
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, tokens, 8, generator=g, dtype=torch.float64).to(dtype) for _ in range(3)]


@every
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_in_a_query_stays_in_its_row(name, value):
    q, k, v = qkv()
    clean = ATTENTIONS[name](q, k, v)
    q[0, 1, 7] = value
    out = ATTENTIONS[name](q, k, v)
    assert not out[0, 1, 7].isfinite().any()
    out[0, 1, 7] = 0
    assert out.isfinite().all()
    assert torch.equal(out[1], clean[1])


@every
def test_half_precision_beyond_its_range(name):
    q, k, v = qkv(torch.float16)
    out = ATTENTIONS[name](q * 200, k * 200, v)
    assert out.dtype == torch.float16
    assert out.isfinite().all()


@every
def test_strided_and_expanded(name):
    q, k, v = qkv()
    k, v = k[:, :1], v[:, :1]
    expected = ATTENTIONS[name](q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1))
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    torch.testing.assert_close(
        ATTENTIONS[name](strided[0], *(t.expand(-1, 3, -1, -1) for t in strided[1:])), expected, rtol=1e-9, atol=1e-9
    )


@every
def test_autocast(name, unchecked):
    inputs = qkv(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = ATTENTIONS[name](*inputs)
    assert out.isfinite().all()
    expected = ATTENTIONS[name](*inputs)
    assert (out.float() - expected).norm() < 0.1 * expected.norm()  # near ties of a choice may fall otherwise


@every
def test_no_samples(name):
    q, k, v = (t[:0] for t in qkv())
    assert ATTENTIONS[name](q, k, v).shape == (0, 3, 48, 8)


def test_no_tokens(unchecked):
    q, k, v = qkv(tokens=0)
    assert moba_attention(q, k, v, block=4, topk=2).shape == (2, 3, 0, 8)
    assert MoBA()(q, *qkv()[1:]).shape == (2, 3, 0, 8)
    with pytest.raises(ValueError, match=r"each at least 1, got \(0, 4, 4\)"):
        mixture_of_blocks(q, k, v, grid=(0, 4, 4), chunk=1)
    with pytest.raises(ValueError, match=r"48 tokens and 8 channels a head got queries \(2, 3, 0, 8\)"):
        sparse_attention(q, k, v, predictor().double())


def test_heads_that_do_not_divide(unchecked):
    q, k, v = qkv()
    pair = [t[:, :2] for t in (k, v)]
    for attention in (ATTENTIONS["moba"], ATTENTIONS["vmoba"]):
        with pytest.raises(ValueError, match=r"\(2, 3, 48, 8\).*\(2, 2, 48, 8\)"):
            attention(q, *pair)
    with pytest.raises(ValueError, match=r"queries \(2, 3, 48, 8\) and keys \(2, 2, 48, 8\)"):
        sparse_attention(q, *pair, predictor().double())


def test_compile(unhooked):
    """In a process of its own: the tests' shape checks are Python that torch.compile cannot trace."""
    code = """
import torch
from core_attention.mechanisms.biformer.attention import BiLevelRoutingAttention
from core_attention.mechanisms.vmoba.moba import MoBA
from core_attention.mechanisms.sparsifiner.attention import SparsifinerAttention
from core_attention.mechanisms.vmoba.attention import MixtureOfBlocks
torch.manual_seed(0)
heads = [torch.randn(2, 3, 48, 8) for _ in range(3)]
layer = {"num_heads": 3, "num_tokens": 48, "rank": 8}
for module, inputs in (
    (BiLevelRoutingAttention(24, num_heads=3, n_win=3, topk=2), [torch.randn(2, 7, 8, 24)]),
    (MoBA(block=10, topk=2), heads),
    (MixtureOfBlocks([(2, 2)]), [*heads, (3, 4, 4)]),
    (SparsifinerAttention(24, path="mask", **layer), [torch.randn(2, 48, 24)]),
    (SparsifinerAttention(24, path="gather", **layer), [torch.randn(2, 48, 24)]),
):
    leaves = [t.requires_grad_() for t in inputs if isinstance(t, torch.Tensor)]
    compiled = torch.compile(module, backend="aot_eager")
    ours, theirs = compiled(*inputs), module(*inputs)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
"""
    unhooked(code)
