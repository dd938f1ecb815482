"""What a BMN learns from segments: every cell's IoU with an action, and how much every step is a start or an end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vision_models.actions.model.cells import Cells

EDGE = 1.5  # steps on both sides of a start or end that belong to it


class Targets(NamedTuple):
    """Of a sequence, or stacked of a batch.

    Attributes:
        iou: (rows, columns): the greatest IoU of a cell with an action, 0 where the map has no cell.
        start, end: (steps,): the share of a step that lies within 1.5 steps of a start or end.
    """

    iou: Tensor
    start: Tensor
    end: Tensor


def segment_iou(
    first: Float[NDArray[np.float64], "n 2"], second: Float[NDArray[np.float64], "m 2"]
) -> Float[NDArray[np.float64], "n m"]:
    """Intersection over union of every two segments; 0 where both are empty."""
    left = np.maximum(first[:, None, 0], second[None, :, 0])
    right = np.minimum(first[:, None, 1], second[None, :, 1])
    common = np.maximum(right - left, 0.0)
    union = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def targets_of(segments: Float[NDArray[np.float64], "n 2"], cells: Cells) -> Targets:
    """The targets of one sequence.

    Args:
        segments: (n, 2) starts and ends as shares of the sequence; clipped to [0, 1].
        cells: of the map.
    """
    steps = cells.steps
    gap = 1 / steps
    clipped = np.clip(np.asarray(segments, np.float64).reshape(-1, 2), 0.0, 1.0)
    iou = np.zeros(cells.shape[0] * cells.shape[1], np.float32)
    edges = np.zeros((2, steps), np.float32)
    if len(clipped):
        pairs = cells.pairs.astype(np.float64)
        spans = np.stack([pairs[:, 0] * gap, (pairs[:, 1] + 1) * gap], 1)
        iou[cells.places] = segment_iou(spans, clipped).max(1)
        # a step is centred on its number, not on its middle, as published
        left, right = gap * (np.arange(steps) - 0.5), gap * (np.arange(steps) + 0.5)
        for side in range(2):
            moments = clipped[:, side]
            reach = EDGE * gap
            common = np.minimum(right[:, None], moments + reach) - np.maximum(left[:, None], moments - reach)
            edges[side] = np.maximum(common, 0.0).max(1) / (right - left)
    return Targets(torch.from_numpy(iou).view(cells.shape), torch.from_numpy(edges[0]), torch.from_numpy(edges[1]))
