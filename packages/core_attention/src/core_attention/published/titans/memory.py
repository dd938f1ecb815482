"""The neural memory of the best-known public implementation of Titans (titans-pytorch 0.5.1), which differs from the paper.

A memory M(x) = x + LayerNorm(MLP(x)) (γ + 1) per head is written once per chunk of `chunk_size` tokens with the chunk's summed gradient,
weighted by a step size per token, and with momentum and forgetting per chunk. Gradients are taken at the *reference* weights: the initial
ones, or those at the last multiple of `batch_size` tokens — not at the chunk's start. A token reads the weights of the last chunk that
ended with or before it. `core_attention.mechanisms.titans.recurrence` is the paper's memory.

The weights of a chunk are not formed (`core_attention.parts.fast_weights`), except with spectral normalisation, which is not linear in the
gradients, and where another layer asks for them.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recomputed

from core_attention.mechanisms.titans import network
from core_attention.mechanisms.titans.attention import HeadRMSNorm
from core_attention.mechanisms.titans.network import Weights
from core_attention.parts.cache import Cache
from core_attention.parts.placing import Device, placed
from core_attention.published.titans import steps

ACTIVATIONS = ("silu", "gelu", "relu", "tanh", "sigmoid", "elu", "selu", "softplus", "mish", "hardswish")


@dataclass
class PublicMemoryCache(Cache):
    """What the memory carries from call to call, and what it reports of the last one.

    Attributes:
        index: tokens stored so far.
        reference: weight set that gradients are taken at: matrices, then γ, each (batch, heads, …).
        memory: current weight set.
        momentum: for each order a weight set, one after the other.
        remainder, remainder_mask: tokens after the last whole chunk, (views, batch, tokens, dim); stored with the next call's.
        surprise: of the last call: ‖M(k) − v‖² (mean over features) of each stored key, (batch, heads, keys).
        rate: of the last call: step size of each stored key, (batch, heads, keys).
        weight_sets: of the last call, where `expose_weight_sets`: (batch, heads, chunks + 1, …), before each chunk and at the end.
    """

    index: int = 0
    reference: tuple[Tensor, ...] | None = None
    memory: tuple[Tensor, ...] | None = None
    momentum: tuple[Tensor, ...] | None = None
    remainder: Tensor | None = None
    remainder_mask: Tensor | None = None
    surprise: Tensor | None = None
    rate: Tensor | None = None
    weight_sets: tuple[Tensor, ...] | None = None

    def reorder(self, index: Tensor) -> None:
        """As for every cache; the batch of the remainder stands behind its views."""
        remainder, self.remainder = self.remainder, None
        super().reorder(index)
        if remainder is not None:
            self.remainder = remainder.index_select(1, index.to(remainder.device))


class PublicNeuralMemory(nn.Module):
    """titans-pytorch's `NeuralMemory` with MLP memories, with its argument names and defaults.

    Args:
        dim: width of the tokens.
        chunk_size: tokens per write; also the tokens that read one weight set.
        batch_size: multiple of chunk_size after which gradients are taken at the current weights; None: never within a sequence.
        dim_head, heads: one memory of width dim_head a head (default dim, 1).
        depth, expansion_factor: layers of the memory's MLP and its hidden width over dim_head.
        default_step_transform_max_lr: upper bound of the step sizes.
        per_parameter_lr_modulation, max_mem_layer_modulation: a factor in (0, max) for each chunk and tensor of the memory.
        per_head_learned_parameters: initial weights of each head; False: one for all.
        attn_pool_chunks: chunk gates from attention over the chunk's tokens instead of their mean.
        momentum, momentum_order, learned_momentum_combine, learned_combine_include_zeroth: momentum, its order, and whether a learned
            mixture of the orders (and of the bare update) is added to the memory rather than the last.
        num_kv_per_token: keys and values stored for each token.
        qkv_receives_diff_views: x is (3, batch, time, dim): views for queries, keys and values.
        pre_rmsnorm, post_rmsnorm, qk_rmsnorm: normalisation of the tokens, of what is read, and of queries and keys.
        max_grad_norm: clamp of each chunk's gradient of each tensor.
        activation: after the projections of queries, keys and values: a name in ACTIVATIONS, or None.
        accept_weight_residual: forward takes `prev_weights`, an earlier layer's weight sets, which move the reference of each chunk.
        spectral_norm_surprises: orthogonalise the updates.
        gated_transition: at a batch boundary the memory becomes lerp(reference, memory, σ(gate)).
        mem_model_norm_add_residual: False: the memory is the plain MLP.
        init_adaptive_step_bias, init_momentum_bias, init_decay_bias: constant biases, with zero weights, of the three gates.
        expose_weight_sets: leave all weight sets of a call in the cache, for another layer's `prev_weights`.
        recompute: compute what is written and read anew in the backward pass instead of keeping it.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: sizes or options that exclude each other.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        chunk_size: int = 1,
        batch_size: int | None = None,
        head_dim: int | None = None,
        num_heads: int = 1,
        depth: int = 2,
        expansion_factor: float = 4.0,
        default_step_transform_max_lr: float = 1.0,
        per_parameter_lr_modulation: bool = False,
        max_mem_layer_modulation: float = 1.0,
        per_head_learned_parameters: bool = True,
        attn_pool_chunks: bool = False,
        momentum: bool = True,
        momentum_order: int = 1,
        learned_momentum_combine: bool = False,
        learned_combine_include_zeroth: bool = False,
        num_kv_per_token: int = 1,
        qkv_receives_diff_views: bool = False,
        pre_rmsnorm: bool = True,
        post_rmsnorm: bool = False,
        qk_rmsnorm: bool = False,
        max_grad_norm: float | None = None,
        activation: str | None = None,
        accept_weight_residual: bool = False,
        spectral_norm_surprises: bool = False,
        gated_transition: bool = False,
        mem_model_norm_add_residual: bool = True,
        init_adaptive_step_bias: float | None = None,
        init_momentum_bias: float | None = None,
        init_decay_bias: float | None = None,
        expose_weight_sets: bool = False,
        recompute: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        width = dim if head_dim is None else head_dim
        if min(dim, width, num_heads, chunk_size, depth, num_kv_per_token, momentum_order) < 1:
            raise ValueError(
                "dim, head_dim, num_heads, chunk_size, depth, num_kv_per_token and momentum_order are at least 1; got "
                f"{(dim, width, num_heads, chunk_size, depth, num_kv_per_token, momentum_order)}"
            )
        if num_heads == 1 and width != dim:
            raise ValueError(f"with one head head_dim is dim; got {width} and {dim}")
        if batch_size is not None and batch_size % chunk_size:
            raise ValueError(f"batch_size is a multiple of chunk_size; got {batch_size} and {chunk_size}")
        if attn_pool_chunks and chunk_size == 1:
            raise ValueError("attn_pool_chunks needs a chunk_size above 1")
        if learned_momentum_combine and not (momentum and momentum_order > 1):
            raise ValueError("learned_momentum_combine needs momentum of order 2 or more")
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"activation is None or one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        self.dim, self.head_dim, self.num_heads = dim, width, num_heads
        self.chunk_size, self.batch_size, self.keys_per_token = chunk_size, batch_size, num_kv_per_token
        self.max_rate, self.max_modulation, self.max_grad_norm = (
            default_step_transform_max_lr,
            max_mem_layer_modulation,
            max_grad_norm,
        )
        self.orders = momentum_order if momentum else 0
        self.views, self.spectral = qkv_receives_diff_views, spectral_norm_surprises
        self.activation = None if activation is None else getattr(functional, activation)
        self.expose_weight_sets, self.recompute = expose_weight_sets, recompute

        inner = width * num_heads
        self.store_norm = nn.RMSNorm(dim) if pre_rmsnorm else nn.Identity()
        self.retrieve_norm = nn.RMSNorm(dim) if pre_rmsnorm else nn.Identity()
        self.to_queries = nn.Linear(dim, inner, bias=False)
        self.to_keys = nn.Linear(dim, inner * num_kv_per_token, bias=False)
        self.to_values = nn.Linear(dim, inner * num_kv_per_token, bias=False)
        self.q_norm = HeadRMSNorm(num_heads, width) if qk_rmsnorm else nn.Identity()
        self.k_norm = HeadRMSNorm(num_heads, width) if qk_rmsnorm else nn.Identity()
        self.multihead_rmsnorm = HeadRMSNorm(num_heads, width) if post_rmsnorm else nn.Identity()
        self.retrieve_gate = nn.Linear(dim, num_heads, bias=False) if num_heads > 1 else None
        self.combine_heads = nn.Linear(inner, dim, bias=False) if num_heads > 1 else nn.Identity()

        widths = [width, *[int(width * expansion_factor)] * (depth - 1), width]
        copies = num_heads if per_head_learned_parameters else 1
        self.memory = nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            initial = nn.init.xavier_uniform_(torch.empty(fan_in, fan_out))
            # copies in memory of their own: broadcast views cannot be stepped in place
            self.memory.append(initial.repeat(copies, 1, 1))
        self.memory_gain = nn.Parameter(torch.zeros(copies, width)) if mem_model_norm_add_residual else None

        self.to_adaptive_step = nn.Linear(dim, num_heads * num_kv_per_token)
        self.to_decay_factor = nn.Linear(dim, num_heads)
        self.to_momentum = nn.Linear(dim, num_heads * self.orders) if self.orders else None
        shares = self.orders + learned_combine_include_zeroth
        self.to_momentum_combine = nn.Linear(dim, num_heads * shares) if learned_momentum_combine else None
        tensors = depth + mem_model_norm_add_residual
        self.to_modulation = nn.Linear(dim, num_heads * tensors) if per_parameter_lr_modulation else None
        self.to_residual_mix = nn.Linear(dim, num_heads) if accept_weight_residual else None
        self.pool = nn.Linear(dim, dim) if attn_pool_chunks else None
        if self.pool is not None:
            nn.init.zeros_(self.pool.weight)
            nn.init.zeros_(self.pool.bias)
        self.transition_gate = nn.Parameter(torch.tensor(-5.0)) if gated_transition else None
        for gate, bias in (
            (self.to_adaptive_step, init_adaptive_step_bias),
            (self.to_momentum, init_momentum_bias),
            (self.to_decay_factor, init_decay_bias),
        ):
            if gate is not None and bias is not None:
                nn.init.zeros_(gate.weight)
                nn.init.constant_(gate.bias, bias)

    def new_cache(self) -> PublicMemoryCache:
        """An empty state."""
        return PublicMemoryCache()

    def forward(
        self,
        x: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: PublicMemoryCache | None = None,
        prev_weights: tuple[Tensor, ...] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Stores a sequence and reads it.

        Calls that continue one cache equal one call on the whole, wherever the sequence is cut, except that with `gated_transition` the
        last token of a call that ends on a batch boundary reads the weights before the transition (as published).

        Args:
            x: tokens (batch, time, dim), or with `qkv_receives_diff_views` (3, batch, time, dim).
            mask: tokens with False are stored with step size 0.
            cache: what an earlier call left, updated in place; a fresh one tells what is left after this call.
            prev_weights: `weight_sets` of an earlier layer's cache, with `accept_weight_residual`.

        Returns:
            what each token reads.

        Raises:
            ValueError: wrong shapes, or `prev_weights` given without the option or missing with it.
        """
        self._check(x, mask, prev_weights)
        # tokens to store: (1 or 2 views, batch, time, dim)
        queries, tokens = (x[0], x[1:]) if self.views else (x, x[None])
        held = 0 if cache is None or cache.remainder is None else cache.remainder.shape[2]
        tokens, mask = self._prepend_remainder(tokens, mask, cache)
        # only whole chunks are stored; the rest waits in the cache for the next call
        chunks, rest = divmod(tokens.shape[2], self.chunk_size)
        whole = chunks * self.chunk_size
        normed = self.retrieve_norm(queries)
        q = self.q_norm(self._split_heads(self.to_queries(normed)))
        wide = torch.promote_types(q.dtype, torch.float32)
        stored = None
        if chunks:
            whole_mask = None if mask is None else mask[:, :whole]
            stored = self._project_stored(tokens[:, :, :whole], whole_mask, prev_weights).to(wide)
        with network.full_precision(q):
            y, ended = self._read_runs(q.to(wide), stored, cache, held, rest)
        if cache is not None:
            ended.index = cache.index + whole
            if rest:
                ended.remainder = tokens[:, :, whole:]
                ended.remainder_mask = None if mask is None else mask[:, whole:]
            cache.assign(ended)
        y = self.multihead_rmsnorm(y.to(q.dtype))
        if self.retrieve_gate is not None:
            y = y * self.retrieve_gate(normed).sigmoid().mT[..., None]
        return self.combine_heads(y.transpose(1, 2).flatten(2))

    def _read_runs(
        self, q: Tensor, stored: steps.Stored | None, cache: PublicMemoryCache | None, held: int, rest: int
    ) -> tuple[Tensor, PublicMemoryCache]:
        """Run after run: what is read, and the state at the end (without it if no cache asks for it).

        Args:
            held, rest: tokens of the last call that are stored with this one's, and tokens that remain unstored.
        """
        state, reference = self._state(cache, q)
        chunks = 0 if stored is None else stored.keep.shape[-1]
        index = 0 if cache is None else cache.index
        ys, losses, sets = [], [], []
        done, time = 0, q.shape[2]  # queries that have been read, and all
        for begin, end, boundary in self._plan(index, chunks):
            assert stored is not None
            last = end == chunks
            # the transition at a boundary is read by the tokens after it, and by a single token that completes the batch
            transition = boundary and self.transition_gate is not None and not (last and not rest and time > 1)
            # a token reads the last chunk that ended with or before it: the one that completes chunk `end` belongs to the next run
            if last and not transition:
                until = time
            else:
                until = max(0, end * self.chunk_size - held - 1)
            reads = steps.Reads(done + held + 1 - begin * self.chunk_size, self.chunk_size)
            go_on = not last or transition or cache is not None  # whether anything asks for the state after this run
            arguments = (q[:, :, done:until], reads, stored.chunks(begin, end), reference, state, go_on)
            if self.recompute:
                run = recomputed(self._run, *arguments, use_reentrant=False)
            else:
                run = self._run(*arguments)
            y, loss, state, run_sets = run  # pyright: ignore[reportGeneralTypeIssues]
            ys.append(y)
            losses.append(loss)
            sets.extend(run_sets)
            done, final = until, state.memory
            if boundary and go_on:
                if self.transition_gate is not None:
                    gate = self.transition_gate.sigmoid().to(q.dtype)
                    moved = reference.map(lambda old, new, g=gate: old.lerp(new, g), state.memory)
                    state = state._replace(memory=moved)
                reference = state.memory
                if transition:
                    final = state.memory
            if last:
                sets.append(final)
        if done < time:
            ys.append(network.forward(q[:, :, done:], state.memory))
        ended = PublicMemoryCache(reference=reference.flat(), memory=state.memory.flat())
        ended.momentum = _flatten_momentum(state) or None
        ended.surprise = torch.cat(losses, 2) if losses else q.new_zeros(*q.shape[:2], 0)
        ended.rate = q.new_zeros(*q.shape[:2], 0) if stored is None else stored.rate
        if self.expose_weight_sets and cache is not None:
            by_tensor = zip(*(weights.flat() for weights in sets or [state.memory]), strict=True)
            ended.weight_sets = tuple(torch.stack(parts, 2) for parts in by_tensor)
        return torch.cat(ys, 2), ended

    def _run(self, q, reads, stored, reference, state, go_on):
        """One run: what its queries read, its losses, the state after it, and its weight sets if asked for."""
        rows = steps.gradients(stored, reference, self.max_grad_norm)
        if self.spectral:
            y, state, sets = steps.run_spectral(q, reads, stored, rows, state)
            return y, rows.loss, state, sets if self.expose_weight_sets else []
        y, coefficients = steps.run_linear(q, reads, stored, rows, state)
        if not go_on:
            return y, rows.loss, state, []
        chunks, sets = stored.keep.shape[-1], []
        if self.expose_weight_sets:
            sets = steps.weight_sets(coefficients, rows, state, chunks)
        return y, rows.loss, steps.carried(coefficients, rows, state, chunks), sets

    def _plan(self, index: int, chunks: int) -> list[tuple[int, int, bool]]:
        """Runs (first chunk, end, whether a batch boundary follows) of one reference each and of bounded length."""
        fan_in, fan_out = self.memory[0].shape[1:]
        # beyond this many tokens it is cheaper to form the weights once than to compare every query with every key
        tokens = 16 * self.chunk_size if self.spectral else 4 * fan_in * fan_out // (fan_in + fan_out)
        longest = max(1, tokens // (self.chunk_size * self.keys_per_token))
        period = self.batch_size // self.chunk_size if self.batch_size else 0  # chunks between boundaries; 0: none
        start, plan, begin = index // self.chunk_size, [], 0
        while begin < chunks:
            end = min(begin + longest, chunks)
            if period:
                end = min(end, begin + period - (start + begin) % period)
            plan.append((begin, end, bool(period) and (start + end) % period == 0))
            begin = end
        return plan

    def _prepend_remainder(self, tokens: Tensor, mask: Tensor | None, cache: PublicMemoryCache | None):
        """The tokens to store, and their mask, with what the last call could not store put before them."""
        if cache is None or cache.remainder is None:
            return tokens, mask
        before = cache.remainder_mask
        if before is not None or mask is not None:
            if before is None:
                before = _full_mask(cache.remainder)
            if mask is None:
                mask = _full_mask(tokens)
            mask = torch.cat([before, mask], 1)
        return torch.cat([cache.remainder, tokens], 2), mask

    def _state(self, cache: PublicMemoryCache | None, q: Tensor) -> tuple[steps.State, Weights]:
        """State and reference weights: those of the cache, or the initial ones."""
        if cache is None or cache.memory is None or cache.reference is None:
            initial = Weights(tuple(self.memory), self.memory_gain)
            memory = initial.map(lambda t: t.to(q.dtype).expand(q.shape[0], self.num_heads, *t.shape[1:]))
            return steps.State(memory, (None,) * self.orders), memory
        if cache.memory[0].shape[:2] != q.shape[:2]:
            raise ValueError(
                f"the cache is of {tuple(cache.memory[0].shape[:2])} (batch, heads); got {tuple(q.shape[:2])}"
            )
        # the cache holds the momenta of all orders one after the other; none yet: zero
        flat, size = cache.momentum or (), len(cache.memory)
        orders = [self._unflatten(flat[i : i + size]) for i in range(0, len(flat), size)] or [None] * self.orders
        return steps.State(self._unflatten(cache.memory), tuple(orders)), self._unflatten(cache.reference)

    def _unflatten(self, tensors: tuple[Tensor, ...]) -> Weights:
        """The inverse of `Weights.flat`."""
        matrices = len(self.memory)
        gain = tensors[matrices] if len(tensors) > matrices else None
        return Weights(tuple(tensors[:matrices]), gain)

    def _project_stored(
        self, tokens: Tensor, mask: Tensor | None, prev_weights: tuple[Tensor, ...] | None
    ) -> steps.Stored:
        """Keys, values and gates of the tokens (1 or 2 views, batch, whole chunks, dim)."""
        tokens = self.store_norm(tokens)
        key_tokens, value_tokens = tokens[0], tokens[-1]
        k = self.k_norm(self._split_heads(self.to_keys(key_tokens)))
        v = self._split_heads(self.to_values(value_tokens))
        u, heads = self.keys_per_token, self.num_heads
        # (batch, time, heads · u) → (batch, heads, time · u)
        rate = self.to_adaptive_step(key_tokens).unflatten(-1, (heads, u)).permute(0, 2, 1, 3).flatten(2)
        rate = rate.sigmoid() * self.max_rate
        if mask is not None:
            rate = rate * mask.repeat_interleave(u, 1)[:, None]
        by_chunk = key_tokens.unflatten(1, (-1, self.chunk_size))
        if self.pool is None:
            pooled = by_chunk.mean(2)
        else:
            pooled = (by_chunk * self.pool(by_chunk).softmax(2)).sum(2)

        def gates(linear: nn.Linear) -> tuple[Tensor, ...]:  # one or more gates, (batch, heads, chunks) each
            return linear(pooled).unflatten(-1, (heads, -1)).movedim(1, -1).unbind(2)

        keep = 1 - gates(self.to_decay_factor)[0].sigmoid()
        momentum: tuple[Tensor, ...] = ()
        if self.to_momentum is not None:
            momentum = tuple(gate.sigmoid() for gate in gates(self.to_momentum))
        combine = modulation = offset = None
        if self.to_momentum_combine is not None:
            combine = torch.stack(gates(self.to_momentum_combine)).softmax(0).unbind()
        if self.to_modulation is not None:
            modulation = tuple(gate.sigmoid() * self.max_modulation for gate in gates(self.to_modulation))
            if self.memory_gain is not None:  # the published order has the gain first, ours has it last
                modulation = (*modulation[1:], modulation[0])
        if self.to_residual_mix is not None and prev_weights is not None:
            mix, chunks = gates(self.to_residual_mix)[0].sigmoid(), keep.shape[-1]
            scaled = [w[:, :, :chunks] * mix.reshape(*mix.shape, *[1] * (w.ndim - 3)) for w in prev_weights]
            offset = Weights(tuple(scaled[: len(self.memory)]), None if self.memory_gain is None else scaled[-1])
        return steps.Stored(k, v, rate, keep, momentum, combine, modulation, offset)

    def _split_heads(self, projected: Tensor) -> Tensor:
        """(batch, time, heads · u · width) → (batch, heads, time · u, width), after the activation."""
        if self.activation is not None:
            projected = self.activation(projected)
        return projected.unflatten(-1, (self.num_heads, -1, self.head_dim)).transpose(1, 2).flatten(2, 3)

    def _check(self, x: Tensor, mask: Tensor | None, prev_weights: tuple[Tensor, ...] | None) -> None:
        expected = f"(3, batch, time, {self.dim})" if self.views else f"(batch, time, {self.dim})"
        fits = x.ndim == 3 + self.views and x.shape[-1] == self.dim and x.shape[-2] >= 1
        if not fits or (self.views and x.shape[0] != 3):
            raise ValueError(f"x is {expected} with at least one time step; got {tuple(x.shape)}")
        if mask is not None and mask.shape != x.shape[-3:-1]:
            raise ValueError(f"mask is (batch, time) = {tuple(x.shape[-3:-1])}; got {tuple(mask.shape)}")
        if (prev_weights is None) == (self.to_residual_mix is not None):
            raise ValueError("prev_weights is given if and only if the memory was built with accept_weight_residual")


def _full_mask(tokens: Tensor) -> Tensor:
    """True for every token of (views, batch, time, dim)."""
    return torch.ones(*tokens.shape[1:3], dtype=torch.bool, device=tokens.device)


def _flatten_momentum(state: steps.State) -> tuple[Tensor, ...]:
    """The momenta of all orders one after the other; empty where there is none yet."""
    tensors: list[Tensor] = []
    for order in state.momentum:
        if order is not None:
            tensors += order.flat()
    return tuple(tensors)
