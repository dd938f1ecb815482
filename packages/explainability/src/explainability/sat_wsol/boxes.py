"""Boxes from maps, and how they are judged: SAT's own rules, and those of the localisation community (Choe et al., CVPR 2020)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)

Box = tuple[int, int, int, int]


def normalise_map(values: Float[Tensor, "b rows columns"], size: tuple[int, int]) -> Float[Tensor, "b height width"]:
    """``(M − min) / (max − min + 1e-5)`` of each image, then bilinear to `size` with half-pixel centres."""
    flat = values.flatten(1)
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    scaled = (values - low) / (high - low + 1e-5)
    return F.interpolate(scaled[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _label(foreground: NDArray[np.bool_]) -> tuple[Any, int]:
    """The number of each pixel's component, and how many there are."""
    labels: Any = np.zeros(foreground.shape, np.int32)
    count = int(ndimage.label(foreground, structure=EIGHT_NEIGHBOURS, output=labels))  # pyright: ignore[reportArgumentType]
    return labels, count


def largest_box(foreground: NDArray[np.bool_]) -> Box:
    """Box of the largest component, diagonal neighbours joined; the first in row-major order of equals.

    Returns:
        x0, y0, x1, y1 with x1 and y1 exclusive; the whole image where there is no foreground.
    """
    labels, count = _label(foreground)
    if count == 0:
        return 0, 0, foreground.shape[1], foreground.shape[0]
    sizes = np.bincount(labels.ravel())[1:]
    rows, columns = ndimage.find_objects(labels)[int(sizes.argmax())]
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)


def component_boxes(foreground: NDArray[np.bool_]) -> list[Box]:
    """Boxes of all components, as in `largest_box`; the whole image where there is none."""
    labels, count = _label(foreground)
    if count == 0:
        return [(0, 0, foreground.shape[1], foreground.shape[0])]
    boxes = []
    for rows, columns in ndimage.find_objects(labels):
        boxes.append((int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)))
    return boxes


def box_at(values: NDArray[np.floating], threshold: float) -> Box:
    """SAT's box of a normalised map: strictly above the threshold."""
    return largest_box(values > threshold)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union with the convention that SAT and the community use: a box of x0 = x1 is one pixel wide."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    shared = across * down
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return shared / (sum(areas) - shared)


def best_iou(box: Sequence[float], truths: Sequence[Sequence[float]]) -> float:
    """The best overlap with any of an image's true boxes."""
    return max(iou(box, truth) for truth in truths)


def to_crop(box: Sequence[float], width: float, height: float, *, resized: int = 256, crop: int = 224) -> Box:
    """A box of the whole image in the frame of its centre crop: ``x · 256 / w − 16``, clipped to [0, 223], cut to whole pixels."""
    margin = (resized - crop) / 2
    ends = []
    for value, side in zip(box, (width, height, width, height), strict=True):
        ends.append(int(min(max(value * resized / side - margin, 0), crop - 1)))
    return ends[0], ends[1], ends[2], ends[3]


def max_box_acc(
    maps: Sequence[NDArray[np.floating]],
    truths: Sequence[Sequence[Sequence[float]]],
    *,
    ious: Sequence[float] = (0.5,),
    all_components: bool = False,
) -> float:
    """MaxBoxAcc: the best threshold of the *data set*, not of each image.

    Each map is min-max normalised and cut at τ = 0, 0.01, …, 0.99 with ≥. For each IoU δ the share of images whose box reaches δ is
    computed per τ and the greatest taken; the results of several δ are averaged.

    Args:
        maps: one per image, at the image's resolution.
        truths: true boxes of each image, inclusive coordinates.
        ious: δ. (0.5,) is MaxBoxAcc, (0.3, 0.5, 0.7) with `all_components` MaxBoxAccV2.
        all_components: the best box of any component counts (V2), not only that of the largest.

    Raises:
        ValueError: no maps, or not as many lists of boxes.
    """
    if not maps or len(maps) != len(truths):
        raise ValueError(f"needs as many lists of true boxes as maps, at least one: got {len(truths)} and {len(maps)}")
    thresholds = np.arange(100) / 100
    overlaps = np.zeros((len(maps), len(thresholds)))
    for image, (values, boxes) in enumerate(zip(maps, truths, strict=True)):
        scaled = _min_max(values)
        for step, threshold in enumerate(thresholds):
            foreground = scaled >= threshold
            candidates = component_boxes(foreground) if all_components else [largest_box(foreground)]
            # inclusive ends, as the true boxes have
            overlaps[image, step] = max(best_iou((b[0], b[1], b[2] - 1, b[3] - 1), boxes) for b in candidates)
    accuracies = [float((overlaps >= limit).mean(0).max()) for limit in ious]
    return sum(accuracies) / len(accuracies)


def pxap(
    maps: Sequence[NDArray[np.floating]],
    masks: Sequence[NDArray[np.bool_]],
    ignored: Sequence[NDArray[np.bool_]] | None = None,
) -> float:
    """PxAP: the area under the pixels' precision-recall curve, pooled over the data set.

    Args:
        maps: one per image; min-max normalised here.
        masks: True on the object.
        ignored: True on pixels that count for nothing.

    Raises:
        ValueError: there is no pixel of an object, or none beside.
    """
    scores, labels = [], []
    for image, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        counted = np.ones_like(mask, dtype=bool) if ignored is None else ~ignored[image]
        scores.append(_min_max(values)[counted])
        labels.append(mask[counted])
    score, label = np.concatenate(scores), np.concatenate(labels)
    if not label.any() or label.all():
        raise ValueError("PxAP needs pixels of an object and pixels beside")
    bins = np.minimum((score * 1000).astype(int), 999)
    positives = np.bincount(bins[label], minlength=1000)[::-1].cumsum()
    counted = np.bincount(bins, minlength=1000)[::-1].cumsum()
    present = counted > 0
    precision = positives[present] / counted[present]
    recall = positives[present] / positives[-1]
    return float((np.diff(recall, prepend=0) * precision).sum())


def _min_max(values: NDArray[np.floating]) -> NDArray[np.floating]:
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros_like(values, dtype=float)
    return (values - low) / (high - low)
