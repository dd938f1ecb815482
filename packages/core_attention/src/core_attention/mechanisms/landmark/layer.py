"""A self-attention layer with landmarks: in training on whole contexts, at inference with a `LandmarkMemory` for a cache."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.mechanisms.landmark.attention import Backend, landmark_attention
from core_attention.mechanisms.landmark.memory import LandmarkMemory
from core_attention.parts.placing import Device, placed
from core_attention.parts.rotary import Pairing, rotary_angles, rotate


class LandmarkAttention(nn.Module):
    """Causal grouped-query attention whose finished blocks are reached through their landmarks; no parameters beyond the projections.

    Args:
        dim: channels of the input and output.
        num_heads: query heads.
        num_kv_heads: key and value heads, a divisor of `num_heads`; defaults to `num_heads`.
        block: positions in a block, its landmark included (``mem_freq + 1``: 51 in the published small model).
        pairing, theta: of the rotary embedding; ``"half"`` in LLaMA, ``"interleaved"`` in the small model.
        bias: whether the projections have biases.
        group_dropout: see `grouped_softmax`; in training only.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: heads that do not divide.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        block: int = 51,
        pairing: Pairing = "half",
        theta: float = 10000.0,
        bias: bool = False,
        group_dropout: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads and num_heads of num_kv_heads, got {dim}, {num_heads} and {num_kv_heads}"
            )
        self.head_dim, self.block, self.theta, self.group_dropout = dim // num_heads, block, theta, group_dropout
        self.pairing: Pairing = pairing
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(dim, dim, bias=bias)

    def new_cache(self, top_k: int, **options) -> LandmarkMemory:
        """An empty memory for this layer; options as in `LandmarkMemory`."""
        return LandmarkMemory(self.block, top_k, pairing=self.pairing, theta=self.theta, **options)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        *,
        is_landmark: Bool[Tensor, "..."] | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        cache: LandmarkMemory | None = None,
        positions: Int[Tensor, "..."] | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch length width"]:
        """Self-attention over a stream whose every `block`-th token is a landmark.

        Args:
            is_landmark: where landmarks stand, if not regularly; not with a cache.
            mask: True = may be seen; not with a cache.
            cache: memory of this layer; `x` is then the next chunk of the stream, and is stored.
            positions: rotary positions, (length,) or (batch, length), for instance `jumped_positions`; not with a cache, which has its own.
            backend: as in `landmark_attention`; not with a cache.

        Returns:
            the stream after attention, landmarks included, of the shape of `x`.

        Raises:
            ValueError: a width that differs, or an argument that a cache excludes.
        """
        if x.ndim != 3 or x.shape[-1] != self.q_proj.in_features:
            raise ValueError(f"expected (batch, length, {self.q_proj.in_features}), got {tuple(x.shape)}")
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            if not (is_landmark is None and mask is None and positions is None):
                raise ValueError(
                    "a memory counts landmarks and positions itself: no is_landmark, mask or positions with a cache"
                )
            out = cache.attend(q, k, v)
        else:
            positions = torch.arange(x.shape[1], device=x.device) if positions is None else positions
            angles = rotary_angles(positions, self.head_dim, self.theta, x.dtype)
            angles = angles[:, None] if angles.ndim == 3 else angles
            out = landmark_attention(
                rotate(q, angles, self.pairing),
                rotate(k, angles, self.pairing),
                v,
                block=self.block if is_landmark is None else None,
                is_landmark=is_landmark,
                mask=mask,
                group_dropout=self.group_dropout if self.training else 0.0,
                backend=backend,
            )
        return self.o_proj(out.transpose(1, 2).flatten(2))


def example(tokens: int) -> Example:
    """A layer of 512 channels and 8 heads with the published block, for `core_attention.registry.catalogue`."""
    layer = LandmarkAttention(512, 8)
    return Example(
        layer,
        (torch.randn(1, tokens, 512),),
        tokens=tokens,
        reference=lambda x: layer(x, backend="reference"),
        softmax=(512, 8),
    )
