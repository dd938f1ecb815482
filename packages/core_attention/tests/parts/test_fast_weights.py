"""The chunked routine against the recurrence that it stands for, one write after the other."""

import pytest
import torch

from core_attention.parts.fast_weights import carry, linear_attention, mixing, read


def gates(orders: int, n: int = 7, lead: tuple[int, ...] = (2, 3)):
    g = torch.Generator().manual_seed(orders)
    draw = lambda: torch.rand(*lead, n, dtype=torch.float64, generator=g)  # noqa: E731
    return draw(), [draw() for _ in range(orders)], [draw() for _ in range(orders + 1)]


def stepwise(q, k, u, keep, momentum, combine, bases):
    """The definition: every fast weight formed, token after token."""
    states, memory, ys = list(bases[:-1]), bases[-1], []
    for t in range(k.shape[-2]):
        at = lambda gate: gate[..., t, None, None]  # noqa: B023, E731
        stages = [k[..., t, :, None] * u[..., t, None, :]]
        for j, gate in enumerate(momentum):
            states[j] = at(gate) * states[j] + stages[-1]
            stages.append(states[j])
        update = stages[-1] if combine is None else sum(at(c) * s for c, s in zip(combine, stages, strict=True))
        memory = at(keep) * memory + update
        ys.append((q[..., t, None, :] @ memory).squeeze(-2))
    return torch.stack(ys, -2), states, memory


@pytest.mark.parametrize("orders", [0, 1, 3])
@pytest.mark.parametrize("combined", [False, True])
def test_read_and_carry_equal_the_recurrence(orders, combined):
    keep, momentum, combine = gates(orders)
    combine = combine if combined else None
    q, k, u = torch.randn(2, 3, 7, 4).double(), torch.randn(2, 3, 7, 4).double(), torch.randn(2, 3, 7, 5).double()
    bases = [torch.randn(2, 3, 4, 5).double() for _ in range(orders + 1)]
    y, states, memory = stepwise(q, k, u, keep, momentum, combine, bases)
    mix = mixing(keep, momentum, combine)
    torch.testing.assert_close(read(q, k, u, mix.memory, bases), y)
    torch.testing.assert_close(carry(k, u, mix.memory[..., -1, :], bases), memory)
    for row, state in zip(mix.momentum, states, strict=True):
        torch.testing.assert_close(carry(k, u, row, bases), state)


def test_closed_form_of_the_weights():
    """w[t, i] = Σ_{j=i..t} Π_{r>j} κ_r Π_{r=i+1..j} η_r, b_t = Π κ, c_t = Σ_r Π_{j>r} κ_j Π_{j≤r} η_j."""
    keep, (eta,), _ = gates(1, lead=())
    memory = mixing(keep, [eta]).memory
    for t in range(7):
        c = sum(keep[r + 1 : t + 1].prod() * eta[: r + 1].prod() for r in range(t + 1))
        w = [sum(keep[j + 1 : t + 1].prod() * eta[i + 1 : j + 1].prod() for j in range(i, t + 1)) for i in range(t + 1)]
        later = [torch.zeros(()).double()] * (6 - t)
        torch.testing.assert_close(memory[t], torch.stack([c, keep[: t + 1].prod(), *w, *later]))


def test_gates_of_zero_and_one_have_gradients():
    keep = torch.tensor([1.0, 0.0, 0.5, 0.0]).double().requires_grad_()
    eta = torch.tensor([0.0, 0.0, 1.0, 0.3]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mixing(a, [b]).memory, (keep, eta))


def test_half_precision_gates_are_mixed_in_float32():
    assert mixing(torch.rand(5, dtype=torch.bfloat16)).memory.dtype == torch.float32


def test_missing_bases_are_zero():
    keep, momentum, _ = gates(1)
    k, u = torch.randn(2, 3, 7, 4).double(), torch.randn(2, 3, 7, 5).double()
    memory, zero = torch.randn(2, 3, 4, 5).double(), torch.zeros(2, 3, 4, 5).double()
    mix = mixing(keep, momentum).memory
    last = mix[..., -1, :]
    torch.testing.assert_close(read(k, k, u, mix, (None, memory)), read(k, k, u, mix, (zero, memory)))
    torch.testing.assert_close(carry(k, u, last, (None, memory)), carry(k, u, last, (zero, memory)))


@pytest.mark.parametrize("chunk_size", [1, 4, 50])
def test_causal_linear_attention_is_masked_attention_without_softmax(chunk_size):
    q, k = torch.rand(2, 3, 11, 4).double(), torch.rand(2, 3, 11, 4).double()
    v = torch.randn(2, 3, 11, 5).double()
    weights = (q @ k.mT).tril()
    torch.testing.assert_close(linear_attention(q, k, v, causal=True, chunk_size=chunk_size), weights @ v / 11)
    got = linear_attention(q, k, v, normalise=(q, k), causal=True, chunk_size=chunk_size, eps=0.0)
    torch.testing.assert_close(got, weights @ v / weights.sum(-1, keepdim=True))


def test_bidirectional_linear_attention():
    q, k, v = torch.rand(2, 9, 4).double(), torch.rand(2, 11, 4).double(), torch.randn(2, 11, 5).double()
    numerator, denominator = torch.rand(2, 9, 4).double(), torch.rand(2, 11, 4).double()
    want = (q @ k.mT) @ v / 11 / ((numerator @ denominator.mT).mean(-1, keepdim=True) + 1e-3)
    torch.testing.assert_close(linear_attention(q, k, v, normalise=(numerator, denominator), eps=1e-3), want)


def test_half_precision_does_not_overflow_on_long_sequences():
    n = 70_000
    q, k, v = torch.ones(1, 4), torch.ones(n, 4), torch.ones(n, 4)
    y = linear_attention(q.half(), k.half(), v.half())
    torch.testing.assert_close(y, torch.full_like(y, 4.0), rtol=1e-2, atol=0)


def test_errors_name_both_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3, 7\).*\(2, 3, 6\)"):
        mixing(torch.rand(2, 3, 7), [torch.rand(2, 3, 6)])
    with pytest.raises(ValueError, match="1 or 2; got 3"):
        mixing(torch.rand(7), [torch.rand(7)], [torch.rand(7)] * 3)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(6, 4\)"):
        linear_attention(torch.rand(5, 3), torch.rand(6, 4), torch.rand(6, 4))
    with pytest.raises(ValueError, match="chunk_size"):
        linear_attention(torch.rand(5, 3), torch.rand(5, 3), torch.rand(5, 3), chunk_size=0)
