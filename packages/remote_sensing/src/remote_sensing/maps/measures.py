"""How well masks and lines agree with the truth: pixels, buffered lines, panoptic quality of areas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry


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
