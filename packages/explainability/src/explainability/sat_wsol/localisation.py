"""How well a model says where an object is: the paper's rules and the community's, over a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explainability.sat_wsol.boxes import Box, best_iou, box_at, component_boxes, max_box_acc, pxap

THRESHOLDS = (0.3, 0.35, 0.4, 0.45)  # among which SAT's authors choose, on the test set


@dataclass(frozen=True)
class Localisation:
    """Shares of pictures.

    Attributes:
        gt_known: the box at the given threshold overlaps a true one by IoU ≥ 0.5, whatever the class.
        top1: the same, and the class is right.
        gt_known_chosen: as `gt_known` at the threshold of `THRESHOLDS` that is best on these pictures, as the paper does it.
        threshold_chosen: that threshold.
        max_box_acc: MaxBoxAcc: IoU ≥ 0.5 at the one best threshold of the data set.
        max_box_acc_v2: MaxBoxAccV2: the mean over IoU 0.3, 0.5 and 0.7; the best of all components counts.
        pxap: area under the pixels' precision and recall; None without masks.
    """

    gt_known: float
    top1: float
    gt_known_chosen: float
    threshold_chosen: float
    max_box_acc: float
    max_box_acc_v2: float
    pxap: float | None


def boxes_of_mask(mask: NDArray[np.bool_]) -> list[Box]:
    """Boxes around the connected parts of a mask, ends inclusive, as true boxes are."""
    return [(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in component_boxes(mask)]


def localise(
    maps: Sequence[NDArray[np.floating]],
    truths: Sequence[Sequence[Sequence[float]]],
    right: Sequence[bool],
    threshold: float,
    masks: Sequence[NDArray[np.bool_]] | None = None,
) -> Localisation:
    """All measures.

    Args:
        maps: normalised by `normalise_map`, one per picture at its resolution.
        truths: true boxes of each picture, ends inclusive.
        right: whether its class was right.
        threshold: of the paper's rule; strictly above it.
        masks: True on the object, for PxAP.
    """
    shares: dict[float, list[bool]] = {}
    for level in (*THRESHOLDS, threshold):
        hits = []
        for values, boxes in zip(maps, truths, strict=True):
            # the paper compares ends as they are, exclusive in the map's box, inclusive in the truth
            hits.append(best_iou(box_at(values, level), boxes) >= 0.5)
        shares[level] = hits
    best = max(THRESHOLDS, key=lambda level: sum(shares[level]))
    both = [hit and correct for hit, correct in zip(shares[threshold], right, strict=True)]
    return Localisation(
        gt_known=float(np.mean(shares[threshold])),
        top1=float(np.mean(both)),
        gt_known_chosen=float(np.mean(shares[best])),
        threshold_chosen=best,
        max_box_acc=max_box_acc(maps, truths),
        max_box_acc_v2=max_box_acc(maps, truths, ious=(0.3, 0.5, 0.7), all_components=True),
        pxap=None if masks is None else pxap(maps, masks),
    )
