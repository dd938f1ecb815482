"""Causal mixture of block attention: causality, packed sequences, and decoding with running block means."""

import pytest
import torch
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.vmoba import moba
from core_attention.mechanisms.vmoba.moba import MoBACache, moba_attention, moba_attention_packed


def qkv(tokens=43, heads=4, kv_heads=2, batch=2, dim=8, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, h, tokens, dim, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    ]


def written_out(q, k, v, block, topk):
    """Query by query: own block up to itself, and the best earlier full blocks."""
    out = torch.zeros_like(q)
    share = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            keys, values = k[b, h // share], v[b, h // share]
            for i in range(q.shape[2]):
                own = i // block
                gates = [
                    float(q[b, h, i].detach() @ keys[c * block : (c + 1) * block].mean(0).detach()) for c in range(own)
                ]
                best = sorted(range(own), key=lambda c: -gates[c])[: topk - 1]
                seen = [j for c in sorted(best) for j in range(c * block, (c + 1) * block)] + list(
                    range(own * block, i + 1)
                )
                out[b, h, i] = (q[b, h, i] @ keys[seen].T * q.shape[3] ** -0.5).softmax(-1) @ values[seen]
    return out


@pytest.mark.parametrize("topk", [1, 2, 4])
def test_is_the_rule(topk):
    q, k, v = qkv(batch=1)
    torch.testing.assert_close(moba_attention(q, k, v, block=8, topk=topk), written_out(q, k, v, 8, topk))


def test_gates_of_a_few_queries_at_a_time(monkeypatch):
    q, k, v = qkv()
    whole = moba_attention(q, k, v, block=8, topk=3)
    monkeypatch.setattr(moba, "ROWS", 7)
    assert torch.equal(moba_attention(q, k, v, block=8, topk=3), whole)


def test_enough_blocks_is_full_causal_attention():
    q, k, v = qkv()
    full = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    for block, topk in ((8, 6), (8, 99), (64, 1), (43, 1)):
        torch.testing.assert_close(moba_attention(q, k, v, block=block, topk=topk), full)
    torch.testing.assert_close(moba_attention(q, k, v, block=8, topk=1, full_below=44), full)


def test_the_future_changes_nothing():
    q, k, v = qkv()
    before = moba_attention(q, k, v, block=8, topk=3)
    changed = [torch.cat([t[:, :, :30], torch.randn_like(t[:, :, 30:])], 2) for t in (q, k, v)]
    torch.testing.assert_close(moba_attention(*changed, block=8, topk=3)[:, :, :30], before[:, :, :30], rtol=0, atol=0)


def test_packed_is_each_sequence_alone():
    q, k, v = (t[0].transpose(0, 1) for t in qkv(batch=1))
    bounds = torch.tensor([0, 17, 17, 18, 43], dtype=torch.int32)
    packed = moba_attention_packed(q, k, v, bounds, block=8, topk=2)
    for start, stop in ((0, 17), (17, 18), (18, 43)):
        one = (t[start:stop].transpose(0, 1)[None] for t in (q, k, v))
        torch.testing.assert_close(packed[start:stop], moba_attention(*one, block=8, topk=2)[0].transpose(0, 1))
    packed.sum().backward()
    for bounds in ([0, 17], [3, 43], [0, 30, 20, 43]):
        with pytest.raises(ValueError, match="do not rise from 0"):
            moba_attention_packed(q, k, v, torch.tensor(bounds), block=8, topk=2)
    assert moba_attention_packed(q[:0], k[:0], v[:0], torch.tensor([0]), block=8, topk=2).shape == (0, 4, 8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_decoding_in_any_steps_equals_one_pass(dtype):
    q, k, v = (t.detach() for t in qkv(dtype=dtype))
    whole = moba_attention(q, k, v, block=8, topk=3)
    for steps in ([43], [1] * 43, [20, 1, 1, 7, 14]):
        cache, parts, start = MoBACache(8), [], 0
        for step in steps:
            new = (t[:, :, start : start + step] for t in (q, k, v))
            parts.append(moba_attention(*new, block=8, topk=3, cache=cache))
            start += step
        tolerance = {} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.02}
        torch.testing.assert_close(torch.cat(parts, 2), whole, **tolerance)
        assert cache.rows.rows[0].shape == (2, 2, 43, 8)
        means = torch.stack([part.to(cache.means.dtype).mean(2) for part in k.split(8, 2)], 2)
        torch.testing.assert_close(cache.means, means)


def test_queries_that_are_the_last_of_the_keys():
    q, k, v = qkv()
    torch.testing.assert_close(
        moba_attention(q[:, :, -5:], k, v, block=8, topk=3), moba_attention(q, k, v, block=8, topk=3)[:, :, -5:]
    )


def test_a_query_that_is_not_finite_stays_alone():
    q, k, v = (t.detach() for t in qkv())
    clean = moba_attention(q, k, v, block=8, topk=3)
    q[0, 1, 20] = torch.nan
    out = moba_attention(q, k, v, block=8, topk=3)
    assert out[0, 1, 20].isnan().all()
    out[0, 1, 20] = clean[0, 1, 20]
    torch.testing.assert_close(out, clean, rtol=0, atol=0)


def test_capture():
    q, k, v = qkv(dtype=torch.float32)
    with capture(None) as maps:
        out = moba_attention(q, k, v, block=8, topk=2)
    torch.testing.assert_close(maps["function"] @ v.repeat_interleave(2, 1), out, rtol=1e-4, atol=1e-5)
    blocks = maps.all("function", "blocks")[0]
    assert blocks.shape == (2, 4, 43, 6)
    assert (blocks.sum(-1) == (torch.arange(43) // 8 + 1).clamp(max=2)).all()


def test_what_does_not_fit():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="at least 1"):
        moba_attention(q, k, v, block=0, topk=2)
    with pytest.raises(ValueError, match=r"more queries \(2, 4, 43, 8\) than keys \(2, 2, 40, 8\)"):
        moba_attention(q, k[:, :, :40], v[:, :, :40], block=8, topk=2)
    with pytest.raises(ValueError, match="blocks of 4 tokens, not 8"):
        moba_attention(q, k, v, block=8, topk=2, cache=MoBACache(4))
    cache = MoBACache(8)
    cache.append(k, v)
    with pytest.raises(ValueError, match=r"the cache holds \(2, 2, 43, 8\).*brings \(1, 2, 43, 8\)"):
        cache.append(k[:1], v[:1])
    with pytest.raises(ValueError, match="at least one token"):
        MoBACache(0)
