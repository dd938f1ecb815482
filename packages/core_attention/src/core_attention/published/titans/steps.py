"""How the public memory writes and reads a run of chunks whose gradients are taken at one reference weight set (`titans_public`)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from core_attention.mechanisms.titans import network
from core_attention.mechanisms.titans.network import Weights, Writes
from core_attention.parts.fast_weights import mixing

READ_TOKENS = 256  # queries read together; later ones see more writes, so a run is not computed as a full square


class Stored(NamedTuple):
    """What a run writes, and its gates.

    Attributes:
        k, v: (batch, heads, chunks · per_chunk, dim).
        rate: step size of each token, 0 where masked, (batch, heads, chunks · per_chunk).
        keep: 1 − α of each chunk, (batch, heads, chunks).
        momentum: η of each chunk, one an order.
        combine: share of each order (the bare update first, if it takes part) in what is added to the memory.
        modulation: factor of each chunk's gradient of each tensor: matrices, then gain.
        offset: added to the reference weights of each chunk, (batch, heads, chunks, …).
    """

    k: Tensor
    v: Tensor
    rate: Tensor
    keep: Tensor
    momentum: tuple[Tensor, ...]
    combine: tuple[Tensor, ...] | None
    modulation: tuple[Tensor, ...] | None
    offset: Weights | None

    def to(self, dtype: torch.dtype) -> "Stored":
        """The same in another dtype."""
        several = lambda ts: None if ts is None else tuple(t.to(dtype) for t in ts)  # noqa: E731
        return Stored(
            self.k.to(dtype),
            self.v.to(dtype),
            self.rate.to(dtype),
            self.keep.to(dtype),
            several(self.momentum) or (),
            several(self.combine),
            several(self.modulation),
            None if self.offset is None else self.offset.map(lambda t: t.to(dtype)),
        )

    def chunks(self, begin: int, end: int) -> "Stored":
        """The chunks begin … end − 1 of this."""
        per_chunk = self.rate.shape[-1] // self.keep.shape[-1]
        gate = lambda t: t[..., begin:end]  # noqa: E731
        token = slice(begin * per_chunk, end * per_chunk)
        return Stored(
            self.k[..., token, :],
            self.v[..., token, :],
            self.rate[..., token],
            gate(self.keep),
            tuple(map(gate, self.momentum)),
            None if self.combine is None else tuple(map(gate, self.combine)),
            None if self.modulation is None else tuple(map(gate, self.modulation)),
            None if self.offset is None else self.offset.map(lambda t: t[:, :, begin:end]),
        )


class State(NamedTuple):
    """Memory, and the momentum of each order (None: zero)."""

    memory: Weights
    momentum: tuple[Weights | None, ...]


def gradients(stored: Stored, reference: Weights, max_grad_norm: float | None) -> Writes:
    """The rows that the run writes: negative gradients at `reference`, times step sizes, clamp and modulation."""
    chunks = stored.keep.shape[-1]
    k, v = stored.k, stored.v
    if stored.offset is None:
        rows = network.writes(k, v, reference, mean=True)
    else:
        each = reference.map(lambda w, offset: w.unsqueeze(2) + offset, stored.offset)
        rows = network.writes(k.unflatten(2, (chunks, -1)), v.unflatten(2, (chunks, -1)), each, mean=True)
        join = lambda t: t.flatten(2, 3)  # noqa: E731
        gain = None if rows.gain is None else join(rows.gain)
        rows = Writes(tuple(map(join, rows.inputs)), tuple(map(join, rows.updates)), gain, join(rows.loss))
    tensors = len(rows.updates) + (rows.gain is not None)
    rows = rows.scaled([stored.rate] * tensors)
    factors = stored.modulation
    if max_grad_norm is not None:
        clamps = _clamps(rows, chunks, max_grad_norm)
        factors = clamps if factors is None else [a * b for a, b in zip(clamps, factors, strict=True)]
    if factors is not None:
        per_chunk = k.shape[-2] // chunks
        rows = rows.scaled([factor.repeat_interleave(per_chunk, -1) for factor in factors])
    return rows


def _clamps(rows: Writes, chunks: int, bound: float) -> list[Tensor]:
    """The published clamp |g| → (tanh(2|g|/m) + 1) m/2 of each chunk's gradient, as a factor; 0 where the gradient is 0.

    |Σᵢ hᵢᵀuᵢ|² = Σᵢⱼ (hᵢ·hⱼ)(uᵢ·uⱼ): the gradient itself is not formed.
    """
    squares = []
    for h, update in zip(rows.inputs, rows.updates, strict=True):
        h, update = h.unflatten(-2, (chunks, -1)), update.unflatten(-2, (chunks, -1))
        squares.append(((h @ h.mT) * (update @ update.mT)).sum((-2, -1)))
    if rows.gain is not None:
        squares.append(rows.gain.unflatten(-2, (chunks, -1)).sum(-2).square().sum(-1))
    norms = [square.clamp_min(1e-24).sqrt() for square in squares]
    return [(torch.tanh(norm / (bound / 2)) + 1) * (bound / 2) / norm for norm in norms]


class Reads(NamedTuple):
    """Query t of a run has seen (first + t) // chunk_size of its chunks."""

    first: int
    chunk_size: int

    def seen(self, query: int) -> int:
        return (self.first + query) // self.chunk_size

    def after(self, chunks: int) -> int:
        """The number of queries that have seen fewer than this many chunks."""
        return max(0, chunks * self.chunk_size - self.first)


def run_linear(q: Tensor, reads: Reads, stored: Stored, rows: Writes, state: State) -> tuple[Tensor, Tensor]:
    """Reads a run whose weights are linear in its gradients, without forming any weight set.

    Args:
        q: (batch, heads, tokens, dim).
        reads: what each query has seen.

    Returns:
        y, and the coefficients of the weights after 0 … chunks chunks over (momentum, memory, stored tokens), followed by those of the
        momentum of each order after the last chunk: what `carried` and `weight_sets` make weight sets of.
    """
    per_chunk = stored.rate.shape[-1] // stored.keep.shape[-1]
    orders, count = len(stored.momentum), q.shape[-2]
    mix = mixing(stored.keep, stored.momentum, stored.combine)
    untouched = pad(torch.ones_like(stored.keep[..., :1, None]), (orders, stored.keep.shape[-1])).to(mix.memory.dtype)
    all_rows = torch.cat([untouched, mix.memory, *(row[..., None, :] for row in mix.momentum)], -2)
    bases, chunk_columns = all_rows.split([orders + 1, stored.keep.shape[-1]], -1)
    all_rows = torch.cat([bases, chunk_columns.repeat_interleave(per_chunk, -1)], -1)
    ys = []
    for start in range(0, count, READ_TOKENS):
        stop = min(start + READ_TOKENS, count)
        seen = reads.seen(stop - 1) * per_chunk
        row = (torch.arange(start, stop, device=q.device) + reads.first) // reads.chunk_size
        coefficients = all_rows[..., : orders + 1 + seen].index_select(-2, row)
        ys.append(network.read(q[..., start:stop, :], rows.first(seen), coefficients, (*state.momentum, state.memory)))
    return (torch.cat(ys, -2) if ys else q), all_rows


def carried(all_rows: Tensor, rows: Writes, state: State, chunks: int) -> State:
    """The state after a run of `run_linear`."""
    bases = (*state.momentum, state.memory)
    momentum = tuple(network.carry(rows, all_rows[..., chunks + 1 + j, :], bases) for j in range(len(state.momentum)))
    return State(network.carry(rows, all_rows[..., chunks, :], bases), momentum)


def weight_sets(all_rows: Tensor, rows: Writes, state: State, chunks: int) -> list[Weights]:
    """The weights before each chunk of a run of `run_linear`."""
    bases = (*state.momentum, state.memory)
    return [network.carry(rows, all_rows[..., j, :], bases) for j in range(chunks)]


def run_spectral(
    q: Tensor, reads: Reads, stored: Stored, rows: Writes, state: State
) -> tuple[Tensor, State, list[Weights]]:
    """Reads a run whose updates are orthogonalised: every chunk's weights are formed, one after the other.

    Returns:
        y, the state after the run, and the weights before each chunk.
    """
    chunks = stored.keep.shape[-1]
    per_chunk = stored.rate.shape[-1] // chunks
    memory, momentum = state.memory, list(state.momentum)
    ys, sets = [], []
    for chunk in range(chunks):
        query = q[..., reads.after(chunk) : reads.after(chunk + 1), :]
        sets.append(memory)
        if query.shape[-2]:
            ys.append(network.forward(query, memory))
        token = slice(chunk * per_chunk, (chunk + 1) * per_chunk)
        stages = [
            Weights(
                tuple(
                    h[..., token, :].mT @ update[..., token, :]
                    for h, update in zip(rows.inputs, rows.updates, strict=True)
                ),
                None if rows.gain is None else rows.gain[..., token, :].sum(-2),
            )
        ]
        for order, gate in enumerate(stored.momentum):
            past = momentum[order]
            now = (
                stages[-1]
                if past is None
                else past.map(lambda s, new, g=gate[..., chunk]: _times(g, s) + new, stages[-1])
            )
            momentum[order] = now
            stages.append(now)
        update = stages[-1]
        if stored.combine is not None:
            mixed = stages[len(stages) - len(stored.combine) :]
            shares = [share[..., chunk] for share in stored.combine]
            update = mixed[0].map(
                lambda *parts, shares=shares: torch.stack(
                    [_times(g, p) for g, p in zip(shares, parts, strict=True)]
                ).sum(0),
                *mixed[1:],
            )
        update = update._replace(matrices=tuple(map(orthogonalised, update.matrices)))
        memory = memory.map(lambda m, new, g=stored.keep[..., chunk]: _times(g, m) + new, update)
    ys.append(network.forward(q[..., reads.after(chunks) :, :], memory))
    return torch.cat(ys, -2), State(memory, tuple(momentum)), sets


def _times(gate: Tensor, tensor: Tensor) -> Tensor:
    """A gate (batch, heads) times a tensor with further axes."""
    return (
        gate.reshape(*gate.shape, *[1] * (tensor.ndim - gate.ndim)) * tensor
        if tensor.ndim > gate.ndim
        else gate * tensor
    )


def orthogonalised(matrix: Tensor, coefficients: Sequence[float] = (3.4445, -4.7750, 2.0315), steps: int = 5) -> Tensor:
    """Newton–Schulz iteration towards the nearest orthogonal matrix, on the smaller side (the Muon optimiser's)."""
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT
    x = x / x.square().sum((-2, -1), keepdim=True).clamp_min(1e-24).sqrt().clamp_min(1e-7)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
