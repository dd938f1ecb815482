"""The loss of a BMN: boundaries, regressed IoU and class of every cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vision_models.actions.model.cells import Cells
from vision_models.actions.model.targets import Targets

HIGH, LOW = 0.7, 0.3  # IoU above which a cell is kept for the regression, and below which it is a low one
POSITIVE = 0.9  # IoU above which a cell is an action
EPSILON = 1e-6


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses."""

    tem: float = 1.0
    reg: float = 10.0
    cls: float = 1.0


class Losses(NamedTuple):
    total: Tensor
    tem: Tensor
    reg: Tensor
    cls: Tensor


def balanced_cross_entropy(
    probability: Float[Tensor, "*shape"], positive: Float[Tensor, "*shape"], valid: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Binary cross entropy in which both sides weigh the same.

    With n entries of which p are positive and r = n/p, positives weigh r/2 and negatives r/(2(r - 1)). Where one side is empty it is the
    plain mean (the published code gives NaN).
    """
    negative = (1 - positive) * valid
    positive = positive * valid
    count, positives = valid.sum(), positive.sum()
    one_sided = (positives == 0) | (positives == count)
    ratio = count / positives.clamp(min=1)
    up = torch.where(one_sided, 1.0, 0.5 * ratio)
    down = torch.where(one_sided, 1.0, 0.5 * ratio / (ratio - 1).clamp(min=EPSILON))
    gain = up * positive * torch.log(probability + EPSILON) + down * negative * torch.log(1 - probability + EPSILON)
    return -gain.sum() / count.clamp(min=1)


def regression_loss(
    predicted: Float[Tensor, "batch rows columns"],
    iou: Float[Tensor, "batch rows columns"],
    draws: tuple[Float[Tensor, "batch rows columns"], Float[Tensor, "batch rows columns"]],
) -> Float[Tensor, ""]:
    """Half the mean squared error of the IoU over cells of high IoU, and about as many of middle and of low IoU.

    Args:
        predicted, iou: regressed and true; the latter 0 where the map has no cell.
        draws: uniform numbers that choose the cells of middle and of low IoU.
    """
    high = (iou > HIGH).to(iou)
    weights = high
    for inside, draw in zip(((iou <= HIGH) & (iou > LOW), (iou <= LOW) & (iou > 0)), draws, strict=True):
        share = high.sum() / inside.sum().clamp(min=1)
        weights = weights + (inside & (draw > 1 - share)).to(iou)
    return 0.5 * (weights * (predicted - iou) ** 2).sum() / weights.sum().clamp(min=1)


def bmn_loss(
    confidence: Float[Tensor, "batch 2 rows columns"],
    start: Float[Tensor, "batch steps"],
    end: Float[Tensor, "batch steps"],
    targets: Targets,
    cells: Cells,
    *,
    weights: LossWeights = LossWeights(),
    draws: tuple[Tensor, Tensor] | None = None,
) -> Losses:
    """The weighted sum of the three losses, and each of them.

    Args:
        confidence, start, end: what the network says, see `BMNOutput`.
        targets: stacked over the batch.
        draws: uniform numbers (batch, rows, columns), for middle and low cells; default: drawn here.
    """
    valid = cells.mask(confidence.device).to(confidence)
    iou = targets.iou.to(confidence) * valid
    if draws is None:
        draws = torch.rand_like(iou), torch.rand_like(iou)
    tem = confidence.new_zeros(())
    for predicted, true in ((start, targets.start), (end, targets.end)):
        tem = tem + balanced_cross_entropy(predicted, (true > 0.5).to(predicted), torch.ones_like(predicted))
    reg = regression_loss(confidence[:, 0], iou, draws)
    cls = balanced_cross_entropy(confidence[:, 1], (iou > POSITIVE).to(iou), valid.expand_as(iou))
    return Losses(weights.tem * tem + weights.reg * reg + weights.cls * cls, tem, reg, cls)
