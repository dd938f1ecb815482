"""Mixture-of-head attention (Jin et al. 2024, MoH: Multi-Head Attention as Mixture-of-Head Attention, ICML 2025; arXiv 2410.11842).

Every token keeps the first `shared` heads, chooses `routed` of the others, and sums their outputs with weights of its own:
``y_t = Σ_i g_{t,i} o_{t,i} W_O^i``. A head that a token did not choose still serves keys and values to other tokens, but its output for that token is
not computed.
"""

from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.attention import attention
from core_attention.backends import reference
from core_attention.capture.recording import active, paused, record
from core_attention.masks import Causal, Dense, Mask
from core_attention.measuring.example import Example
from core_attention.mechanisms.moh.heads import selected_heads_attention
from core_attention.parts.largest import largest
from core_attention.parts.placing import Device, placed
from core_attention.parts.transforms import differentiated

GateScale = Literal["code", "paper"]


class Routing(NamedTuple):
    """Which heads each token uses, and how much.

    Attributes:
        gates: the factor of every head; the shared heads first. 0 where a head is not chosen.
        selected: which of the routed candidates each token chose; None where no head is routed.
        probabilities: the router's softmax over the routed candidates; None where no head is routed.
    """

    gates: Float[Tensor, "batch tokens heads"]
    selected: Bool[Tensor, "batch tokens candidates"] | None
    probabilities: Float[Tensor, "batch tokens candidates"] | None

    def balance_loss(self) -> Float[Tensor, ""]:
        """``E Σ_i f_i P_i`` over the E candidates, with f_i the share of tokens that chose head i and P_i its mean probability.

        `routed` when routing is uniform, at most E; 0 where no head is routed. Training adds 0.01 times its mean over the layers that route.
        """
        if self.selected is None or self.probabilities is None:
            return self.gates.new_zeros(())
        probabilities = self.probabilities.flatten(0, 1)  # (batch · tokens, candidates)
        selected = self.selected.flatten(0, 1).to(probabilities.dtype)
        tokens = max(1, selected.shape[0])  # no token, no loss
        share, mean_probability = selected.sum(0) / tokens, probabilities.sum(0) / tokens  # f and P
        return selected.shape[1] * (share * mean_probability).sum()


def keep_largest(scores: Float[Tensor, "*tokens candidates"], count: int) -> Bool[Tensor, "*tokens candidates"]:
    """True at the `count` largest scores; of equal ones the first. Carries no gradient."""
    index = largest(scores.detach(), count).index
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, index, True)


class HeadRouter(nn.Module):
    """The learned two-stage router.

    With p the softmax of W_r x over the E candidates, m the mask of its K largest, s the softmax of W_s x over the shared heads and a the softmax
    of W_h x over the two kinds:

        ``"code"`` (checkpoints): shared gates ``2 a_0 h_s s``, routed gates ``2 a_1 K p m / Σ p m``: means of 1;
        ``"paper"``: shared gates ``a_0 s``, routed gates ``a_1 p m``.

    Without routed heads the gates are ``h_s s`` alone, without shared heads the routed part alone (no W_h in either); one shared head has s = 1.

    Args:
        dim: channels of the tokens that choose.
        num_heads: all heads.
        shared: h_s, the heads that every token uses: the first ones.
        routed: K, the heads that a token chooses among the others. 0 requires ``shared == num_heads``.
        gate_scale: see above.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: numbers of heads that do not fit together.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        shared: int,
        routed: int,
        gate_scale: GateScale = "code",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or not 0 <= shared <= num_heads or not 0 <= routed <= num_heads - shared:
            raise ValueError(
                f"of {num_heads} heads, {shared} cannot be shared and {routed} of the other {num_heads - shared} be chosen"
            )
        if not routed and shared != num_heads:
            raise ValueError(f"with no routed head all {num_heads} must be shared, got {shared}")
        if gate_scale not in ("code", "paper"):
            raise ValueError(f"gate_scale is 'code' or 'paper', got {gate_scale!r}")
        self.num_heads, self.shared, self.routed = num_heads, shared, routed
        self.gate_scale: GateScale = gate_scale
        # the published names: wg over candidates, wg_0 over the two kinds, wg_1 over shared heads
        self.wg = nn.Linear(dim, num_heads - shared, bias=False) if routed else None
        self.wg_0 = nn.Linear(dim, 2, bias=False) if routed and shared else None
        self.wg_1 = nn.Linear(dim, shared, bias=False) if shared > 1 else None

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Routing:
        """The gates of every token; in float32 at least."""
        layers = [layer for layer in (self.wg, self.wg_0, self.wg_1) if layer is not None]
        logits = x.new_zeros(*x.shape[:-1], 0)
        if layers:  # one product for all three
            logits = F.linear(x, torch.cat([layer.weight for layer in layers]))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # taken in the order of `layers`: candidates, kinds, shared heads
        parts = iter(logits.split([layer.out_features for layer in layers], dim=-1))
        code = self.gate_scale == "code"

        selected = probabilities = None
        gates = []
        if self.wg is not None:
            probabilities = next(parts).softmax(-1)  # p
            selected = keep_largest(probabilities, self.routed)  # m
            routed_gates = probabilities * selected
            if code:
                total = routed_gates.sum(-1, keepdim=True)
                total = total.clamp(min=torch.finfo(total.dtype).eps)  # selected probabilities may underflow
                routed_gates = self.routed * routed_gates / total
            gates = [routed_gates]
        kinds = None
        if self.wg_0 is not None:
            kinds = next(parts).softmax(-1)  # a: of the shared heads, then of the routed ones
            if code:
                kinds = kinds * 2
        if self.shared:
            if self.wg_1 is not None:
                shared_gates = next(parts).softmax(-1)  # s
            else:
                shared_gates = logits.new_ones(*x.shape[:-1], 1)
            if code:
                shared_gates = shared_gates * self.shared
            gates = [shared_gates, *gates]
        if kinds is not None:
            # both kinds exist where wg_0 does
            gates = [gates[0] * kinds[..., :1], gates[1] * kinds[..., 1:]]
        return Routing(torch.cat(gates, dim=-1), selected, probabilities)


def mixture_of_heads(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    routing: Routing,
    **options: Any,
) -> Float[Tensor, "batch queries heads_value_dim"]:
    """Head outputs times their gates, side by side: what the output projection takes. Options as in `gated_heads`."""
    return gated_heads(q, k, v, routing, **options).transpose(1, 2).flatten(2)


def gated_heads(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    routing: Routing,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
    skip: bool = True,
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Head outputs times their gates, ``g_{t,i} o_{t,i}``.

    Args:
        routing: of the queries' tokens.
        mask: True = may be seen; (batch, keys), or four axes that broadcast to (batch, heads, queries, keys).
        causal: query i of N sees keys up to ``keys − N + i``.
        scale: defaults to dim^-1/2.
        skip: computes a routed head only for the tokens that chose it. A mask with a value for each query, and False, compute every head and multiply
            by 0, as published: the definition.

    Returns:
        the outputs, each times its gate; 0 where a head was not chosen.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, heads, queries, _ = q.shape
    kv_heads, keys = k.shape[1:3]
    if tuple(routing.gates.shape) != (batch, queries, heads):
        raise ValueError(f"gates {tuple(routing.gates.shape)} are not (batch, queries, heads) of q {tuple(q.shape)}")
    if heads % max(kv_heads, 1):
        raise ValueError(f"query heads must be a multiple of key heads: q {tuple(q.shape)}, k {tuple(k.shape)}")
    # `key_mask` (batch, keys) is what skipping can take; `full_mask` is the whole mask for ordinary attention
    key_mask = mask
    if mask is not None and mask.ndim == 4:
        key_mask = mask[:, 0, 0].expand(batch, -1) if mask.shape[1:3] == (1, 1) else None
    full_mask: Mask | None = Causal(keys - queries) if causal else None
    if mask is not None:
        dense = Dense(mask[:, None, None] if mask.ndim == 2 else mask)
        full_mask = dense if full_mask is None else full_mask & dense
    if active():
        _record(q, k, routing, full_mask, scale)
    with paused() if active() else nullcontext():
        # torch's own attention where nothing can be skipped, or a mask has a row for each query
        if not skip or differentiated() or routing.selected is None or (mask is not None and key_mask is None):
            out = attention(q, k, v, mask=full_mask, scale=scale)
        else:
            out = _attend_skipping(q, k, v, routing.selected, full_mask, key_mask, causal, scale)
    return out * routing.gates.transpose(1, 2)[..., None].to(out.dtype)


def _attend_skipping(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    mask: Mask | None,
    key_mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Shared heads for every token, routed heads for the tokens that chose them; 0 elsewhere."""
    heads, kv_heads = q.shape[1], k.shape[1]
    group, shared = heads // kv_heads, heads - selected.shape[-1]
    routed = selected_heads_attention(
        q[:, shared:],
        k,
        v,
        selected,
        kv_head=[head // group for head in range(shared, heads)],
        causal=causal,
        key_mask=key_mask,
        scale=scale,
    )
    if not shared:
        return routed
    if shared % group:
        # the last key head of the shared heads also serves routed ones: then there are no equal groups
        shared_k, shared_v = (x.repeat_interleave(group, 1)[:, :shared] for x in (k, v))
    else:
        shared_k, shared_v = k[:, : shared // group], v[:, : shared // group]
    out = attention(q[:, :shared], shared_k, shared_v, mask=mask, scale=scale)
    return torch.cat([out, routed], dim=1)


def _record(q: Tensor, k: Tensor, routing: Routing, mask: Mask | None, scale: float | None) -> None:
    batch, heads, queries, dim = q.shape
    factor = dim**-0.5 if scale is None else float(scale)
    gates = routing.gates.transpose(1, 2)

    def weights(rows: Tensor, heads: Tensor) -> Tensor:
        softmax = reference.weights(q, k, mask=mask, scale=factor, rows=rows, heads=heads)
        used = gates[:, heads][:, :, rows, None] != 0
        return softmax * used  # a head that a token did not choose looks at nothing

    record("weights", weights, shape=(batch, heads, queries, k.shape[2]), device=q.device)
    record("gates", lambda rows, _: routing.gates[:, None, rows], shape=(batch, 1, queries, heads), device=q.device)


class MoHAttention(nn.Module):
    """Mixture-of-head self- or cross-attention (the layer of MoH-DiT).

    Args:
        dim: channels of the input and output.
        num_heads: all heads.
        shared: heads that every token uses.
        routed: heads that a token chooses among the others.
        head_dim: defaults to ``dim // num_heads``; heads · head_dim may differ from `dim`.
        context_dim: channels of the context that keys and values come from; None: self-attention.
        bias: whether the projections to q, k and v have biases.
        causal: no key after the query.
        gate_scale: see `HeadRouter`.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: numbers of heads that do not fit together.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        shared: int,
        routed: int,
        head_dim: int | None = None,
        context_dim: int | None = None,
        bias: bool = True,
        causal: bool = False,
        gate_scale: GateScale = "code",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.router = HeadRouter(dim, num_heads, shared=shared, routed=routed, gate_scale=gate_scale)
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads unless head_dim is given, got {dim} and {num_heads}")
        self.num_heads, self.causal = num_heads, causal
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        inner = num_heads * self.head_dim
        self.context_dim = context_dim
        if context_dim is None:
            self.qkv = nn.Linear(dim, 3 * inner, bias=bias)
        else:
            self.q, self.kv = nn.Linear(dim, inner, bias=bias), nn.Linear(context_dim, 2 * inner, bias=bias)
        self.proj = nn.Linear(inner, dim)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        context: Float[Tensor, "batch keys context_dim"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        skip: bool = True,
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, ""]]:
        """The output, and the balance loss (see `Routing.balance_loss`), which is for the caller to add.

        Args:
            context: what keys and values come from, with `context_dim`.
            mask, skip: see `mixture_of_heads`.

        Returns:
            the tokens after attention, and the balance loss, a scalar.

        Raises:
            ValueError: a width that differs, or a context that is missing or not expected.
        """
        if (context is None) != (self.context_dim is None):
            given = None if context is None else tuple(context.shape)
            raise ValueError(f"this layer has context_dim={self.context_dim}, and was given context={given}")
        expected = self.proj.out_features
        if x.ndim != 3 or x.shape[-1] != expected:
            raise ValueError(f"expected (batch, tokens, {expected}), got {tuple(x.shape)}")

        if context is None:
            q, k, v = self._split_heads(self.qkv(x), 3)
        else:
            (q,) = self._split_heads(self.q(x), 1)
            k, v = self._split_heads(self.kv(context), 2)
        routing = self.router(x)
        out = mixture_of_heads(q, k, v, routing, mask=mask, causal=self.causal, skip=skip)
        return self.proj(out), routing.balance_loss().to(x.dtype)

    def _split_heads(self, projected: Tensor, count: int) -> tuple[Tensor, ...]:
        """(batch, tokens, count · heads · head_dim) → `count` tensors (batch, heads, tokens, head_dim)."""
        split = projected.unflatten(-1, (count, self.num_heads, self.head_dim))
        return split.permute(2, 0, 3, 1, 4).unbind(0)


def example(tokens: int) -> Example:
    """A layer of 512 channels with 4 shared heads and 2 of 4 others (75 % active), for `core_attention.registry.catalogue`."""
    layer = MoHAttention(512, 8, shared=4, routed=2)
    x = torch.randn(1, tokens, 512)
    return Example(layer, (x,), tokens=tokens, reference=lambda x: layer(x, skip=False), softmax=(512, 8))
