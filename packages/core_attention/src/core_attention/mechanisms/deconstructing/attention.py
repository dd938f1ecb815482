"""Attention with one principle relaxed at a time: parameter-matched causal variants for language models.

Source: Xue, Moosavi, Aletras, "Deconstructing Attention: Investigating Design Principles for Effective Language Modeling", arXiv 2510.11602.
Every variant has the Standard layer's parameters (4d² + 3d). Tensors are (batch, heads, length, head_dim); all mixing is causal.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.attention import attention
from core_attention.capture.recording import record
from core_attention.masks import Causal
from core_attention.measuring.example import Example
from core_attention.parts.cache import Cache, Rows, check_crop
from core_attention.parts.placing import Device, placed
from core_attention.parts.rotary import rotary_half
from core_attention.parts.transforms import readable

KINDS = ("standard", "mlp", "approx", "nonapprox", "rnd", "fixedseq", "static")
_EPS = 1e-6


def approximate_map(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n n"]:
    """The attention map of `approximate_attention` in its joint form, written out: for diagnostics and as the definition."""
    s = q @ k.mT * q.shape[-1] ** -0.5
    weights = (1 + s + s * s / 2).tril()
    return weights / weights.sum(-1, keepdim=True)


def nonapproximate_map(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n n"]:
    """The attention map of `nonapproximate_attention`, written out: for diagnostics and as the definition."""
    n = q.shape[-2]
    s = nonapproximate_scores(q, k)[:, :, None].expand(-1, -1, n, -1)  # the same row for every query
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(s.masked_fill(future, float("-inf")), -1)


def nonapproximate_scores(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n"]:
    """The score of a key by itself: ``s_j = Σ_c SiLU(q_jc) k_jc / √d``."""
    return (F.silu(q) * k).sum(-1) * q.shape[-1] ** -0.5


def _record(attention_map: Callable[[Tensor, Tensor], Tensor], q: Tensor, k: Tensor) -> None:
    """Offers the written-out map to `core_attention.capture`; rows of a map depend on all keys before them, so whole heads are computed."""

    def weights(rows: Tensor, heads: Tensor) -> Tensor:
        return attention_map(q[:, heads], k[:, heads])[:, :, rows]

    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    record("weights", weights, shape=shape, device=q.device)


def _taylor_features(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n f"]:
    """φ with ``φ(q)·φ(k) = 1 + s + s²/2`` for ``s = q·k``: a one, the channels, and their products (1 + d + d(d+1)/2 of them)."""
    d = x.shape[-1]
    i, j = torch.triu_indices(d, d, device=x.device)
    # s²/2 holds each product of two different channels twice and each square once, all halved
    weight = torch.where(i == j, x.new_tensor(0.5).sqrt(), 1)
    one, products = torch.ones_like(x[..., :1]), x[..., i] * x[..., j] * weight
    return torch.cat([one, x, products], -1)


def _prefix_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    chunk_size: int,
    weigh: Callable[[Tensor], Tensor] = lambda s: s,
    features: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Tensor, Tensor]:
    """``Σ_{j≤i} weigh(q_i·k_j) [v_j, 1]`` in chunks, where ``weigh(q·k) = features(q)·features(k)``, and the state after the last token."""
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)  # the last channel sums the weights: the denominator
    if torch.compiler.is_compiling():
        return _prefix_sums_in_graph(q, k, v, state, weigh, features)
    out = []
    for start in range(0, q.shape[-2], chunk_size):
        part = slice(start, start + chunk_size)
        qc, kc, vc = q[..., part, :], k[..., part, :], v[..., part, :]
        y = weigh(qc @ kc.mT).tril() @ vc
        # earlier chunks are in the state, (b, h, features, e + 1)
        if state is not None:
            y = y + features(qc) @ state
        out.append(y)
        update = features(kc).mT @ vc
        state = update if state is None else state + update
    if state is None:
        raise ValueError(f"there are no tokens: q has shape {tuple(q.shape)}")
    return torch.cat(out, -2), state


def _prefix_sums_in_graph(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    weigh: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """`_prefix_sums` of all chunks at once, in operations whose number does not depend on the length."""
    n = q.shape[-2]
    chunks = -(-n // chunk_size)
    # (b, h, chunks, chunk, d): padded values are 0 and add nothing to any sum
    q, k, v = (F.pad(t, (0, 0, 0, chunks * chunk_size - n)).unflatten(-2, (chunks, chunk_size)) for t in (q, k, v))
    update = features(k).mT @ v
    after = update.cumsum(-3)
    if state is not None:
        after = after + state[..., None, :, :]
    before = after - update
    out = weigh(q @ k.mT).tril() @ v + features(q) @ before
    return out.flatten(-3, -2)[..., :n, :], after[..., -1, :, :]


def approximate_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n e"],
    *,
    form: str = "joint_outer",
    chunk_size: int = 1024,
    state: tuple[Tensor, ...] | None = None,
) -> tuple[Float[Tensor, "b h n e"], tuple[Tensor, ...]]:
    """Softmax with exp replaced by its second-order Taylor polynomial, linear in time ("Approximate", relaxes the mathematical form).

    ``joint_outer``: ``A_ij = w_ij / Σ_{l≤i} w_il`` with ``w = 1 + s + s²/2``, ``s = q·k/√d``; always positive.
    ``paper_recurrent`` (the paper's appendix): ``o⁰ + o¹ + o²``, each normalised by itself — the running mean of v, and linear attention over
    (q, k) and over their element-wise squares. Denominators of o¹ can vanish: they are kept `1e-6` away from 0 with their sign, and a warning says so.

    Args:
        chunk_size: tokens computed at once; changes cost and memory, not the result.
        state: returned by an earlier call over the tokens before these.

    Returns:
        The output, and the state to go on with.
    """
    if form not in ("joint_outer", "paper_recurrent"):
        raise ValueError(f"unknown form {form!r}: joint_outer or paper_recurrent")
    dtype = v.dtype
    wide = torch.promote_types(q.dtype, torch.float32)  # sums over a long prefix overflow half precision
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    if form == "joint_outer" and state is None:
        _record(approximate_map, q, k)
    with torch.autocast(q.device.type, enabled=False):
        if form == "joint_outer":
            root = q.shape[-1] ** -0.25  # half of the 1/√d on either factor
            before = state[0] if state else None
            polynomial = lambda s: 1 + s + s * s / 2  # noqa: E731
            sums, after = _prefix_sums(q * root, k * root, v, before, chunk_size, polynomial, _taylor_features)
            return (sums[..., :-1] / sums[..., -1:]).to(dtype), (after,)
        y, states = torch.zeros_like(v), []
        root = 2**-0.5  # the ½ of the second order, half on either factor
        ones = torch.ones_like(q[..., :1])
        orders = ((ones, ones), (q, k), (q * q * root, k * k * root))
        for order, (query, key) in enumerate(orders):
            before = state[order] if state else None
            sums, after = _prefix_sums(query, key, v, before, chunk_size)
            y = y + sums[..., :-1] / _away_from_zero(sums[..., -1:])
            states.append(after)
        return y.to(dtype), tuple(states)


def _away_from_zero(x: Tensor) -> Tensor:
    small = x.abs() < _EPS
    if readable(x) and bool(small.any()):
        warnings.warn(
            f"{int(small.sum())} denominators of the separately normalised approximation are below {_EPS}; form='joint_outer' has none",
            stacklevel=3,
        )
    return torch.where(small, torch.where(x < 0, -_EPS, _EPS), x)


def nonapproximate_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n e"],
    *,
    chunk_size: int = 64,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Float[Tensor, "b h n e"], tuple[Tensor, Tensor]]:
    """Every query sees the same weights, renormalised over its prefix ("Non-approximate"): ``o_i = Σ_{j≤i} e^{s_j} v_j / Σ_{j≤i} e^{s_j}``.

    ``s`` are `nonapproximate_scores`. O(n) time; the state is one output and one log-sum-exp per head, so nothing overflows whatever the scores.
    A rotary phase would cancel (query and key of the same position), so there is none.

    Args:
        chunk_size: tokens computed at once; changes cost and memory, not the result.
        state: returned by an earlier call over the tokens before these.

    Returns:
        The output, and the state (last output (b, h, e), log-sum-exp (b, h)) to go on with.
    """
    n = q.shape[-2]
    if n == 0:
        raise ValueError(f"there are no tokens: q has shape {tuple(q.shape)}")
    if state is None:
        _record(nonapproximate_map, q, k)
    wide = torch.promote_types(q.dtype, torch.float32)
    s = nonapproximate_scores(q, k).to(wide)
    if state is None:
        first_output = v.new_zeros(v.shape[0], v.shape[1], v.shape[-1], dtype=wide)
        first_lse = s.new_full(s.shape[:2], float("-inf"))
    else:
        first_output, first_lse = state[0].to(wide), state[1]
    # the log-sum-exp of every prefix, which normalises row i: (b, h, n)
    lse = torch.logcumsumexp(torch.cat([first_lse[..., None], s], -1), -1)[..., 1:]
    chunks = -(-n // chunk_size)
    pad = chunks * chunk_size - n
    # (b, h, chunks, chunk): a padded key weighs 0, a padded row repeats the last log-sum-exp
    s = F.pad(s, (0, pad), value=float("-inf")).unflatten(-1, (chunks, chunk_size))
    lse_rows = torch.cat([lse, lse[..., -1:].expand(-1, -1, pad)], -1).unflatten(-1, (chunks, chunk_size))
    values = F.pad(v.to(wide), (0, 0, 0, pad)).unflatten(-2, (chunks, chunk_size))
    with torch.autocast(q.device.type, enabled=False):
        # the first tril keeps exp from overflowing above the diagonal, the second makes exp(0) = 1 there 0
        within = (s[..., None, :] - lse_rows[..., None]).tril().exp().tril() @ values
    # the output at the end of each chunk: every earlier chunk's own sum, decayed by the growth of the log-sum-exp since then
    ends = torch.cat([first_lse[..., None], lse_rows[..., -1]], -1)
    own = torch.cat([first_output[..., None, :], within[..., -1, :]], -2)
    decay = (ends[..., None, :] - ends[..., None]).nan_to_num(nan=0.0, posinf=0.0).tril().exp().tril()
    if state is None:
        decay = decay * (torch.arange(chunks + 1, device=q.device) > 0)  # nothing came before the first token
    with torch.autocast(q.device.type, enabled=False):
        carried = (decay @ own)[..., :-1, :]
    # what came before a chunk has lost weight by the growth of the log-sum-exp since the chunk began
    share = (ends[..., :-1, None] - lse_rows).exp()
    out = (within + share[..., None] * carried[..., None, :]).flatten(2, 3)[..., :n, :]
    return out.to(v.dtype), (out[..., -1, :], lse[..., -1])


def attention_indicators(maps: Float[Tensor, "heads n n"], local: int = 4) -> dict[str, Tensor]:
    """The paper's indicators of a layer's attention maps (lower triangular, rows sum to 1), before their min-max normalisation over layers.

    Returns:
        ``entropy`` −Σ a log a and ``concentration`` ‖A‖_F, each (heads,); ``sink``, the mean of column 0 over the queries, (heads,);
        ``local_focus``, the mean of the N-th subdiagonal for N = 0 … `local` − 1, (local, heads); ``head_diversity``, the population standard
        deviation over heads averaged over the lower triangle, a scalar.
    """
    n = maps.shape[-1]
    lower = torch.ones(n, n, dtype=torch.bool, device=maps.device).tril()
    local_focus = []
    for offset in range(local):
        subdiagonal = maps.diagonal(-offset, -2, -1)
        local_focus.append(subdiagonal.sum(-1) / max(n - offset, 1))
    return {
        "entropy": -torch.special.xlogy(maps, maps).sum((-2, -1)),
        "concentration": torch.linalg.matrix_norm(maps),
        "sink": maps[..., 0].mean(-1),
        "local_focus": torch.stack(local_focus),
        "head_diversity": maps.std(0, correction=0)[lower].mean(),
    }


@dataclass
class DeconstructedCache(Cache):
    """What a layer keeps between calls that go on with the same sequences.

    Attributes:
        length: tokens read.
        rows: keys and values, or values alone, of the kinds that see every token again.
        sums: what the kinds that sum up keep (`approximate_attention`, `nonapproximate_attention`).
    """

    length: int = 0
    rows: Rows = field(default_factory=Rows)
    sums: tuple[Tensor, ...] | None = None

    def crop(self, length: int) -> None:
        """Forgets the tokens from `length` on.

        Raises:
            ValueError: the kind keeps sums, or `length` is not from 0 to the tokens read.
        """
        if self.sums is not None:
            super().crop(length)
        check_crop(length, self.length)
        if self.rows.room is not None:
            self.rows.crop(length)
        self.length = length


class DeconstructedAttention(nn.Module):
    """One attention layer of the study, of any kind, with the parameters of the Standard one.

    | kind | output before ``o_proj`` |
    |---|---|
    | ``standard`` | causal softmax attention with rotary phase |
    | ``mlp`` | ``v(SiLU(q(x)) ⊙ k(x))``: the projections as gate, up and down of a token-wise network |
    | ``approx`` | `approximate_attention` |
    | ``nonapprox`` | `nonapproximate_attention` |
    | ``rnd``, ``fixedseq`` | causal softmax attention whose q and k come from a fixed stream (`source`), the same for every sequence |
    | ``static`` | causal softmax attention whose q and k come from the input embeddings (`source`) |

    Args:
        dim: model width d.
        num_heads: attention heads; divides `dim`.
        kind: which variant.
        approx_form: reading of ``approx``.
        rope: whether the rotary phase precedes attention (``nonapprox`` and ``mlp`` have none).
        rope_theta: base of the rotary phase.
        qkv_bias: biases of the first three projections, as in Qwen2.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: an unknown kind, or heads that do not divide the width.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        kind: str = "standard",
        approx_form: str = "joint_outer",
        rope: bool = True,
        rope_theta: float = 10000.0,
        qkv_bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}: one of {', '.join(KINDS)}")
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim, got {num_heads} and {dim}")
        self.dim, self.num_heads, self.kind = dim, num_heads, kind
        self.approx_form: str = approx_form
        self.rope, self.rope_theta = rope, rope_theta
        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def new_cache(self) -> DeconstructedCache:
        """An empty cache; one for each generation."""
        return DeconstructedCache(rows=Rows())

    @property
    def needs_source(self) -> bool:
        return self.kind in ("rnd", "fixedseq", "static")

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        *,
        source: Float[Tensor, "sources stream width"] | None = None,
        cache: DeconstructedCache | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """Attends causally.

        Args:
            x: the normalised hidden states.
            source: where q and k come from: for ``rnd`` and ``fixedseq`` the fixed stream's hidden states at this layer, (1, at least as many
                tokens as have been seen, width); for ``static`` the (normalised) embeddings of the tokens of `x`, of the same shape.
            cache: go on after the tokens that it has seen; updated in place.

        Returns:
            the tokens after attention, of the shape of `x`.

        Raises:
            ValueError: another rank or width, no tokens, a missing or ill-shaped `source`, a sequence longer than the fixed stream.
        """
        if x.ndim != 3 or x.shape[2] != self.dim or x.shape[1] == 0:
            raise ValueError(f"expected tokens (batch, length, {self.dim}) of at least one, got shape {tuple(x.shape)}")
        if self.needs_source and source is None:
            raise ValueError(f"kind {self.kind!r} needs source")
        if not self.needs_source and source is not None:
            raise ValueError(f"kind {self.kind!r} takes no source")
        if self.kind == "mlp":
            if cache is not None:
                cache.length += x.shape[1]
            return self.o_proj(self.v_proj(F.silu(self.q_proj(x)) * self.k_proj(x)))
        begin = 0 if cache is None else cache.length
        end = begin + x.shape[1]
        v = self._split(self.v_proj(x))
        if self.kind in ("rnd", "fixedseq"):
            y = self._fixed(source, v, begin, end, cache)
        else:
            attending = x if source is None else source
            if attending.shape != x.shape:
                raise ValueError(f"source {tuple(attending.shape)} must have the shape of x, {tuple(x.shape)}")
            q, k = self._split(self.q_proj(attending)), self._split(self.k_proj(attending))
            y = self._mix(q, k, v, begin, cache)
        if cache is not None:
            cache.length = end
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def fixed_map(self, source: Float[Tensor, "1 stream width"], length: int) -> Float[Tensor, "heads length length"]:
        """The map that every sequence of `length` tokens uses in a ``rnd`` or ``fixedseq`` layer (length² numbers per head: for diagnostics)."""
        q, k = self._rotated_qk(source[:, :length])
        scores = (q @ k.mT)[0] * q.shape[-1] ** -0.5
        future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, float("-inf")).softmax(-1)

    def _split(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _rotated_qk(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self._split(self.q_proj(stream)), self._split(self.k_proj(stream))
        return self._rotate(q, 0), self._rotate(k, 0)

    def _rotate(self, t: Tensor, begin: int) -> Tensor:
        if not self.rope:
            return t
        positions = torch.arange(begin, begin + t.shape[-2], device=t.device)
        return rotary_half(t, positions, self.rope_theta)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, begin: int, cache: DeconstructedCache | None) -> Tensor:
        before = None if cache is None else cache.sums
        if self.kind == "nonapprox":
            y, sums = nonapproximate_attention(q, k, v, state=None if before is None else (before[0], before[1]))
        else:
            q, k = self._rotate(q, begin), self._rotate(k, begin)
            if self.kind != "approx":
                k, v = (k, v) if cache is None else cache.rows.extend(k, v)
                return attention(q, k, v, mask=Causal(offset=begin))
            y, sums = approximate_attention(q, k, v, form=self.approx_form, state=before)
        if cache is not None:
            cache.sums = sums
        return y

    def _fixed(
        self, source: Tensor | None, v: Tensor, begin: int, end: int, cache: DeconstructedCache | None
    ) -> Tensor:
        assert source is not None
        if source.shape[0] != 1 or source.shape[1] < end:
            raise ValueError(
                f"the fixed stream has shape {tuple(source.shape)}; it must be (1, at least {end} tokens, {self.dim})"
            )
        q, k = self._rotated_qk(source[:, :end])
        q = q[:, :, begin:]
        if cache is not None:
            (v,) = cache.rows.extend(v)
        # q and k of the one stream are expanded, never copied
        batch = v.shape[0]
        q, k = q.expand(batch, -1, -1, -1), k.expand(batch, -1, -1, -1)
        return attention(q, k, v, mask=Causal(offset=begin))


def approximate_example(tokens: int) -> Example:
    """A layer of the 70M model with the Taylor polynomial, for `core_attention.registry.catalogue`."""
    return _example("approx", tokens)


def nonapproximate_example(tokens: int) -> Example:
    """A layer of the 70M model with one score per key, for `core_attention.registry.catalogue`."""
    return _example("nonapprox", tokens)


def _example(kind: str, tokens: int) -> Example:
    layer = DeconstructedAttention(512, num_heads=8, kind=kind)
    explicit = approximate_map if kind == "approx" else nonapproximate_map

    def definition(x: Tensor) -> Tensor:
        q, k, v = (layer._split(project(x)) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
        if kind == "approx":
            q, k = layer._rotate(q, 0), layer._rotate(k, 0)
        return layer.o_proj((explicit(q, k) @ v).transpose(1, 2).flatten(2))

    return Example(layer, (torch.randn(1, tokens, 512),), tokens, definition, softmax=(512, 8))
