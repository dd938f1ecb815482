"""Dropout of attention weights as a function of a seed and of the places of query and key.

Whether a weight is dropped depends on nothing else: not on the backend, nor on how a problem is cut into pieces. So the backward pass
draws the same weights again without keeping them, and every way to compute them gives the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core_attention.masks import Part, Size, positions


class Dropout(NamedTuple):
    """Weights are 0 with probability `share`, the others are divided by ``1 - share``; `seed` is an int64 of no dimensions."""

    share: float
    seed: Tensor


def drawn(share: float) -> Dropout | None:
    """Dropout with a seed from torch's generator; None without dropout.

    Raises:
        ValueError: a share outside 0 ≤ share < 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"dropout is a share of weights, 0 ≤ dropout < 1, got {share}")
    return Dropout(share, torch.randint(2**62, ())) if share else None


def factors(dropout: Dropout, size: Size, part: Part, device: torch.device) -> Float[Tensor, "b h rows keys"]:
    """0 for the weights of `part` that are dropped, ``1 / (1 - share)`` for the others."""
    seed = dropout.seed.to(device)
    sample = positions(part.batch, size.batch, device)[:, None, None]
    head = positions(part.heads, size.heads, device)[:, None]
    row = (sample * size.heads + head) * size.queries + positions(part.rows, size.queries, device)
    rows = _scrambled(_scrambled((row + seed).int()) ^ ((row >> 32) + (seed >> 32)).int())
    keys = _scrambled(positions(part.keys, size.keys, device).int())
    bits = _scrambled(rows[..., None] ^ keys)
    # `bits` is uniform over all int32: the lowest share of them is dropped
    survives = bits >= min(-(2**31) + round(dropout.share * 2**32), 2**31 - 1)
    return survives.float() / (1 - dropout.share)


def _scrambled(bits: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Each int32 as another that looks random (the mixer "lowbias32" of C. Wellons' hash prospector); products wrap around."""
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * 0x7FEB352D
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * (0x846CA68B - 2**32)
    return bits ^ ((bits >> 16) & 0xFFFF)
