"""Attention maps as proxy masks: upsampled, from 0 to 1, cut at Otsu's threshold (or a fixed one)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


def seen_map(attention: Float[Tensor, "1 h w"], shape: tuple[int, int], image_size: int) -> NDArray[np.float32]:
    """The map on a picture's own grid, from 0 to 1; what the centre crop leaves out is 0.

    Args:
        attention: of one picture.
        shape: its rows and columns.
        image_size: pixels of a side that the network saw.
    """
    shorter = round(image_size * 256 / 224)
    scale = shorter / min(shape)
    sides = tuple(max(shorter, round(side * scale)) for side in shape)
    crop = F.interpolate(attention[None].float(), size=(image_size, image_size), mode="bilinear", align_corners=False)[
        0, 0
    ]
    span = (crop.max() - crop.min()).clamp(min=1e-9)
    crop = (crop - crop.min()) / span
    whole = torch.zeros(sides)
    top, left = ((side - image_size) // 2 for side in sides)
    whole[top : top + image_size, left : left + image_size] = crop
    return F.interpolate(whole[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def otsu(values: NDArray[np.float32], bins: int = 256) -> float:
    """The threshold that separates the values into two groups with the greatest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * centres)
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    # an empty gap between the groups is a plateau: its middle
    best = np.flatnonzero(between[:-1] >= between[:-1].max() * (1 - 1e-9))
    return float(centres[best].mean())


def proxy_mask(seen: NDArray[np.float32], *, threshold: float | None = None) -> NDArray[np.bool_]:
    """Where the model looks.

    Args:
        seen: from `seen_map`.
        threshold: a fixed one; None: Otsu's.
    """
    return seen > (otsu(seen) if threshold is None else threshold)
