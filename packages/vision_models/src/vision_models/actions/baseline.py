"""The baseline that knows no action: segments in which more moves than usual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_models.actions.annotations import ANY
from vision_models.actions.features import Features
from vision_models.actions.model.inference import timing
from vision_models.actions.model.proposals import soft_nms
from vision_models.actions.results import Detections, Segment

LEVELS = 12  # thresholds
SMOOTH = 3  # snippets over which motion is averaged


def motion_energy(features: Features) -> NDArray[np.float64]:
    """How much moves in each snippet: the share of the picture that changes, as the backbone `motion` states it."""
    from vision_models.actions.backbones import MOVING

    energy = features.values[:, MOVING].astype(np.float64)
    return np.convolve(energy, np.ones(SMOOTH) / SMOOTH, mode="same")


def detect_motion(video: str, features: Features, *, proposals: int = 100) -> Detections:
    """Runs of snippets above each of several levels of motion; the score is their mean motion against that around them."""
    step, seconds = timing(features)
    energy = motion_energy(features)
    levels = np.quantile(energy, np.linspace(0.2, 0.95, LEVELS))
    segments: list[tuple[float, float]] = []
    scores: list[float] = []
    for level in levels:
        above = np.concatenate([[0], (energy > level).astype(int), [0]])
        edges = np.flatnonzero(np.diff(above))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            margin = max(1, (last - first) // 2)
            around = np.concatenate([energy[max(0, first - margin) : first], energy[last : last + margin]])
            contrast = energy[first:last].mean() - (around.mean() if len(around) else 0.0)
            segments.append((first * step, min(seconds, last * step)))
            scores.append(contrast)
    if not segments:
        return Detections(video, seconds, (), 0.0)
    spans, strength = np.array(segments), np.array(scores)
    spread = float(np.ptp(strength)) or 1.0
    strength = 0.05 + 0.95 * (strength - strength.min()) / spread
    kept, final = soft_nms(spans, strength, most=proposals, extent=seconds, keep_last=True)
    found = [
        Segment(start, end, ANY, score)
        for (start, end), score in zip(spans[kept].tolist(), final.tolist(), strict=True)
    ]
    return Detections(video, seconds, found, 0.5)
