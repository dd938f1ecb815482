"""The score from which a segment is worth showing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vision_models.actions.cohort import Clip
from vision_models.actions.metrics.precision import match
from vision_models.actions.results import Detections

TIOU = 0.5


def best_threshold(found: Mapping[str, Detections], clips: Mapping[str, Clip], *, agnostic: bool) -> float:
    """The score that gives the best F1 at tIoU 0.5 on some videos; 0 where nothing is right."""
    labels = sorted({action.label for name in found for action in clips[name].actions})
    total, hits, scores = 0, [], []
    for label in ["*"] if agnostic else labels:
        truth, rows = [], []
        for place, (name, detections) in enumerate(found.items()):
            for action in clips[name].actions:
                if agnostic or action.label == label:
                    truth.append((place, action.start, action.end))
            for segment in detections.segments:
                if agnostic or segment.label == label:
                    rows.append((place, segment.start, segment.end, segment.score))
        total += len(truth)
        own = np.array(rows, np.float64).reshape(-1, 4)
        own = own[np.argsort(-own[:, 3], kind="stable")]
        hits.append(match(np.array(truth, np.float64).reshape(-1, 3), own[:, :3], [TIOU])[0])
        scores.append(own[:, 3])
    true, score = np.concatenate(hits), np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(true[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + total)
    if not len(order) or not right[-1]:
        return 0.0
    return float(min(1.0, score[order][int(f1.argmax())]))
