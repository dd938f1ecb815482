"""How the public memory writes and reads a run of chunks whose gradients are taken at one reference weight set (`titans_public`)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from core_attention.mechanisms.titans import network
from core_attention.mechanisms.titans.network import Weights, Writes
from core_attention.parts.fast_weights import mixing

_Change = Callable[[Tensor], Tensor]
READ_TOKENS = 256  # queries read together; later ones see more writes, so a run is not computed as a full square


class Stored(NamedTuple):
    """What a run writes, and its gates.

    Attributes:
        k, v: (batch, heads, chunks · per_chunk, dim).
        rate: step size of each token, 0 where masked, (batch, heads, chunks · per_chunk).
        keep: 1 − α of each chunk, (batch, heads, chunks).
        momentum: η of each chunk, one per order.
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
        convert = lambda t: t.to(dtype)  # noqa: E731
        return self._map(tokens=convert, token_gates=convert, chunk_gates=convert, offset=convert)

    def chunks(self, begin: int, end: int) -> "Stored":
        """The chunks begin … end − 1 of this."""
        per_chunk = self.rate.shape[-1] // self.keep.shape[-1]
        span = slice(begin * per_chunk, end * per_chunk)
        return self._map(
            tokens=lambda t: t[..., span, :],
            token_gates=lambda t: t[..., span],
            chunk_gates=lambda t: t[..., begin:end],
            offset=lambda t: t[:, :, begin:end],
        )

    def _map(self, *, tokens: _Change, token_gates: _Change, chunk_gates: _Change, offset: _Change) -> "Stored":
        """Every tensor changed by the function of its kind; what is absent stays absent."""
        combine, modulation, moved = self.combine, self.modulation, self.offset
        if combine is not None:
            combine = tuple(map(chunk_gates, combine))
        if modulation is not None:
            modulation = tuple(map(chunk_gates, modulation))
        if moved is not None:
            moved = moved.map(offset)
        return Stored(
            tokens(self.k),
            tokens(self.v),
            token_gates(self.rate),
            chunk_gates(self.keep),
            tuple(map(chunk_gates, self.momentum)),
            combine,
            modulation,
            moved,
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
        # each chunk has a reference of its own: chunks become an axis of the batch, (batch, heads, chunks, …), and are joined again
        by_chunk = reference.map(lambda w, offset: w.unsqueeze(2) + offset, stored.offset)
        rows = network.writes(k.unflatten(2, (chunks, -1)), v.unflatten(2, (chunks, -1)), by_chunk, mean=True)
        join_chunks = lambda t: t.flatten(2, 3)  # noqa: E731
        inputs, updates = tuple(map(join_chunks, rows.inputs)), tuple(map(join_chunks, rows.updates))
        gain = None if rows.gain is None else join_chunks(rows.gain)
        rows = Writes(inputs, updates, gain, join_chunks(rows.loss))
    tensors = len(rows.updates) + (rows.gain is not None)
    rows = rows.scaled([stored.rate] * tensors)
    factors = stored.modulation
    if max_grad_norm is not None:
        clamps = _clamps(rows, chunks, max_grad_norm)
        if factors is None:
            factors = clamps
        else:
            factors = [clamp * factor for clamp, factor in zip(clamps, factors, strict=True)]
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
    clamps = []
    for square in squares:
        norm = square.clamp_min(1e-24).sqrt()
        clamps.append((torch.tanh(norm / (bound / 2)) + 1) * (bound / 2) / norm)
    return clamps


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
    chunks = stored.keep.shape[-1]
    mix = mixing(stored.keep, stored.momentum, stored.combine)
    # one row per weight set: before any chunk it is the memory itself; then after each chunk, then the momenta
    untouched = pad(torch.ones_like(stored.keep[..., :1, None]), (orders, chunks)).to(mix.memory.dtype)
    momenta = [row[..., None, :] for row in mix.momentum]
    all_rows = torch.cat([untouched, mix.memory, *momenta], -2)
    # the tokens of a chunk are written together, and so share its column
    bases, chunk_columns = all_rows.split([orders + 1, chunks], -1)
    all_rows = torch.cat([bases, chunk_columns.repeat_interleave(per_chunk, -1)], -1)
    ys = []
    for start in range(0, count, READ_TOKENS):
        stop = min(start + READ_TOKENS, count)
        written = reads.seen(stop - 1) * per_chunk  # tokens that the last of these queries has seen; later ones weigh 0
        row = (torch.arange(start, stop, device=q.device) + reads.first) // reads.chunk_size
        coefficients = all_rows[..., : orders + 1 + written].index_select(-2, row)
        query = q[..., start:stop, :]
        ys.append(network.read(query, rows.first(written), coefficients, (*state.momentum, state.memory)))
    if not ys:
        return q, all_rows
    return torch.cat(ys, -2), all_rows


def carried(all_rows: Tensor, rows: Writes, state: State, chunks: int) -> State:
    """The state after a run of `run_linear`."""
    bases = (*state.momentum, state.memory)
    memory = network.carry(rows, all_rows[..., chunks, :], bases)
    momentum = [network.carry(rows, all_rows[..., chunks + 1 + j, :], bases) for j in range(len(state.momentum))]
    return State(memory, tuple(momentum))


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
        # the bare update, then the momentum of each order, which gathers the one before it
        stages = [_sum_writes(rows, slice(chunk * per_chunk, (chunk + 1) * per_chunk))]
        for order, gate in enumerate(stored.momentum):
            accumulated = _accumulate(momentum[order], gate[..., chunk], stages[-1])
            momentum[order] = accumulated
            stages.append(accumulated)
        update = stages[-1]
        if stored.combine is not None:
            shares = [share[..., chunk] for share in stored.combine]
            update = _mix(stages[-len(shares) :], shares)
        # the matrices only; the gain is a vector
        update = update._replace(matrices=tuple(map(orthogonalised, update.matrices)))
        memory = _accumulate(memory, stored.keep[..., chunk], update)
    ys.append(network.forward(q[..., reads.after(chunks) :, :], memory))
    return torch.cat(ys, -2), State(memory, tuple(momentum)), sets


def _sum_writes(rows: Writes, span: slice) -> Weights:
    """The update Σ hᵀu that the tokens of `span` write together, for each tensor of the memory."""
    pairs = zip(rows.inputs, rows.updates, strict=True)
    matrices = [h[..., span, :].mT @ update[..., span, :] for h, update in pairs]
    gain = None if rows.gain is None else rows.gain[..., span, :].sum(-2)
    return Weights(tuple(matrices), gain)


def _accumulate(past: Weights | None, gate: Tensor, update: Weights) -> Weights:
    """gate · past + update; the update where nothing is past."""
    if past is None:
        return update
    return past.map(lambda old, new: _times(gate, old) + new, update)


def _mix(stages: Sequence[Weights], shares: Sequence[Tensor]) -> Weights:
    """Σ share · stage."""

    def weighted_sum(*parts: Tensor) -> Tensor:
        return torch.stack([_times(share, part) for share, part in zip(shares, parts, strict=True)]).sum(0)

    return stages[0].map(weighted_sum, *stages[1:])


def _times(gate: Tensor, tensor: Tensor) -> Tensor:
    """A gate (batch, heads) times a tensor with further axes."""
    further = [1] * (tensor.ndim - gate.ndim)
    return gate.reshape(*gate.shape, *further) * tensor


def orthogonalised(matrix: Tensor, coefficients: Sequence[float] = (3.4445, -4.7750, 2.0315), steps: int = 5) -> Tensor:
    """Newton–Schulz iteration towards the nearest orthogonal matrix, on the smaller side (the Muon optimiser's).

    Returns:
        the matrix, of the shape of the given one.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT
    # singular values of at most 1, from which the iteration converges
    x = x / x.square().sum((-2, -1), keepdim=True).clamp_min(1e-24).sqrt().clamp_min(1e-7)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
