"""One token at a time at little more than the cost of reading the memory once: what is written waits as rows until its chunk ends.

Inside a chunk the gradients are taken at one memory, so the memory after token t is a combination of the memory M and momentum S from which the
decoding began and of the rows (hᵢ, uᵢ) written since (`core_attention.parts.fast_weights`): its coefficients follow

    s ← η_t s + e_t,    m ← (1 − α_t) m + s,

and y_t = M_t(q_t) is read from M, S and the rows. No weight set is written until `settle` folds the rows in, once a chunk.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu

from core_attention.mechanisms.titans import network
from core_attention.parts.cache import Cache

BASES = 2  # columns of the coefficients before those of the rows: momentum, memory


@dataclass
class Projection:
    """The layers that a token passes first, joined into one product.

    Attributes:
        weight, bias: (outputs of all layers, dim) and (outputs of all layers).
    """

    weight: Tensor
    bias: Tensor


@dataclass
class Pending(Cache):
    """Tokens that are written and not yet folded into the weight sets.

    Attributes:
        inputs, updates: rows of each matrix, (batch, heads, room, d_l) and (batch, heads, room, d_{l+1}); the first `count` hold tokens.
        memory, momentum: coefficients of the memory and of the momentum over (momentum, memory, rows), (batch, heads, 1, 2 + room).
        count: tokens that wait.
        projection: of the layer, made anew for every chunk; it belongs to no sample and is neither reordered nor saved.
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
    q: Float[Tensor, "batch heads 1 dim"],
    k: Float[Tensor, "batch heads 1 dim"],
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
        q, k, v: float32 or wider.
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
        pending.open(k, memory, room)
    assert pending.inputs is not None
    assert pending.updates is not None
    assert pending.memory is not None
    assert pending.momentum is not None
    lead, place, end = q.shape[:2], pending.count, pending.count + 1
    alpha, eta, theta = gates[..., None]
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    # at most of a chunk's tokens the memory is the reference, and its first matrix is read once for both
    together = torch.bmm(torch.cat([k, q], 1), memory[0].flatten(0, 1)) if reference is memory else None
    of_key = None if together is None else together[:, :1]
    rows = _writes(k, v, [w.flatten(0, 1) for w in reference], of_key)
    factors = _step_sizes(rows, theta.flatten(0, 1), max_grad_norm)
    for i, (h, update) in enumerate(zip(rows.inputs, rows.updates, strict=True)):
        pending.inputs[i][:, :, place] = h.view(*lead, -1)
        torch.mul(update.view(*lead, -1), factors[i].view(*lead, 1), out=pending.updates[i].select(2, place))
    pending.count = end
    pending.momentum.mul_(eta)
    pending.momentum[..., BASES + place] = 1
    pending.memory.mul_(1 - alpha).add_(pending.momentum)
    of_momentum, of_memory, weights = pending.memory.flatten(0, 1)[..., : BASES + end].split([1, 1, end], -1)
    y = q
    for i in range(len(memory)):
        h = gelu(y) if i else y
        weighted = torch.bmm(h, pending.inputs[i].flatten(0, 1)[:, :end].mT).mul_(weights)
        y = torch.bmm(weighted, pending.updates[i].flatten(0, 1)[:, :end])
        y.baddbmm_(h * of_momentum, momentum[i].flatten(0, 1))
        if i == 0 and together is not None:
            y.addcmul_(together[:, 1:], of_memory)
        else:
            y.baddbmm_(h * of_memory, memory[i].flatten(0, 1))
    return y.unflatten(0, lead), rows.loss.unflatten(0, lead)


def _writes(k: Tensor, v: Tensor, matrices: list[Tensor], first: Tensor | None) -> network.Writes:
    """`network.writes` of one token, (rows, 1, dim), in as few operations as it takes; `first` is k times the first matrix if it is known."""
    inputs, before = [k], []
    for i, matrix in enumerate(matrices):
        before.append(torch.bmm(inputs[-1], matrix) if i or first is None else first)
        if i < len(matrices) - 1:
            inputs.append(gelu(before[-1]))
    error = before[-1] - v
    updates = [error * -2]  # carries the minus sign of the descent
    for i in range(len(matrices) - 1, 0, -1):
        updates.append(torch.ops.aten.gelu_backward(torch.bmm(updates[-1], matrices[i].mT), before[i - 1]))
    return network.Writes(tuple(inputs), tuple(reversed(updates)), None, error.square().sum(-1))


def _step_sizes(rows: network.Writes, theta: Tensor, bound: float | None) -> Tensor | list[Tensor]:
    """θ, times the soft clamp of the token's gradient of each matrix: the norm of an outer product is the product of the norms."""
    if bound is None:
        return [theta] * len(rows.updates)
    norm = (_norms(rows.inputs) * _norms(rows.updates)).square_().add_(1e-20).sqrt_()
    return (norm / bound).tanh_().mul_(bound).div_(norm).mul_(theta)


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
