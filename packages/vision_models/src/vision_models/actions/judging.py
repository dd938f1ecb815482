"""Detecting in many videos, and judging what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core_runtime.errors import counted
from core_runtime.terminal import track, warn
from vision_models.actions.cohort import Clip
from vision_models.actions.metrics.measure import Judged, Measures, measure
from vision_models.actions.model.inference import ReadyDetector
from vision_models.actions.model.options import DetectionOptions
from vision_models.actions.results import Detections, Segment


def detect_all(
    detector: ReadyDetector,
    clips: Sequence[Clip],
    how: DetectionOptions,
    *,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Detections]:
    """The segments of every video, behind a progress bar."""
    detections = {}
    unlike: list[str] = []
    for clip in track(clips, "Detecting"):
        features = clip.read()
        unlike += [f"{clip.name}: {note}" for note in detector.range_notes(features)]
        given = None if scores is None else scores[clip.name]
        detections[clip.name] = detector.detect(clip.name, features, how, scores=given)
    if unlike:
        warn(f"{len(unlike)} of {counted(len(clips), 'video')} unlike the training videos. {unlike[0]}")
    return detections


def judge(
    found: Mapping[str, Detections],
    clips: Sequence[Clip],
    thresholds: Sequence[float],
    *,
    labelled: bool,
    resamples: int = 200,
    seed: int = 0,
) -> Measures:
    """The measures of some detections."""
    judged, agnostic = as_judged(found, clips, labelled=labelled)
    return measure(judged, agnostic, thresholds, resamples=resamples, seed=seed)


def as_judged(found: Mapping[str, Detections], clips: Sequence[Clip], *, labelled: bool) -> tuple[Any, Any]:
    """Truth and detections as arrays, with labels (where there are any) and without.

    Without labels a segment counts once, though it may stand under several labels.
    """
    truth = {clip.name: clip.actions for clip in clips}
    segments = {name: detections.segments for name, detections in found.items()}
    labels = sorted({action.label for clip in clips for action in clip.actions})
    once: dict[str, list[Segment]] = {}
    for name, own in segments.items():
        best: dict[tuple[float, float], float] = {}
        for start, end, _, score in own:
            # what its labels share is the segment's own score
            best[start, end] = best.get((start, end), 0.0) + score
        once[name] = [Segment(start, end, "action", score) for (start, end), score in best.items()]
    agnostic = Judged.of(truth, once, labels, agnostic=True)
    if not labelled:
        return agnostic, agnostic
    return Judged.of(truth, segments, labels), agnostic
