"""Rotary position embedding in the half-split form of Llama, Qwen and GPT-NeoX."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_half(
    t: Float[Tensor, "batch heads length width"], positions: Int[Tensor, " length"], theta: float = 10000.0
) -> Float[Tensor, "batch heads length width"]:
    """Turns channel pairs (m, m + width/2) by the angle ``position · theta^(−2m/width)`` (Su et al. 2021; half-split pairing).

    Angles are computed in float32 (float64 for float64 tensors) whatever the dtype of `t`.

    Raises:
        ValueError: `width` is odd.
    """
    width = t.shape[-1]
    if width % 2:
        raise ValueError(f"rotary channels come in pairs, got width {width}")
    wide = torch.promote_types(t.dtype, torch.float32)
    frequency = theta ** (-torch.arange(0, width, 2, device=t.device, dtype=wide) / width)
    angle = positions.to(wide)[:, None] * frequency
    sin, cos = angle.sin().to(t.dtype), angle.cos().to(t.dtype)
    a, b = t.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
