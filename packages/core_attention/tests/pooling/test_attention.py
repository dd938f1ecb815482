"""Attention pooling: the streamed path against the definition, forward and gradients, and what it refuses."""

import math

import jaxtyping
import pytest
import torch

from core_attention.pooling.attention import EXCLUDED, attention_pool, gated, pool_rows, row_weights


def problem(n=37, features=12, dim=9, hidden=6, rows=5, dtype=torch.float64, gated=True, projected=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    dim = dim if projected else features
    return {
        "x": draw(n, features),
        "project_weight": draw(dim, features) if projected else None,
        "gate_weight": draw(2 * hidden, dim) if gated else None,
        "gate_bias": draw(2 * hidden) if gated else None,
        "score_weight": draw(rows, hidden if gated else dim),
        "score_bias": draw(rows),
    }


@pytest.fixture
def no_shape_checks():
    """jaxtyping's run-time checks would speak before our own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def results(parts, probe_seed=1, **options):
    """Pooled, scores and the gradients of a probe of both with respect to every tensor."""
    leaves = {k: v.clone().requires_grad_() for k, v in parts.items() if v is not None}
    out = attention_pool(**leaves, **options)
    g = torch.Generator().manual_seed(probe_seed)
    finite = out.scores.masked_fill(out.scores <= EXCLUDED, 0.0)
    probe = lambda like: torch.randn(like.shape, generator=g, dtype=torch.float64).to(like.dtype)  # noqa: E731
    objective = (out.pooled * probe(out.pooled)).sum() + (finite * probe(finite)).sum()
    grads = torch.autograd.grad(objective, list(leaves.values()))
    return {"pooled": out.pooled, "scores": out.scores} | dict(zip(leaves, grads, strict=True))


def strike_top_two(scores):
    return torch.zeros_like(scores, dtype=torch.bool).scatter(0, scores.topk(min(2, len(scores)), dim=0).indices, True)


OPTIONS = {
    "one bag": lambda n: {},
    "mask": lambda n: {"mask": torch.arange(n) % 3 != 1},
    "exclude": lambda n: {"exclude": strike_top_two},
    "all excluded": lambda n: {"exclude": lambda s: torch.ones_like(s, dtype=torch.bool)},
    "bags": lambda n: {"segments": (torch.arange(n) // 5).clamp(max=4) * 2 + 1, "bags": 12},
    "bags, mask, exclude": lambda n: {
        "segments": torch.arange(n) // 7,
        "mask": torch.arange(n) >= 7,
        "exclude": strike_top_two,
    },
}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_streamed_equals_plain_with_gradients(gated, projected, option, chunk):
    parts = problem(gated=gated, projected=projected)
    options = OPTIONS[option](37)
    plain = results(parts, chunk=None, **options)
    streamed = results(parts, chunk=chunk, **options)
    for name, expected in plain.items():
        torch.testing.assert_close(
            streamed[name], expected, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_streamed_float32_within_1e_5():
    parts = problem(n=3000, features=64, dim=32, dtype=torch.float32)
    exact = results({k: v.double() for k, v in parts.items()}, chunk=None)
    for chunk in (None, 100):
        for name, value in results(parts, chunk=chunk).items():
            scale = exact[name].abs().max()
            assert ((value - exact[name]).abs().max() / scale) < 1e-5, (name, chunk)


@pytest.mark.parametrize("gated", [True, False])
def test_gradcheck(gated):
    parts = {
        k: v.requires_grad_()
        for k, v in problem(n=6, features=3, dim=2, hidden=2, rows=2, gated=gated).items()
        if v is not None
    }
    names = list(parts)

    def call(*values):
        return attention_pool(
            **dict(zip(names, values, strict=True)), segments=torch.tensor([0, 0, 0, 1, 1, 3]), chunk=2
        )

    assert torch.autograd.gradcheck(call, tuple(parts.values()))


def test_matches_separate_gates_written_out():
    parts = problem(rows=3, projected=False)
    v, u = parts["gate_weight"].chunk(2)
    bv, bu = parts["gate_bias"].chunk(2)
    h = parts["x"]
    scores = (torch.tanh(h @ v.T + bv) * torch.sigmoid(h @ u.T + bu)) @ parts["score_weight"].T + parts["score_bias"]
    hidden = gated(h, parts["gate_weight"], parts["gate_bias"])
    torch.testing.assert_close(hidden @ parts["score_weight"].T + parts["score_bias"], scores)
    out = attention_pool(**parts, chunk=4)
    torch.testing.assert_close(out.scores, scores)
    torch.testing.assert_close(out.pooled[0], torch.softmax(scores, 0).T @ h)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_accumulate_in_float32(dtype):
    parts = problem(n=5000, features=64, dim=32, dtype=torch.float32)
    parts["x"] = parts["x"].to(dtype)
    exact = attention_pool(**{k: v.double() for k, v in parts.items()}, chunk=None)
    for chunk in (None, 512):
        out = attention_pool(**parts, chunk=chunk)
        assert out.pooled.dtype == torch.float32
        torch.testing.assert_close(
            out.pooled.double(), exact.pooled, rtol=1e-5, atol=1e-5
        )  # as exact as float32 features
        grads = results(parts, chunk=chunk)
        assert grads["x"].dtype == dtype
        assert grads["project_weight"].dtype == torch.float32


def test_one_instance_and_empty_bags():
    for chunk in (None, 3):
        parts = problem(n=1)
        out = attention_pool(**parts, chunk=chunk)
        torch.testing.assert_close(out.pooled[0, 0], torch.relu(parts["x"] @ parts["project_weight"].T)[0])
        packed = attention_pool(**problem(n=4), segments=torch.tensor([1, 1, 1, 3]), bags=6, chunk=chunk)
        assert packed.pooled.shape == (6, 5, 9)
        assert (packed.pooled[[0, 2, 4, 5]] == 0).all()
        assert (packed.pooled[[1, 3]] != 0).any(dim=-1).all()
        empty = results(problem(n=0), chunk=chunk)
        assert (empty["pooled"] == 0).all()
        assert (empty["project_weight"] == 0).all()
        masked = results(problem(n=4), mask=torch.zeros(4, dtype=torch.bool), chunk=chunk)
        assert (masked["pooled"] == 0).all()
        assert all(v.isfinite().all() for k, v in masked.items() if k != "scores")


def test_packed_bags_equal_single_bags():
    parts = problem(n=20)
    segments = torch.tensor([0] * 3 + [1] * 9 + [2] * 8)
    for chunk in (None, 6):
        packed = attention_pool(**parts, segments=segments, chunk=chunk)
        for bag in range(3):
            alone = attention_pool(**(parts | {"x": parts["x"][segments == bag]}), chunk=chunk)
            torch.testing.assert_close(packed.pooled[bag], alone.pooled[0])
            torch.testing.assert_close(packed.scores[segments == bag], alone.scores)


def test_large_scores_do_not_overflow():
    parts = problem(n=50, dtype=torch.float32)
    parts["score_weight"] = parts["score_weight"] * 1e4
    plain, streamed = attention_pool(**parts, chunk=None), attention_pool(**parts, chunk=7)
    assert plain.pooled.isfinite().all()
    torch.testing.assert_close(streamed.pooled, plain.pooled, rtol=1e-5, atol=1e-5)


def test_non_contiguous_features_and_no_scores():
    parts = problem(n=30)
    expected = attention_pool(**parts, chunk=None)
    twisted = parts | {"x": parts["x"].T.contiguous().T}
    out = attention_pool(**twisted, chunk=8, return_scores=False)
    assert out.scores is None
    torch.testing.assert_close(out.pooled, expected.pooled)


def test_streams_by_itself_when_long(monkeypatch):
    from core_attention.pooling import attention as pooling

    monkeypatch.setitem(pooling.KEPT_BYTES, "cpu", 10_000)
    monkeypatch.setitem(pooling.CHUNK_BYTES, "cpu", 10_000)
    parts = problem(n=2000)
    calls = []
    original = pooling.StreamedPool.apply
    monkeypatch.setattr(pooling.StreamedPool, "apply", lambda *a: calls.append(a[-3]) or original(*a))
    streamed = results(parts)
    assert calls == [256]
    torch.testing.assert_close(streamed["project_weight"], results(parts, chunk=None)["project_weight"])


def test_weights_sum_to_one_and_pool_rows_definition():
    scores = torch.randn(11, 4)
    torch.testing.assert_close(row_weights(scores).sum(0), torch.ones(4))
    h = torch.randn(11, 3)
    torch.testing.assert_close(pool_rows(scores, h)[0], torch.softmax(scores, 0).T @ h)
    scores[:, 1] = -math.inf
    assert (pool_rows(scores, h)[0, 1] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(3, 4, 12)}, r"\(3, 4, 12\)"),
        ({"x": torch.randn(3, 11)}, r"\(9, 12\) and \(3, 11\)"),
        ({"x": torch.ones(3, 12, dtype=torch.long)}, "floating"),
        ({"score_weight": torch.randn(5, 7)}, r"\(12, 9\) and \(5, 7\)"),
        ({"score_bias": torch.randn(4)}, r"\(4,\) and \(5, 6\)"),
        ({"mask": torch.ones(36, dtype=torch.bool)}, r"\(36,\) and \(37, 12\)"),
        ({"segments": torch.arange(37).flip(0)}, "ascending"),
        ({"segments": torch.arange(37), "bags": 3}, "bag 36"),
        ({"bags": 2}, "segments"),
        ({"chunk": 0}, "at least 1"),
        ({"backend": "cuda"}, "'auto'"),
        ({"backend": "triton"}, "CUDA"),
    ],
)
def test_says_what_does_not_fit(change, message, no_shape_checks):
    with pytest.raises(ValueError, match=message):
        attention_pool(**(problem() | change))


@pytest.mark.parametrize("chunk", [None, 8])
def test_capture_sees_the_weights(chunk):
    from core_attention.capture.capture import capture

    parts = problem(n=30, dtype=torch.float32)
    segments = torch.tensor([0] * 10 + [2] * 20)
    plain = attention_pool(**parts, segments=segments, chunk=chunk, return_scores=False)
    with capture(None, rows=[1, 3]) as maps:
        seen = attention_pool(**parts, segments=segments, chunk=chunk, return_scores=False)
    assert torch.equal(seen.pooled, plain.pooled)
    assert seen.scores is None
    h = torch.relu(parts["x"] @ parts["project_weight"].T)
    assert maps["function"].shape == (1, 1, 2, 30)
    torch.testing.assert_close(maps["function"][0, 0, :, 10:] @ h[10:], plain.pooled[2, [1, 3]])


def test_autocast_and_vmap():
    parts = problem(n=40, dtype=torch.float32)
    exact = attention_pool(**parts, chunk=None).pooled
    for chunk in (None, 16):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(attention_pool(**parts, chunk=chunk).pooled, exact, rtol=0.1, atol=0.3)
    many = torch.stack([parts["x"], parts["x"].flip(0)])
    rest = {k: v for k, v in parts.items() if k != "x"}
    both = torch.vmap(lambda x: attention_pool(x, **rest, chunk=None).pooled)(many)
    torch.testing.assert_close(both[0], exact)
    torch.testing.assert_close(both[1], exact)
