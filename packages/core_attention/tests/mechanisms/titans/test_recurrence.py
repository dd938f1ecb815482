"""The recurrence of Titans in chunks against the recurrence token by token, and its limits."""

from itertools import pairwise

import pytest
import torch

from core_attention.mechanisms.titans.network import Weights, forward, writes
from core_attention.mechanisms.titans.recurrence import MemoryState, neural_memory, neural_memory_stepwise


def problem(depth=2, time=11, dim=5, batch=2, heads=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(depth)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()  # noqa: E731
    widths = [dim, *[7] * (depth - 1), dim]
    gates = [(torch.rand(batch, heads, time, generator=g).to(dtype) * s).requires_grad_() for s in (0.3, 0.9, 0.1)]
    return {
        **{name: draw(batch, heads, time, dim) for name in "qkv"},
        **dict(zip(("alpha", "eta", "theta"), gates, strict=True)),
        "weights": tuple((draw(heads, a, b) * 0.5).detach().requires_grad_() for a, b in pairwise(widths)),
    }


def leaves(given):
    return [*(given[n] for n in ("q", "k", "v", "alpha", "eta", "theta")), *given["weights"]]


def everything(out):
    return [out.y, out.surprise, *out.state.memory, *out.state.momentum]


def scalar(out):
    return sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in everything(out))


def same(got, want, **bounds):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **bounds)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("chunk_size", [1, 4, 11, 50])
def test_chunks_are_the_recurrence(depth, chunk_size):
    given = problem(depth)
    got, want = (f(**given, chunk_size=chunk_size) for f in (neural_memory, neural_memory_stepwise))
    same(everything(got), everything(want))
    same(*(torch.autograd.grad(scalar(out), leaves(given)) for out in (got, want)))


def test_one_chunk_is_the_closed_form():
    """No forgetting, no momentum, a linear memory: M_T = M₀ − 2 Σ θ kᵀ(k M₀ − v)."""
    given = problem(1)
    zero = torch.zeros_like(given["alpha"])
    out = neural_memory(**{**given, "alpha": zero, "eta": zero}, chunk_size=11)
    start = given["weights"][0]
    step = 2 * (given["theta"][..., None] * given["k"]).mT @ (given["k"] @ start - given["v"])
    torch.testing.assert_close(out.state.memory[0], start - step)


def test_forgetting_everything_and_learning_nothing():
    given = problem(2)
    gate = given["alpha"]
    forgetful = neural_memory(**{**given, "alpha": torch.ones_like(gate)}, chunk_size=4)
    same(forgetful.state.memory, forgetful.state.momentum)
    still = neural_memory(**{**given, "alpha": torch.zeros_like(gate), "theta": torch.zeros_like(gate)}, chunk_size=4)
    torch.testing.assert_close(still.y, forward(given["q"], Weights(tuple(w[None] for w in given["weights"]))))
    same(still.state.memory, [w.expand(2, *w.shape) for w in given["weights"]])


@pytest.mark.parametrize("depth", [1, 2])
def test_a_pair_written_again_and_again_is_remembered(depth):
    given = problem(depth, time=120, batch=1, heads=1)
    one = lambda t: torch.nn.functional.normalize(t[:, :, :1], dim=-1).expand(-1, -1, 120, -1)  # noqa: E731
    k, v, gate = one(given["k"]), one(given["v"]), torch.zeros(1, 1, 120).double()
    out = neural_memory(k, k, v, alpha=gate, eta=gate, theta=gate + 0.1, weights=given["weights"], chunk_size=1)
    assert out.surprise[0, 0, 0] > 0.1
    assert out.surprise[0, 0, -1] < 1e-6
    clamped = neural_memory(
        k, k, v, alpha=gate, eta=gate, theta=gate + 0.1, weights=given["weights"], chunk_size=1, max_grad_norm=1.0
    )
    assert clamped.surprise[0, 0, -1] < 1e-6


@pytest.mark.parametrize("cuts", [[4, 4, 3], [1] * 11, [5, 1, 5], [2, 9]])
@pytest.mark.parametrize("chunk_size", [1, 4, 6])
def test_calls_that_continue_a_state_are_one_call(cuts, chunk_size):
    given = problem(2)
    want = neural_memory(**given, chunk_size=chunk_size)
    state, ys = None, []
    pieces = zip(*(given[n].split(cuts, 2) for n in ("q", "k", "v", "alpha", "eta", "theta")), strict=True)
    for q, k, v, alpha, eta, theta in pieces:
        out = neural_memory(
            q, k, v, alpha=alpha, eta=eta, theta=theta, weights=given["weights"], chunk_size=chunk_size, state=state
        )
        state = MemoryState()
        state.load_state_dict(out.state.state_dict())
        ys.append(out.y)
    torch.testing.assert_close(torch.cat(ys, 2), want.y)
    same(state.memory + state.momentum, want.state.memory + want.state.momentum)
    assert state.position == want.state.position


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}])
def test_recomputing_changes_nothing(options):
    given = problem(2)
    plain, again = (neural_memory(**given, chunk_size=1, recompute=r, **options) for r in (False, True))
    same(everything(plain), everything(again))
    same(*(torch.autograd.grad(scalar(out), leaves(given)) for out in (plain, again)))


def test_masked_tokens_are_as_absent():
    given = problem(2)
    mask = torch.tensor([[True] * 7 + [False] * 4, [True] * 11])
    masked = neural_memory(**given, chunk_size=4, mask=mask)
    short = neural_memory(**{n: t[:, :, :7] if n != "weights" else t for n, t in given.items()}, chunk_size=4)
    torch.testing.assert_close(masked.y[0, :, :7], short.y[0])
    same(
        [t[0] for t in masked.state.memory + masked.state.momentum],
        [t[0] for t in short.state.memory + short.state.momentum],
    )
    middle = torch.ones(2, 11, dtype=torch.bool)
    middle[:, 4:8] = False  # a whole chunk
    without = {n: torch.cat([t[:, :, :4], t[:, :, 8:]], 2) if n != "weights" else t for n, t in given.items()}
    same(
        neural_memory(**given, chunk_size=4, mask=middle).state.memory,
        neural_memory(**without, chunk_size=4).state.memory,
    )


def test_clamp_bounds_every_step():
    given = problem(2)
    huge = neural_memory(**{**given, "v": given["v"] * 1e6}, chunk_size=4, max_grad_norm=1.0)
    assert max(m.norm(dim=(-2, -1)).max() for m in huge.state.momentum) < 0.1 / (1 - 0.9)
    rows = writes(given["k"], given["v"], Weights(tuple(w[None] for w in given["weights"])))
    tiny = neural_memory(**given, chunk_size=11, max_grad_norm=1e9)
    same(everything(tiny), everything(neural_memory(**given, chunk_size=11)))
    assert rows.loss.shape == (2, 2, 11)


def test_gradients_through_the_inner_loop():
    given = problem(2, time=5, dim=2, batch=1, heads=1)

    def run(q, k, v, alpha, eta, theta, *weights):
        out = neural_memory(
            q, k, v, alpha=alpha, eta=eta, theta=theta, weights=weights, chunk_size=2, max_grad_norm=2.0
        )
        return tuple(everything(out))

    assert torch.autograd.gradcheck(run, leaves(given), fast_mode=True)


def test_samples_have_memories_of_their_own_and_the_future_is_unseen():
    given = problem(2)
    want = neural_memory(**given, chunk_size=4)
    changed = {**given, "k": given["k"].detach().clone(), "v": given["v"].detach().clone()}
    changed["k"][0, :, 6] += 1
    changed["v"][0, :, 6] += 1
    got = neural_memory(**changed, chunk_size=4)
    torch.testing.assert_close(got.y[1], want.y[1], rtol=0, atol=0)
    torch.testing.assert_close(got.y[0, :, :6], want.y[0, :, :6], rtol=0, atol=0)
    assert (got.y[0, :, 6:] - want.y[0, :, 6:]).abs().amin((0, 2)).min() > 0


def test_half_precision_is_computed_in_float32():
    given = problem(2)
    half = {n: tuple(w.bfloat16() for w in t) if n == "weights" else t.bfloat16() for n, t in given.items()}
    wide = {n: tuple(w.float() for w in t) if n == "weights" else t.float() for n, t in half.items()}
    with torch.autocast("cpu", torch.bfloat16):
        got = neural_memory(**half, chunk_size=4)
    want = neural_memory(**wide, chunk_size=4)
    same(everything(got), everything(want))
    assert got.state.memory[0].dtype == torch.float32


def test_not_a_number_stays_in_its_sample():
    given = problem(2)
    spoiled = given["v"].detach().clone()
    spoiled[0, 0, 5] = float("nan")
    want, got = neural_memory(**given, chunk_size=4), neural_memory(**{**given, "v": spoiled}, chunk_size=4)
    torch.testing.assert_close(got.y[1], want.y[1])
    torch.testing.assert_close(got.y[0, :, :4], want.y[0, :, :4])  # the chunks before it
    assert got.y[0, 0, 5:].isnan().all()


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    given = problem(2)
    for change, message in (
        ({"k": given["k"][:, :, 1:]}, r"\(2, 2, 11, 5\), \(2, 2, 10, 5\)"),
        ({n: given[n][:, :, :0] for n in ("q", "k", "v", "alpha", "eta", "theta")}, "at least one time step"),
        ({"alpha": given["alpha"][:, :1]}, r"alpha is .*\(2, 2, 11\); got \(2, 1, 11\)"),
        ({"weights": given["weights"][:1]}, r"map 5 to 5; got \[\(2, 5, 7\)\]"),
        ({"weights": tuple(w[:1] for w in given["weights"])}, "in each of 2 heads"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"mask": torch.ones(2, 3, dtype=torch.bool)}, r"\(2, 11\); got \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            neural_memory(**(given | change))
    state = neural_memory(**given).state
    with pytest.raises(ValueError, match=r"\(2, 2\) \(batch, heads\); got \(1, 2\)"):
        neural_memory(**{n: t[:1] if n != "weights" else t for n, t in given.items()}, state=state)


OVERFLOWS = "the outer gradient through 4,096 tokens of ten and a hundred times unit size overflows float32"


@pytest.mark.slow
@pytest.mark.parametrize("largest", [1, pytest.param(100, marks=pytest.mark.xfail(strict=True, reason=OVERFLOWS))])
def test_stays_finite_at_depth_4_and_length_4096(largest):
    """200 training steps on random sequences with the defaults of the layer: of unit size, as a norm leaves them, and of sizes 0.1 to `largest`."""
    from core_attention.mechanisms.titans.memory import NeuralMemory

    torch.manual_seed(0)
    memory = NeuralMemory(8, depth=4)
    optimiser = torch.optim.AdamW(memory.parameters(), lr=1e-2)
    for _ in range(200):
        size = 1 if largest == 1 else 10 ** torch.randint(-1, 3, ()).item()
        x = torch.randn(1, 4096, 8) * size
        loss = (memory(x)[:, :-1] - x[:, 1:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in memory.parameters())
