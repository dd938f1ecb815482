"""An embedding judged: NMI over several clusterings, Recall@K and mAP@R with intervals, recall of every class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core_runtime.statistics import intervals
from medical_segmentation.similar.metrics import average_precision_at_r, cluster, nearest, nmi, recall_hits

KS = (1, 2, 4, 8)


def judge(
    points: Tensor, labels: NDArray[np.int64], classes: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """The measures of embeddings whose own set is the gallery, the query left out.

    Args:
        points: (images, coordinates).
        labels: class of each.
        classes: names.
    """
    ks = [k for k in KS if k < len(points)]
    counts = np.bincount(labels)
    depth = min(len(points) - 1, max(max(ks), int(counts.max()) - 1))
    _, numbers = nearest(points.float(), points.float(), depth, exclude_self=True)
    neighbours = labels[numbers.numpy()]
    hits = recall_hits(neighbours, labels, ks)
    precision = average_precision_at_r(neighbours, labels)

    def means(chosen: NDArray[np.int64]) -> dict[str, float]:
        values = {f"recall@{k}": float(hits[chosen, place].mean()) for place, k in enumerate(ks)}
        defined = precision[chosen][~np.isnan(precision[chosen])]
        return values | {"map@r": float(defined.mean()) if defined.size else math.nan}

    groups = list(range(len(labels)))  # one image per patient is all that such sets tell
    bounds = intervals(means, groups, resamples=resamples, seed=seed)
    rows: dict[str, Any] = {}
    for name, value in means(np.arange(len(labels))).items():
        rows[name] = {"value": value, "low": bounds[name].low, "high": bounds[name].high}
    scores = [
        nmi(labels, cluster(points.numpy(), len(set(labels.tolist())), start, starts=5))
        for start in range(seed, seed + 5)
    ]
    rows["nmi"] = {"value": float(np.mean(scores)), "sd": float(np.std(scores, ddof=1))}
    by_class: Mapping[str, float | None] = {
        name: float(hits[labels == number, 0].mean()) if (labels == number).any() else None
        for number, name in enumerate(classes)
    }
    return {**rows, "recall@1 by class": dict(by_class), "images": len(labels)}


def raw_pixels(pictures: Sequence[NDArray[np.uint8]], side: int = 28) -> Tensor:
    """Small grey pictures as points of unit length: the plainest embedding."""
    import torch.nn.functional as F

    points = []
    for picture in pictures:
        grey = torch.from_numpy(np.ascontiguousarray(picture)).float().mean(2)[None, None]
        small = F.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False, antialias=True).flatten()
        points.append(F.normalize(small - small.mean(), dim=0))
    return torch.stack(points)
