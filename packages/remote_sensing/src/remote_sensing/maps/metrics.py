"""Agreement of masks and lines with the truth: pixels, buffered lines, panoptic quality of areas."""

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
    """Pooled counts for a class over any number of pieces of mask."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        self.tp += int((predicted & truth).sum())
        self.fp += int((predicted & ~truth).sum())
        self.fn += int((~predicted & truth).sum())

    def measures(self) -> dict[str, float]:
        """IoU, F1, precision and recall; NaN if undefined."""
        return {
            "iou": _ratio(self.tp, self.tp + self.fp + self.fn),
            "f1": _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
            "precision": _ratio(self.tp, self.tp + self.fp),
            "recall": _ratio(self.tp, self.tp + self.fn),
        }


def _ratio(part: float, whole: float) -> float:
    if not whole:
        return float("nan")
    return part / whole


def line_measures(found: Sequence[BaseGeometry], truth: Sequence[BaseGeometry], tolerance: float) -> dict[str, float]:
    """Buffered agreement of lines (Heipke et al. 1997), in the units of the coordinates.

    Completeness is the share of the true length within `tolerance` of a found line, correctness the share of the found length within it of a
    true one, quality = matched found / (found + unmatched true).
    """
    total_found, total_true = sum(line.length for line in found), sum(line.length for line in truth)
    near_true, near_found = _buffered(truth, tolerance), _buffered(found, tolerance)
    matched_found = sum(line.intersection(near_true).length for line in found)
    matched_true = sum(line.intersection(near_found).length for line in truth)
    return {
        "completeness": _ratio(matched_true, total_true),
        "correctness": _ratio(matched_found, total_found),
        "quality": _ratio(matched_found, total_found + (total_true - matched_true)),
    }


def _buffered(lines: Sequence[BaseGeometry], distance: float) -> BaseGeometry:
    """All that is within a distance of the lines; empty without lines."""
    return shapely.union_all([line.buffer(distance) for line in lines])


def panoptic_quality(found: Sequence[BaseGeometry], truth: Sequence[BaseGeometry]) -> dict[str, float]:
    """PQ, SQ and RQ of areas: objects match if their IoU is above 0.5, ``PQ = Σ IoU / (TP + FP/2 + FN/2)``."""
    if not found and not truth:
        return {"pq": float("nan"), "sq": float("nan"), "rq": float("nan")}
    scores: list[float] = []
    if found and truth:
        tree = shapely.STRtree(list(truth))
        first, second = tree.query(list(found), predicate="intersects")
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            common = found[i].intersection(truth[j]).area
            iou = common / (found[i].area + truth[j].area - common) if common else 0.0
            if iou > 0.5:  # at most one partner of an object can have so much: no assignment is needed
                scores.append(iou)
    matched = len(scores)
    whole = matched + (len(found) - matched) / 2 + (len(truth) - matched) / 2
    segmentation_quality = 0.0
    if matched:
        segmentation_quality = sum(scores) / matched
    return {"pq": sum(scores) / whole, "sq": segmentation_quality, "rq": matched / whole}


def image_measures(
    predicted: Int[Tensor, "n h w"], truth: Int[Tensor, "n h w"], empty: Literal["zero", "one", "skip"] = "zero"
) -> Float[Tensor, "n 4"]:
    """Precision, recall, F1 and IoU of each pair of masks.

    Args:
        empty: value of a measure with denominator 0: 0 as published, 1, or NaN ("skip").
    """
    p, y = predicted.flatten(1).bool(), truth.flatten(1).bool()
    tp, fp, fn = ((a & b).sum(1).double() for a, b in ((p, y), (p, ~y), (~p, y)))
    value = {"zero": 0.0, "one": 1.0, "skip": torch.nan}[empty]

    def share(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(whole > 0, part / whole.clamp_min(1), torch.full_like(part, value))

    precision, recall = share(tp, tp + fp), share(tp, tp + fn)
    f1, iou = share(2 * tp, 2 * tp + fp + fn), share(tp, tp + fp + fn)
    return torch.stack([precision, recall, f1, iou], 1)


def calibration_error(probability: Tensor, truth: Tensor, bins: int = 15) -> float:
    """The expected calibration error of binary decisions: the mean gap between confidence and accuracy over bins of confidence."""
    right = ((probability > 0.5) == (truth > 0.5)).double()
    confidence = torch.maximum(probability, 1 - probability)
    number = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)  # the confidence of two classes begins at 0.5
    total = 0.0
    for i in range(bins):
        here = number == i
        if here.any():
            total += float(here.double().mean()) * abs(float(confidence[here].mean()) - float(right[here].mean()))
    return total
