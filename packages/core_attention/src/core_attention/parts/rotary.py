"""Rotary position embedding (Su et al. 2021, RoFormer, eq. 34) in the two published pairings of channels.

``"half"`` pairs channel m with m + width/2 (LLaMA, Qwen, GPT-NeoX, Doge); ``"interleaved"`` pairs neighbours 2m and 2m + 1 (RoFormer, GPT-J).
"""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Pairing = Literal["half", "interleaved"]


def rotary_angles(
    positions: Shaped[Tensor, "*lead length"], width: int, theta: float = 10000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*lead length pairs"]:
    """Angles ``position · theta^(−2m/width)``, m = 0 … width/2 − 1, in float32 at least.

    Raises:
        ValueError: `width` is odd.
    """
    if width % 2:
        raise ValueError(f"rotary channels come in pairs, got width {width}")
    wide = torch.promote_types(dtype, torch.float32)
    frequency = theta ** (-torch.arange(0, width, 2, device=positions.device, dtype=wide) / width)
    return positions.to(wide)[..., None] * frequency


def rotate(
    t: Float[Tensor, "*lead length width"], angles: Float[Tensor, "*angle_lead length pairs"], pairing: Pairing = "half"
) -> Float[Tensor, "*lead length width"]:
    """Turns each pair of channels by its angle; `angles` broadcasts against the leading axes of `t`."""
    # sine and cosine are taken in the angles' precision: in half precision a large angle has no digits left
    sin, cos = angles.sin().to(t.dtype), angles.cos().to(t.dtype)
    if pairing == "half":
        a, b = t.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = t[..., 0::2], t[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def rotary_half(
    t: Float[Tensor, "batch heads length width"], positions: Shaped[Tensor, " length"], theta: float = 10000.0
) -> Float[Tensor, "batch heads length width"]:
    """`rotate` in half-split pairing at `positions`."""
    return rotate(t, rotary_angles(positions, t.shape[-1], theta, t.dtype))


def rotary_tables(
    positions: Shaped[Tensor, "*lead length"],
    width: int,
    theta: float = 10000.0,
    pairing: Pairing = "half",
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "*lead length width"], Float[Tensor, "*lead length width"]]:
    """cos and signed sin of every channel, for `turn`.

    Returns:
        the cosines, and the signed sines.
    """
    angles = rotary_angles(positions, width, theta, dtype)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    if pairing == "half":
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    return torch.stack([cos, cos], -1).flatten(-2), torch.stack([-sin, sin], -1).flatten(-2)


def turn(
    t: Float[Tensor, "*lead width"],
    cos: Float[Tensor, "*cos_lead width"],
    sin: Float[Tensor, "*sin_lead width"],
    pairing: Pairing = "half",
) -> Float[Tensor, "*out width"]:
    """`rotate` by tables made before, in three operations: for one token at a time."""
    partner = t.roll(t.shape[-1] // 2, -1) if pairing == "half" else t.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(t * cos, partner, sin)
