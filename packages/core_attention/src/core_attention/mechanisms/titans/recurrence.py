"""Neural long-term memory of Titans (Behrouz, Zhong, Mirrokni, arXiv 2501.00663): a network trained by gradient steps on what it reads.

For every token, with the gates α, η in (0, 1) and θ > 0,

    S_t = η_t S_{t−1} − θ_t ∇‖M(k_t) − v_t‖²      surprise with momentum
    M_t = (1 − α_t) M_{t−1} + S_t                 forgetting
    y_t = M_t(q_t)                                reading

where the gradient is taken at the memory with which the token's chunk began. The recurrences are linear in the gradients, so a chunk is
a few matrix products (`core_attention.parts.fast_weights`): its per-token memories are read and never formed. A chunk of one token is the exact
recurrence; one chunk as long as the sequence uses the initial memory alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from core_attention.mechanisms.titans import network
from core_attention.mechanisms.titans.decoding import Pending, settle
from core_attention.parts.cache import Cache
from core_attention.parts.fast_weights import Mixing, mixing
from core_attention.parts.one_node import one_node

RECOMPUTE_ABOVE = 256 * 2**20  # bytes of weight sets that a backward pass would keep


@dataclass
class MemoryState(Cache):
    """What a memory carries from call to call; weight sets are (batch, heads, d_l, d_{l+1}) and float32 or wider.

    Attributes:
        memory: M_t after the last token, once `settle` has folded in what waits in `pending`.
        momentum: S_t after the last token, likewise.
        reference: the memory at the start of the running chunk, where its gradients are taken.
        position: tokens of the running chunk that are already written.
        pending: tokens of the running chunk that were decoded one by one (`core_attention.mechanisms.titans.decoding`).
    """

    memory: tuple[Tensor, ...] | None = None
    momentum: tuple[Tensor, ...] | None = None
    reference: tuple[Tensor, ...] | None = None
    position: int = 0
    pending: Pending = field(default_factory=Pending)

    def settle(self) -> None:
        """Folds the tokens that were decoded one by one into memory and momentum."""
        if self.memory is not None and self.momentum is not None:
            self.memory, self.momentum = settle(self.memory, self.momentum, self.pending)


class MemoryOutput(NamedTuple):
    """Attributes:
    y: M_t(q_t), (batch, heads, time, dim); None without queries.
    surprise: ‖M(k_t) − v_t‖² before the token is written, at the memory of its chunk's start, (batch, heads, time).
    state: what the next call continues from.
    """

    y: Tensor | None
    surprise: Tensor
    state: MemoryState


def neural_memory(
    q: Float[Tensor, "..."] | None,
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    *,
    alpha: Float[Tensor, "..."],
    eta: Float[Tensor, "..."],
    theta: Float[Tensor, "..."],
    weights: tuple[Tensor, ...],
    chunk_size: int = 64,
    state: MemoryState | None = None,
    mask: Bool[Tensor, "batch time"] | None = None,
    max_grad_norm: float | None = None,
    recompute: bool | None = None,
) -> MemoryOutput:
    """Writes (k_t, v_t) into the memory and reads it with q_t, token after token, in chunks of matrix products (paper §3.1–3.2).

    Calls that continue each other's state equal one call, wherever the sequence is cut; one token a call is constant-cost decoding.

    Args:
        q, k, v: (batch, heads, time, dim); without q the memory is written and not read.
        alpha, eta, theta: forgetting, momentum and step size of each token, (batch, heads, time).
        weights: initial memory M₀, matrices (heads, d_l, d_{l+1}) multiplying from the right, d_0 = d_L = dim, GELU between them.
        chunk_size: tokens whose gradients are taken at the same memory.
        state: what an earlier call returned; then `weights` is not used.
        mask: False marks tokens that leave memory and momentum exactly as they are (padding); they still count as positions.
        max_grad_norm: m of the soft clamp |g| → m tanh(|g|/m) of each token's gradient of each matrix. It bounds the memory whatever
            the input; None is the formula as published, which diverges for large θ.
        recompute: recompute groups of chunks in the backward pass in place of keeping their weight sets (2 √n in place of n);
            None: when they would exceed 256 MiB.

    Raises:
        ValueError: shapes that do not fit, no time step, or a chunk_size below 1.
    """
    _check(q, k, v, (alpha, eta, theta), weights, chunk_size, mask)
    batch, heads, time, _ = k.shape
    dtype = torch.promote_types(k.dtype, torch.float32)
    k, v, alpha, eta, theta = (t.to(dtype) for t in (k, v, alpha, eta, theta))
    begins = state is None or state.memory is None or state.momentum is None or state.reference is None
    if begins and torch.compiler.is_compiling():
        # one node of the graph, whose number of tensors depends on what is there
        tensors = [k, v, alpha, eta, theta]
        tensors += [t for t in (q, mask) if t is not None]
        tensors += weights
        settings = {"reads": q is not None, "masked": mask is not None, "chunk_size": chunk_size}
        settings |= {"max_grad_norm": max_grad_norm, "recompute": recompute}
        return _as_output(_in_graph(tensors, settings), settings, time % chunk_size)
    if state is None or state.memory is None or state.momentum is None or state.reference is None:
        # no momentum yet: None is cheaper than a set of zeros that is added
        memory = network.Weights(tuple(w.to(dtype).expand(batch, *w.shape) for w in weights))
        momentum, reference, position = None, memory, 0
    else:
        state.settle()
        memory, momentum, reference = map(network.Weights, (state.memory, state.momentum, state.reference))
        position = state.position
        if memory.matrices[0].shape[:2] != (batch, heads):
            raise ValueError(
                f"the state is of {tuple(memory.matrices[0].shape[:2])} (batch, heads); got {(batch, heads)}"
            )
    active = None
    if mask is not None:
        # a masked token forgets nothing, writes nothing and leaves the momentum as it is
        active = mask[:, None].to(dtype).expand(batch, heads, time)
        alpha, eta, theta = alpha * active, eta * active + (1 - active), theta * active
    with network.full_precision(k):
        sizes = _chunk_sizes(time, chunk_size, position)
        mixes = _mixings(1 - alpha, eta, active, sizes)
        queries = [None] * len(sizes) if q is None else q.to(dtype).split(sizes, 2)
        keys, values, steps = (t.split(sizes, 2) for t in (k, v, theta))
        chunks = list(zip(queries, keys, values, steps, mixes, strict=True))
        if recompute is None:
            # a memory and a momentum for every chunk
            set_size = batch * heads * sum(w[0].numel() for w in weights)
            recompute = 2 * len(chunks) * set_size * k.element_size() > RECOMPUTE_ABOVE
        group = len(chunks)
        if recompute and torch.is_grad_enabled():
            group = math.ceil(math.sqrt(len(chunks)))
        ys, losses = [], []
        for start in range(0, len(chunks), group):
            if start > 0 or position == 0:
                reference = memory  # a chunk begins: its gradients are taken at the memory as it now is
            arguments = (chunks[start : start + group], memory, momentum, reference, max_grad_norm)
            if group < len(chunks):
                done = recomputed(_run, *arguments, use_reentrant=False)
            else:
                done = _run(*arguments)
            y, loss, memory, momentum, reference = done  # pyright: ignore[reportGeneralTypeIssues]
            ys.append(y)
            losses.append(loss)
    assert momentum is not None
    matrices = (memory.matrices, momentum.matrices, reference.matrices)
    state = MemoryState(*matrices, (position + time) % chunk_size, Pending())
    y = None if q is None else torch.cat(ys, 2)
    return MemoryOutput(y, torch.cat(losses, 2), state)


def _from_the_start(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    """`neural_memory` of a sequence that begins, on a list of tensors: what a graph holds as one node."""
    k, v, alpha, eta, theta, *rest = tensors
    q = rest.pop(0) if settings["reads"] else None
    mask = rest.pop(0) if settings["masked"] else None
    named = {name: settings[name] for name in ("chunk_size", "max_grad_norm", "recompute")}
    done = neural_memory(q, k, v, alpha=alpha, eta=eta, theta=theta, weights=tuple(rest), mask=mask, **named)
    state = done.state
    assert state.memory is not None
    assert state.momentum is not None
    assert state.reference is not None
    # the reference may be the memory itself, or the weights that were given
    sets = [t.clone() for t in (*state.memory, *state.momentum, *state.reference)]
    if done.y is None:
        return [done.surprise, *sets]
    return [done.y, done.surprise, *sets]


def _empty(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    k, weights = tensors[0], tensors[5 + settings["reads"] + settings["masked"] :]
    out = [k.new_empty(k.shape[:3])]  # the surprise
    if settings["reads"]:
        out.insert(0, torch.empty_like(k))
    for _ in ("memory", "momentum", "reference"):
        out += [k.new_empty(k.shape[0], *w.shape) for w in weights]
    return out


_in_graph = one_node("neural_memory", _from_the_start, _empty)


def _as_output(results: Sequence[Tensor], settings: Mapping[str, Any], position: int) -> MemoryOutput:
    y = None
    if settings["reads"]:
        y, *results = results
    surprise, *sets = results
    layers = len(sets) // 3
    memory, momentum, reference = (tuple(sets[i * layers : (i + 1) * layers]) for i in range(3))
    return MemoryOutput(y, surprise, MemoryState(memory, momentum, reference, position, Pending()))


def _run(chunks, memory, momentum, reference, max_grad_norm):
    """Chunk after chunk; the first one's gradients are taken at `reference`."""
    ys, losses = [], []
    for index, (q, k, v, theta, mix) in enumerate(chunks):
        if index:
            reference = memory
        rows = network.writes(k, v, reference)
        losses.append(rows.loss)
        rows = rows.scaled(_step_sizes(rows, theta, max_grad_norm))
        if q is not None:
            ys.append(network.read(q, rows, mix.memory, (momentum, memory)))
        # both from the sets before this chunk
        next_memory = network.carry(rows, mix.memory[..., -1, :], (momentum, memory))
        momentum = network.carry(rows, mix.momentum[0], (momentum, None))
        memory = next_memory
    return torch.cat(ys, 2) if ys else None, torch.cat(losses, 2), memory, momentum, reference


def _step_sizes(rows: network.Writes, theta: Tensor, bound: float | None) -> list[Tensor]:
    """θ, times the soft clamp of each token's gradient of each matrix: the norm of an outer product is the product of the norms."""
    if bound is None:
        return [theta] * len(rows.updates)
    scales = []
    for h, update in zip(rows.inputs, rows.updates, strict=True):
        norm = (h.square().sum(-1) * update.square().sum(-1) + 1e-20).sqrt()
        scales.append(theta * bound * torch.tanh(norm / bound) / norm)
    return scales


def _chunk_sizes(time: int, chunk_size: int, position: int) -> list[int]:
    first = min(chunk_size - position, time)
    whole, tail = (time - first) // chunk_size, (time - first) % chunk_size
    sizes = [first] + [chunk_size] * whole
    return [*sizes, tail] if tail else sizes


def _mixings(keep: Tensor, eta: Tensor, active: Tensor | None, sizes: list[int]) -> list[Mixing]:
    """The mixing of every chunk; chunks of one size are solved together."""
    gates = [keep, eta] if active is None else [keep, eta, active]
    pieces = [t.split(sizes, -1) for t in gates]
    out: list[Mixing] = [Mixing(keep, ())] * len(sizes)
    for size in dict.fromkeys(sizes):
        members = [i for i, s in enumerate(sizes) if s == size]
        stacked = []
        for piece in pieces:
            stacked.append(torch.stack([piece[i] for i in members]))
        # a masked token adds no momentum to the memory either
        solved = mixing(stacked[0], [stacked[1]], stacked[2:] or None)
        for i, memory, momentum in zip(members, solved.memory, solved.momentum[0], strict=True):
            out[i] = Mixing(memory, (momentum,))
    return out


def _check(q, k, v, gates, weights, chunk_size, mask) -> None:
    shapes = [tuple(t.shape) for t in (q, k, v) if t is not None]
    if k.ndim != 4 or any(shape != shapes[0] for shape in shapes):  # lengths that are symbolic have no hash
        raise ValueError(f"q, k and v are (batch, heads, time, dim) of one shape; got {', '.join(map(str, shapes))}")
    batch, heads, time, dim = k.shape
    if time < 1:
        raise ValueError(f"a memory needs at least one time step; got k of shape {tuple(k.shape)}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}")
    for name, gate in zip(("alpha", "eta", "theta"), gates, strict=True):
        if gate.shape != k.shape[:3]:
            raise ValueError(f"{name} is (batch, heads, time) = {(batch, heads, time)}; got {tuple(gate.shape)}")
    if mask is not None and mask.shape != (batch, time):
        raise ValueError(f"mask is (batch, time) = {(batch, time)}; got {tuple(mask.shape)}")
    width = dim
    for weight in weights:
        if weight.ndim != 3 or weight.shape[0] != heads or weight.shape[1] != width:
            shapes = [tuple(w.shape) for w in weights]
            raise ValueError(f"weights map {dim} to {dim} in each of {heads} heads, (heads, in, out); got {shapes}")
        width = weight.shape[2]
    if not weights or width != dim:
        raise ValueError(f"weights map {dim} to {dim}; got {[tuple(w.shape) for w in weights]}")


def neural_memory_stepwise(
    q: Float[Tensor, "batch heads time dim"],
    k: Float[Tensor, "batch heads time dim"],
    v: Float[Tensor, "batch heads time dim"],
    *,
    alpha: Float[Tensor, "batch heads time"],
    eta: Float[Tensor, "batch heads time"],
    theta: Float[Tensor, "batch heads time"],
    weights: tuple[Tensor, ...],
    chunk_size: int = 64,
) -> MemoryOutput:
    """The definition, one token at a time with gradients by autograd: what `neural_memory` is tested against."""
    batch, _, time, _ = q.shape

    def gradient(memory, key, value):
        with torch.enable_grad():
            memory = tuple(w if w.requires_grad else w.detach().requires_grad_() for w in memory)
            loss = (network.forward(key, network.Weights(memory)) - value).square().sum((-2, -1))
            return torch.autograd.grad(loss.sum(), memory, create_graph=True), loss  # samples and heads do not mix

    memory = reference = tuple(w.expand(batch, *w.shape) for w in weights)
    momentum = tuple(torch.zeros_like(w) for w in memory)
    ys, losses = [], []
    for t in range(time):
        reference = memory if t % chunk_size == 0 else reference
        at = lambda gate: gate[:, :, t, None, None]  # noqa: B023, E731
        grads, surprise = gradient(reference, k[:, :, t, None], v[:, :, t, None])
        momentum = tuple(at(eta) * s - at(theta) * g for s, g in zip(momentum, grads, strict=True))
        memory = tuple((1 - at(alpha)) * m + s for m, s in zip(memory, momentum, strict=True))
        ys.append(network.forward(q[:, :, t, None], network.Weights(memory)))
        losses.append(surprise)
    state = MemoryState(memory, momentum, reference, time % chunk_size)
    return MemoryOutput(torch.cat(ys, 2), torch.stack(losses, 2), state)
