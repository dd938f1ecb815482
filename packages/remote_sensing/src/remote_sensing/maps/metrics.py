"""How well masks and lines agree with the truth: pixels, buffered lines, panoptic quality of areas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from torch import Tensor


@dataclass
class PixelCounts:
    """Pooled counts of a class over any number of pieces of mask."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        self.tp += int((predicted & truth).sum())
        self.fp += int((predicted & ~truth).sum())
        self.fn += int((~predicted & truth).sum())

    def measures(self) -> dict[str, float]:
        """IoU, F1, precision and recall; NaN where there is nothing to divide by."""

        def share(a: float, b: float) -> float:
            return a / b if b else float("nan")

        return {
            "iou": share(self.tp, self.tp + self.fp + self.fn),
            "f1": share(2 * self.tp, 2 * self.tp + self.fp + self.fn),
            "precision": share(self.tp, self.tp + self.fp),
            "recall": share(self.tp, self.tp + self.fn),
        }


def line_measures(found: Sequence[BaseGeometry], truth: Sequence[BaseGeometry], tolerance: float) -> dict[str, float]:
    """Buffered agreement of lines (Heipke et al. 1997), in the units of the coordinates.

    Completeness is the share of the true length within `tolerance` of a found line, correctness the share of the found length within it of a
    true one, quality = matched found / (found + unmatched true).
    """
    total_found, total_true = sum(g.length for g in found), sum(g.length for g in truth)
    near_true = shapely.union_all([g.buffer(tolerance) for g in truth]) if truth else shapely.Point()
    near_found = shapely.union_all([g.buffer(tolerance) for g in found]) if found else shapely.Point()
    matched_found = sum(g.intersection(near_true).length for g in found)
    matched_true = sum(g.intersection(near_found).length for g in truth)
    nan = float("nan")
    whole = total_found + (total_true - matched_true)
    return {
        "completeness": matched_true / total_true if total_true else nan,
        "correctness": matched_found / total_found if total_found else nan,
        "quality": matched_found / whole if whole else nan,
    }


def panoptic_quality(found: Sequence[BaseGeometry], truth: Sequence[BaseGeometry]) -> dict[str, float]:
    """PQ, SQ and RQ of areas: objects match where their IoU is above 0.5, ``PQ = Σ IoU / (TP + FP/2 + FN/2)``."""
    if not found and not truth:
        return {"pq": float("nan"), "sq": float("nan"), "rq": float("nan")}
    scores: list[float] = []
    if found and truth:
        tree = shapely.STRtree(list(truth))
        first, second = tree.query(list(found), predicate="intersects")
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            common = found[i].intersection(truth[j]).area
            iou = common / (found[i].area + truth[j].area - common) if common else 0.0
            if iou > 0.5:  # then no other pair of either can be
                scores.append(iou)
    matched = len(scores)
    whole = matched + (len(found) - matched) / 2 + (len(truth) - matched) / 2
    return {
        "pq": sum(scores) / whole,
        "sq": sum(scores) / matched if matched else 0.0,
        "rq": matched / whole,
    }


def image_measures(
    predicted: Int[Tensor, "n h w"], truth: Int[Tensor, "n h w"], empty: Literal["zero", "one", "skip"] = "zero"
) -> Float[Tensor, "n 4"]:
    """Precision, recall, F1 and IoU of each pair of masks.

    Args:
        empty: what a measure with denominator 0 is: 0 as published, 1, or NaN ("skip").
    """
    p, y = predicted.flatten(1).bool(), truth.flatten(1).bool()
    tp, fp, fn = ((a & b).sum(1).double() for a, b in ((p, y), (p, ~y), (~p, y)))
    value = {"zero": 0.0, "one": 1.0, "skip": torch.nan}[empty]

    def share(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b > 0, a / b.clamp_min(1), torch.full_like(a, value))

    return torch.stack(
        [share(tp, tp + fp), share(tp, tp + fn), share(2 * tp, 2 * tp + fp + fn), share(tp, tp + fp + fn)], 1
    )


def calibration_error(probability: Tensor, truth: Tensor, bins: int = 15) -> float:
    """The expected calibration error of binary decisions: the mean gap between confidence and accuracy over bins of confidence."""
    right = ((probability > 0.5) == (truth > 0.5)).double()
    confidence = torch.maximum(probability, 1 - probability)
    number = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    total = 0.0
    for i in range(bins):
        here = number == i
        if here.any():
            total += float(here.double().mean()) * abs(float(confidence[here].mean()) - float(right[here].mean()))
    return total
