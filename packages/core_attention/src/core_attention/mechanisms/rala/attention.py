"""Rank-augmented linear attention for images (RALA), and the softmax attention of the same networks.

Source: Fan, Huang, He, "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025.

Tokens stay the last axis here, (batch, heads, head_dim, tokens), as a 1×1 convolution leaves them: linear attention then needs no transposition.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.capture.recording import record
from core_attention.measuring.example import Example
from core_attention.parts.fast_weights import linear_attention
from core_attention.parts.placing import Device, placed
from core_attention.parts.transforms import transformed


def rotary_table(
    height: int, width: int, head_dim: int, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Sine and cosine of the 2-D rotary phase, each (height·width, head_dim), float32, tokens in row-major order.

    ``θ_m = 10000^(−m')`` with m' evenly spaced from 0 to 1 (both ends included, unlike the usual rotary embedding), each repeated for a pair of
    channels; the first half of the channels turns with y, the second with x. Tables are cached per grid.

    Returns:
        sine and cosine, (height · width, head_dim) each.

    Raises:
        ValueError: `head_dim` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim must be a multiple of 4 (pairs for y and for x), got {head_dim}")
    # Dynamo looks through a cache, with a warning; a mode such as FakeTensorMode would leave its own kind of tensor in it
    if transformed() or torch._C._len_torch_dispatch_stack():
        return _compute_table(height, width, head_dim, torch.device(device))
    return _cached_table(height, width, head_dim, torch.device(device))


def _compute_table(height: int, width: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    theta = (10000 ** -torch.linspace(0, 1, head_dim // 4)).repeat_interleave(2)
    # y and x: (height, width, head_dim / 2) each
    y = (torch.arange(height)[:, None] * theta)[:, None].expand(-1, width, -1)
    x = (torch.arange(width)[:, None] * theta)[None].expand(height, -1, -1)
    phase = torch.cat([y, x], -1).reshape(height * width, head_dim).to(device)
    return phase.sin(), phase.cos()


@lru_cache(maxsize=64)
def _cached_table(height: int, width: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # a table made under inference_mode could not serve training later
        return _compute_table(height, width, head_dim, device)


def rotate(
    t: Float[Tensor, "batch heads head_dim tokens"],
    sin: Float[Tensor, "tokens head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "batch heads head_dim tokens"]:
    """The rotary phase ``R(t) = t ⊙ cos + rot(t) ⊙ sin``, where rot maps a pair of neighbouring channels (a, b) to (−b, a)."""
    sin, cos = sin.T.to(t.dtype), cos.T.to(t.dtype)
    pairs = t.unflatten(2, (-1, 2))  # (batch, heads, head_dim / 2, 2, tokens)
    turned = torch.stack([-pairs[:, :, :, 1], pairs[:, :, :, 0]], 3).flatten(2, 3)
    return torch.addcmul(t * cos, turned, sin)


def _phi(x: Tensor) -> Tensor:
    """``ELU(x) + 1``. Not through `F.elu`: its backward keeps other strides on the CPU than torch.compile assumes."""
    return x.clamp(max=0).exp() + x.relu()


def rank_coefficients(
    q: Float[Tensor, "batch heads head_dim tokens"], k: Float[Tensor, "batch heads head_dim tokens"], scale: float
) -> Float[Tensor, "batch heads 1 tokens"]:
    """What each key counts in the KV buffer: ``a_j = N · softmax_j(s · mean_i φ(q_i) · φ(k_j))``; sums to N, 1 when all keys are alike.

    `q` and `k` are already mapped by φ. Returned in float32 (float64 for float64 tensors).
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        mean_query = q.to(wide).mean(-1, keepdim=True)  # (batch, heads, head_dim, 1)
        scores = scale * (mean_query.transpose(2, 3) @ k.to(wide))
        return k.shape[-1] * torch.softmax(scores, -1)


def rank_augmented_attention(
    q: Float[Tensor, "batch heads head_dim tokens"],
    k: Float[Tensor, "batch heads head_dim tokens"],
    v: Float[Tensor, "batch heads value_dim tokens"],
    sin: Float[Tensor, "tokens head_dim"] | None = None,
    cos: Float[Tensor, "tokens head_dim"] | None = None,
    *,
    scale: float | None = None,
    return_buffer: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Linear attention whose KV buffer weighs keys by their agreement with the mean query (paper, section 3.2), O(N·d²).

    With ``φ = ELU + 1`` and the coefficients a of `rank_coefficients`::

        y_i = z_i · R(φ(q_i)) (1/N) Σ_j R(a_j φ(k_j)) v_jᵀ,    z_i = 1 / (φ(q_i) · mean_j a_j φ(k_j) + 1e-6)

    The rotary phase R acts on the numerator only. The buffer's factors carry N^-½ each (`fast_weights.linear_attention`), and the normaliser is
    computed in float32 and applied to the query, so that half precision neither overflows nor underflows.

    Args:
        q, k, v: before φ, tokens last.
        sin, cos: tables of `rotary_table`; None leaves the phase out.
        scale: of the coefficients' softmax; None: ``head_dim ** -0.5``.
        return_buffer: also return the KV buffer, (batch, heads, head_dim, value_dim), whose rank the paper is about.

    Returns:
        y, (batch, heads, value_dim, tokens).

    Raises:
        ValueError: no tokens, or tables of another grid.
    """
    tokens = q.shape[-1]
    if tokens == 0:
        raise ValueError(f"there are no tokens to attend to: q has shape {tuple(q.shape)}")
    if sin is not None and sin.shape != (tokens, q.shape[2]):
        raise ValueError(f"the rotary table has shape {tuple(sin.shape)}, these queries need {(tokens, q.shape[2])}")
    factor = q.shape[2] ** -0.5 if scale is None else scale
    q, k = _phi(q), _phi(k)
    a = rank_coefficients(q, k, factor)
    with torch.autocast(q.device.type, enabled=False):
        mean_key = k.to(a.dtype) @ a.mT / tokens  # (batch, heads, head_dim, 1)
        normaliser = mean_key.mT @ q.to(a.dtype) + 1e-6  # 1 / z_i, before the rotation: R acts on the numerator only
        # z_i goes to the query, so that no product grows before it is divided
        q = (q / normaliser).to(q.dtype)
    if sin is not None and cos is not None:
        q, k = rotate(q, sin, cos), rotate(k, sin, cos)
    record(
        "weights",
        lambda rows, heads: q[:, heads][..., rows].mT.to(a.dtype) @ (k[:, heads] * (a[:, heads] / tokens)),
        shape=(q.shape[0], q.shape[1], tokens, tokens),
        device=q.device,
    )
    y = linear_attention(q.mT, k.mT, v.mT, weights=a[:, :, 0]).mT
    if not return_buffer:
        return y
    # the N⁻¹ of the mean, half on either factor, as `linear_attention` takes it
    root = tokens**-0.5
    return y, (k * (a * root).to(k.dtype)) @ (v * root).mT


class _GatedImageAttention(nn.Module):
    """What both attentions of RAVLT share: one projection to q, k, v, o, the 5×5 positional convolution of v, and the gate ``(y + L) ⊙ o``."""

    @placed
    def __init__(self, dim: int, num_heads: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if dim <= 0 or num_heads <= 0 or dim % (2 * num_heads):
            raise ValueError(
                f"dim must be a multiple of 2 · num_heads (rotary pairs), got dim {dim} and {num_heads} heads"
            )
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkvo = nn.Conv2d(dim, 4 * dim, 1)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj = nn.Conv2d(dim, dim, 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch dim height width"],
        sin: Float[Tensor, "tokens head_dim"] | None = None,
        cos: Float[Tensor, "tokens head_dim"] | None = None,
    ) -> Float[Tensor, "batch dim height width"]:
        """Attends over all positions of the map. `sin` and `cos` default to the cached `rotary_table` of its grid.

        Raises:
            ValueError: another rank or number of channels, or an empty map.
        """
        if x.ndim != 4 or x.shape[1] != self.dim or 0 in x.shape[2:]:
            raise ValueError(
                f"expected a map of {self.dim} channels and at least one pixel, got shape {tuple(x.shape)}"
            )
        if sin is None or cos is None:
            sin, cos = rotary_table(x.shape[2], x.shape[3], self.head_dim, device=x.device)
        q, k, v, gate = self.qkvo(x).chunk(4, 1)
        local = self.lepe(v)  # of the map of values, before the heads are split
        q, k, v = (t.flatten(2).unflatten(1, (self.num_heads, self.head_dim)) for t in (q, k, v))
        y = self.mix(q, k, v, sin, cos).flatten(1, 2).unflatten(2, x.shape[2:])
        return self.proj((y + local) * gate)


class GateLinearAttentionNoSilu(_GatedImageAttention):
    """RALA, the linear attention of the first two stages: ``Conv((y + DWConv5×5(v)) ⊙ o)`` with y of `rank_augmented_attention`.

    Args:
        dim: channels C; a multiple of 4 · `num_heads` for the published tables (2 · `num_heads` with tables of your own).
        num_heads: heads h.
        device, dtype: of parameters and buffers.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        y = rank_augmented_attention(q, k, v, sin, cos, scale=self.scale)
        assert isinstance(y, Tensor)
        return y


class VanillaSelfAttention(_GatedImageAttention):
    """The softmax attention of the last two stages: ``y = softmax(s · R(q) R(k)ᵀ) v`` between the same projections, on fused kernels.

    Args:
        dim: channels C; a multiple of 4 · `num_heads` for the published tables (2 · `num_heads` with tables of your own).
        num_heads: heads h.
        device, dtype: of parameters and buffers.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        q, k = rotate(q, sin, cos), rotate(k, sin, cos)
        # the fused kernels take channels last
        q, k, v = q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)
        return attention(q, k, v, scale=self.scale).transpose(2, 3)


def example(tokens: int) -> Example:
    """A layer of RAVLT's first stage, for `core_attention.registry.catalogue`."""
    side = max(1, round(tokens**0.5))
    layer = GateLinearAttentionNoSilu(64, 1)
    return Example(layer, (torch.randn(1, 64, side, side),), tokens=side * side, softmax=(64, 1))
