"""Mixture of heads in LLaMA: routing by the norm of the query, without a new parameter (MoH-LLaMA3), or by the learned router (MoH-LLM)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.moh.attention import GateScale, HeadRouter, Routing, keep_largest, mixture_of_heads
from core_attention.parts.cache import Rows
from core_attention.parts.placing import Device, placed
from core_attention.parts.rotary import rotary_angles, rotate


def norm_routing(
    q: Float[Tensor, "batch heads tokens dim"], *, shared: int, routed: int, straight_through: bool = False
) -> Routing:
    """Gates of 0 and 1 from the norms of the queries before rotation.

    ``z_i = |q_i| / std(|q|)`` over the E candidates (unbiased, not centred), ``p = softmax(z)``; the K largest are kept, shared heads always. Where all norms
    are equal the deviation is held above 0, and the first candidates win.

    Args:
        straight_through: kept gates carry the gradient of p (paper, continued training); without it none flows, as in the published inference code.

    Raises:
        ValueError: numbers of heads that do not fit together.
    """
    heads = q.shape[1]
    candidates = heads - shared
    if not 0 <= shared <= heads or not 0 <= routed <= candidates:
        raise ValueError(
            f"of {heads} heads, {shared} cannot be shared and {routed} of the other {candidates} be chosen"
        )
    ones = q.new_ones(q.shape[0], q.shape[2], shared, dtype=torch.promote_types(q.dtype, torch.float32))
    if not candidates:
        return Routing(ones, None, None)
    with torch.set_grad_enabled(straight_through and torch.is_grad_enabled()):
        norm = q[:, shared:].to(ones.dtype).norm(dim=-1).transpose(1, 2)  # (batch, tokens, candidates)
        if candidates > 1:
            deviation = norm.std(dim=-1, keepdim=True)
        else:
            deviation = torch.zeros_like(norm)  # a single number has no unbiased deviation
        deviation = deviation.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)
        probabilities = (norm / deviation).softmax(-1)
        selected = keep_largest(probabilities, routed)
        gates = selected.to(ones.dtype)
        if straight_through:
            gates = gates * (1 + probabilities - probabilities.detach())  # still 0 or 1, with the gradient of p
    return Routing(torch.cat([ones, gates], dim=-1), selected, probabilities)


class MoHLlamaAttention(nn.Module):
    """LLaMA's grouped-query attention whose heads are routed. Parameter names are transformers'.

    Args:
        dim: channels.
        num_heads: query heads.
        num_kv_heads: key heads, a divisor of `num_heads`.
        shared: heads that every token uses; defaults to ``num_heads // 2``.
        routed: heads that a token chooses among the others; defaults to ``int(0.25 * num_heads)``.
        router: ``"norm"`` has no parameter and fits a pretrained LLaMA; ``"learned"`` is `HeadRouter`.
        theta: rotary base.
        bias: whether the projections have biases.
        straight_through: see `norm_routing`; in training only.
        gate_scale: of the learned router.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: heads that do not fit together.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        shared: int | None = None,
        routed: int | None = None,
        router: Literal["norm", "learned"] = "norm",
        theta: float = 500000.0,
        bias: bool = False,
        straight_through: bool = True,
        gate_scale: GateScale = "code",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads or (head_dim is None and dim % num_heads):
            raise ValueError(
                f"dim must be a multiple of num_heads and num_heads of num_kv_heads, got {dim}, {num_heads} and {num_kv_heads}"
            )
        if router not in ("norm", "learned"):
            raise ValueError(f"router is 'norm' or 'learned', got {router!r}")
        self.shared = num_heads // 2 if shared is None else shared
        self.routed = int(0.25 * num_heads) if routed is None else routed
        if not 0 <= self.shared <= num_heads or not 0 <= self.routed <= num_heads - self.shared:
            raise ValueError(
                f"of {num_heads} heads, {self.shared} cannot be shared and {self.routed} of the other {num_heads - self.shared} be chosen"
            )
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        self.theta, self.straight_through = theta, straight_through
        self.q_proj = nn.Linear(dim, num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * self.head_dim, dim, bias=bias)
        self.router = None
        if router == "learned":
            self.router = HeadRouter(dim, num_heads, shared=self.shared, routed=self.routed, gate_scale=gate_scale)

    def new_cache(self) -> Rows:
        """An empty cache of keys and values; one for each generation."""
        return Rows()

    def route(self, x: Float[Tensor, "batch tokens width"], q: Float[Tensor, "batch heads tokens dim"]) -> Routing:
        """The routing of tokens `x` with queries `q` (before rotation)."""
        if self.router is not None:
            return self.router(x)
        straight_through = self.straight_through and self.training
        return norm_routing(q, shared=self.shared, routed=self.routed, straight_through=straight_through)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        cache: Rows | None = None,
        positions: Int[Tensor, "..."] | None = None,
        skip: bool = True,
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, ""]]:
        """Causal attention: the output and the balance loss.

        Args:
            mask: True = may be seen; (batch, keys), cached ones included, or four axes that broadcast.
            cache: what earlier calls left; updated in place.
            positions: rotary positions, (tokens,) or (batch, tokens); by default they go on from the cache.
            skip: see `mixture_of_heads`.

        Returns:
            the tokens after attention, and the balance loss, a scalar.
        """
        if x.ndim != 3 or x.shape[-1] != self.q_proj.in_features:
            raise ValueError(f"expected (batch, tokens, {self.q_proj.in_features}), got {tuple(x.shape)}")
        # (batch, heads or kv heads, tokens, head_dim)
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        routing = self.route(x, q)
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + x.shape[1], device=x.device)
        angles = rotary_angles(positions, self.head_dim, self.theta, x.dtype)
        if angles.ndim == 3:  # positions of each sample: an axis for the heads
            angles = angles[:, None]
        q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            k, v = cache.extend(k, v)
        out = mixture_of_heads(q, k, v, routing, mask=mask, causal=True, skip=skip)
        return self.o_proj(out), routing.balance_loss().to(x.dtype)


class SwiGLU(nn.Module):
    """``W_down (silu(W_gate x) · W_up x)``."""

    @placed
    def __init__(
        self, dim: int, inner: int, *, bias: bool = False, device: Device = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner, bias=bias)
        self.up_proj = nn.Linear(dim, inner, bias=bias)
        self.down_proj = nn.Linear(inner, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The tokens after the gated feed-forward part."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoHLlamaLayer(nn.Module):
    """A pre-norm decoder layer around `MoHLlamaAttention`; parameter names are transformers'.

    Args:
        dim: channels.
        num_heads: query heads.
        inner: channels inside the feed-forward part.
        eps: of the RMS norms.
        attention: options of `MoHLlamaAttention`.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        inner: int,
        eps: float = 1e-5,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **attention,
    ) -> None:
        super().__init__()
        self.self_attn = MoHLlamaAttention(dim, num_heads, **attention)
        self.mlp = SwiGLU(dim, inner)
        self.input_layernorm = nn.RMSNorm(dim, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=eps)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], **options
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, ""]]:
        """The output and the balance loss; options as in `MoHLlamaAttention.forward`.

        Returns:
            the tokens after the layer, and the balance loss, a scalar.
        """
        out, loss = self.self_attn(self.input_layernorm(x), **options)
        x = x + out
        return x + self.mlp(self.post_attention_layernorm(x)), loss
