"""One token at a time at little more than the cost of reading the memory once: what is written waits as rows until its chunk ends.

Inside a chunk the gradients are taken at one memory, so the memory after token t is a combination of the memory M and momentum S from which the
decoding began and of the rows (hᵢ, uᵢ) written since (`core_attention.parts.fast_weights`): its coefficients follow

    s ← η_t s + e_t,    m ← (1 − α_t) m + s,

and y_t = M_t(q_t) is read from M, S and the rows. No weight set is written until `settle` folds the rows in, once a chunk.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core_attention.mechanisms.titans import network
from core_attention.mechanisms.titans.projection import Projection
from core_attention.parts.cache import Cache

BASES = 2  # columns of the coefficients before those of the rows: momentum, memory


@dataclass
class Pending(Cache):
    """Tokens that are written and not yet folded into the weight sets.

    Attributes:
        inputs, updates: rows of each matrix, (batch, heads, room, d_l) and (batch, heads, room, d_{l+1}); the first `count` hold tokens.
        memory, momentum: coefficients of the memory and of the momentum over (momentum, memory, rows), (batch, heads, 1, 2 + room).
        count: tokens that wait.
        projection: of the layer's projections, made anew for every chunk; it belongs to no sample and is neither reordered nor saved.
    """

    inputs: tuple[Tensor, ...] | None = None
    updates: tuple[Tensor, ...] | None = None
    memory: Tensor | None = None
    momentum: Tensor | None = None
    count: int = 0
    projection: Projection | None = None

    def open(self, k: Tensor, matrices: tuple[Tensor, ...], room: int) -> None:
        """Room for the rows of `room` tokens; the coefficients say that memory and momentum are as they were."""
        lead = k.shape[:2]
        self.inputs = tuple(k.new_empty(*lead, room, w.shape[-2]) for w in matrices)
        self.updates = tuple(k.new_empty(*lead, room, w.shape[-1]) for w in matrices)
        self.memory, self.momentum = (k.new_zeros(*lead, 1, BASES + room) for _ in range(2))
        self.momentum[..., 0], self.memory[..., 1] = 1, 1


def write_and_read(
    directions: Float[Tensor, "batch heads 2 dim"],
    v: Float[Tensor, "batch heads 1 dim"],
    gates: Float[Tensor, "3 batch heads 1"],
    *,
    memory: tuple[Tensor, ...],
    momentum: tuple[Tensor, ...],
    reference: tuple[Tensor, ...],
    pending: Pending,
    room: int,
    max_grad_norm: float | None,
) -> tuple[Float[Tensor, "batch heads 1 dim"], Float[Tensor, "batch heads 1"]]:
    """Writes one token into `pending` and reads the memory after it; no gradient is kept.

    Args:
        directions: the key and the query, float32 or wider, as all that is given.
        v: the value.
        gates: α, η and θ of the token.
        memory, momentum: the weight sets from which the rows in `pending` went on.
        reference: where the gradient is taken.
        pending: updated in place.
        room: rows to make room for where `pending` is empty: the tokens that are left of the chunk.
        max_grad_norm: as in `neural_memory`.

    Returns:
        y = M_t(q), and the loss of the token at `reference`.
    """
    if not pending.count:
        pending.open(directions, memory, room)
    at_memory = reference is memory  # at most of a chunk's tokens
    assert pending.inputs is not None
    assert pending.updates is not None
    assert pending.memory is not None
    assert pending.momentum is not None
    lead, place, end = v.shape[:2], pending.count, pending.count + 1
    alpha, eta, theta = gates[..., None]
    directions, v = directions.flatten(0, 1), v.flatten(0, 1)
    k, q = directions[:, :1], directions[:, 1:]
    memory, momentum = _joined(memory), _joined(momentum)
    reference = memory if at_memory else _joined(reference)

    pending.momentum.mul_(eta)
    pending.momentum.select(3, BASES + place).fill_(1)
    # M ← M − α M + S
    torch.addcmul(pending.memory, pending.memory, alpha, value=-1, out=pending.memory).add_(pending.momentum)
    coefficients = pending.memory.flatten(0, 1)
    of_momentum, of_memory, of_rows = (
        coefficients[..., :1],
        coefficients[..., 1:2],
        coefficients[..., BASES : BASES + end],
    )

    # each matrix is read where it is still near from the last time: first both rows at once, then the descent, then what reads behind it
    before = torch.bmm(directions if at_memory else q, memory[0])
    y = torch.bmm(q * of_momentum, momentum[0]).addcmul_(before[:, -1:], of_memory)
    rows = _writes(k, v, reference, before[:, :1] if at_memory else None)
    factors = _step_sizes(rows, theta.flatten(0, 1), max_grad_norm)
    h = q
    for i, (row, update) in enumerate(zip(rows.inputs, rows.updates, strict=True)):
        inputs, updates = pending.inputs[i], pending.updates[i]
        inputs.select(2, place).copy_(row.view(*lead, -1))
        torch.mul(update.view(*lead, -1), factors[i].view(*lead, 1), out=updates.select(2, place))
        if i:
            h = y * _normal_cdf(y)
            y = torch.bmm(h * of_memory, memory[i]).baddbmm_(h * of_momentum, momentum[i])
        weighted = torch.bmm(h, inputs.flatten(0, 1)[:, :end].mT).mul_(of_rows)
        y.baddbmm_(weighted, updates.flatten(0, 1)[:, :end])
    pending.count = end
    return y.unflatten(0, lead), rows.loss.unflatten(0, lead)


def _joined(matrices: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Batch and heads as one axis."""
    return tuple(w.flatten(0, 1) for w in matrices)


def _normal_cdf(x: Tensor) -> Tensor:
    """Φ, of which GELU is x Φ(x): torch's own GELU of one row takes as long as a matrix."""
    return torch.erf(x * 0.5**0.5).add_(1).mul_(0.5)


def _writes(k: Tensor, v: Tensor, matrices: tuple[Tensor, ...], first: Tensor | None) -> network.Writes:
    """`network.writes` of one token, (rows, 1, dim), in as few operations as it takes; `first` is k times the first matrix if it is known."""
    inputs, slopes = [k], []
    for i, matrix in enumerate(matrices):
        before = torch.bmm(inputs[-1], matrix) if i or first is None else first
        if i < len(matrices) - 1:
            cdf = _normal_cdf(before)
            inputs.append(before * cdf)
            density = before.square().mul_(-0.5).exp_()
            slopes.append(cdf.addcmul_(before, density, value=(2 * math.pi) ** -0.5))
    error = before - v
    updates = [error * -2]  # carries the minus sign of the descent
    for i in range(len(matrices) - 1, 0, -1):
        updates.append(torch.bmm(updates[-1], matrices[i].mT).mul_(slopes[i - 1]))
    return network.Writes(tuple(inputs), tuple(reversed(updates)), None, error.square().sum(-1))


def _step_sizes(rows: network.Writes, theta: Tensor, bound: float | None) -> Tensor | list[Tensor]:
    """θ, times the soft clamp of the token's gradient of each matrix: the norm of an outer product is the product of the norms."""
    if bound is None:
        return [theta] * len(rows.updates)
    relative = (_norms(rows.inputs) * _norms(rows.updates)).square_().add_(1e-20).sqrt_().div_(bound)
    return relative.tanh().div_(relative).mul_(theta)


def _norms(rows: tuple[Tensor, ...]) -> Tensor:
    """The norms of one row of each matrix, (matrices, rows, 1, 1)."""
    return torch.stack([torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in rows])


def settle(
    memory: tuple[Tensor, ...], momentum: tuple[Tensor, ...], pending: Pending
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Memory and momentum after the tokens that wait, which then wait no longer.

    Returns:
        the matrices of the memory, and those of the momentum.
    """
    if not pending.count or pending.inputs is None or pending.updates is None:
        return memory, momentum
    assert pending.memory is not None
    assert pending.momentum is not None
    of_memory, of_momentum = (row[..., : BASES + pending.count] for row in (pending.memory, pending.momentum))
    memory_after, momentum_after = [], []
    for h, u, old_momentum, old_memory in zip(pending.inputs, pending.updates, momentum, memory, strict=True):
        memory_after.append(_folded(h, u, of_memory, old_momentum, old_memory))
        momentum_after.append(_folded(h, u, of_momentum, old_momentum, old_memory))
    pending.reset()
    return tuple(memory_after), tuple(momentum_after)


def _folded(h: Tensor, u: Tensor, row: Tensor, momentum: Tensor, memory: Tensor) -> Tensor:
    """The weight set that a row of coefficients describes. One that narrows is kept by columns, which a row reads in one run."""
    of_momentum, of_memory, weights = row.split([1, 1, row.shape[-1] - BASES], -1)
    count = weights.shape[-1]
    h, u = h[:, :, :count] * weights.mT, u[:, :, :count]
    if h.shape[-1] > u.shape[-1]:
        return (u.mT @ h).add_(momentum.mT * of_momentum).add_(memory.mT * of_memory).mT
    return (h.mT @ u).add_(momentum * of_momentum).add_(memory * of_memory)
