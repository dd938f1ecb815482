"""``vision-models actions evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import (
    AtLeast,
    Device,
    Model,
    Numbers,
    Out,
    Overwrite,
    Threads,
    options,
    resolve_device,
    use_threads,
)
from core_runtime.terminal import warn
from vision_models.actions.annotations import AnnotationOptions
from vision_models.actions.commands.train import AnnotationFile, FeatureFolder, annotations_beside
from vision_models.actions.features import FeatureOptions
from vision_models.actions.model.options import DetectionOptions

if TYPE_CHECKING:
    from vision_models.actions.cohort import Clip
    from vision_models.actions.metrics.measure import Measures


@options
class EvaluationOptions:
    """What is evaluated, and how strictly.

    Attributes:
        part: train, val or test videos of the model where it knows these, else as the annotations state them; all takes every video.
        tiou: overlaps at which mAP is stated: 0.3,0.4,0.5,0.6,0.7 (THUMOS), 0.5 to 0.95 by 0.05 (ActivityNet), or own ones.
        classifier: file of video-level scores (.csv: video and a column per label; .json: video → label → score), instead of the model's
            own labels.
        resamples: of the bootstrap by video; 0: no intervals.
        seed: of it.
    """

    part: Literal["train", "val", "test", "all"] = "test"
    tiou: Literal["thumos", "activitynet"] | Numbers = "thumos"
    classifier: Path | None = None
    resamples: Annotated[int, AtLeast(0)] = 200
    seed: Annotated[int, AtLeast(0)] = 0

    def thresholds(self) -> tuple[float, ...]:
        if self.tiou == "thumos":
            return (0.3, 0.4, 0.5, 0.6, 0.7)
        if self.tiou == "activitynet":
            return tuple(round(0.5 + 0.05 * number, 2) for number in range(10))
        assert not isinstance(self.tiou, str)
        if not all(0 < value <= 1 for value in self.tiou):
            raise UserError(f"--tiou {','.join(map(str, self.tiou))}: overlaps lie above 0 and up to 1")
        return tuple(self.tiou)


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on annotated videos.

    Attributes:
        measures: all of them.
        files: results, pictures and page by name.
        origin: the relation of the videos to the model's training, in words.
    """

    measures: Measures
    files: Mapping[str, Path]
    origin: str

    def facts(self) -> dict[str, Any]:
        return {**self.measures.plain(), "origin": self.origin, "files": dict(self.files)}

    def lines(self) -> Iterable[str]:
        measures = self.measures
        yield self.origin
        yield f"{measures.videos} videos, {measures.actions} actions, {measures.detections} segments"
        yield from measure_lines(measures)
        wrong = ", ".join(f"{cause} {count}" for cause, count in measures.errors.items() if cause != "true")
        yield f"  Of the best segments {measures.errors['true']} are true at tIoU 0.5; false ones: {wrong}"
        yield f"Report: {self.files['report']}"


def measure_lines(found: Measures) -> Iterable[str]:
    """The measures with their intervals over videos, one per line."""
    for name, value in found.values.items():
        line = f"  {name:20} {value:.4f}"
        if name in found.intervals:
            ends = found.intervals[name]
            line += f"  (95 % over videos {ends.low:.4f} to {ends.high:.4f})"
        yield line


def evaluate(
    features: FeatureFolder,
    /,
    *,
    annotations: AnnotationFile = None,
    model: Model = None,
    out: Out = Path("evaluation"),
    reading: AnnotationOptions = AnnotationOptions(),
    timing: FeatureOptions = FeatureOptions(),
    detection: DetectionOptions = DetectionOptions(),
    options: EvaluationOptions = EvaluationOptions(),
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Evaluates a model on annotated videos: AR@AN, AUC and mAP with intervals over videos, and what its false segments are.

    Example: vision-models actions evaluate features/ --annotations annotations.json --model run/model
    """
    from core_runtime.folders import write_text
    from vision_models.actions.annotations import read_annotations
    from vision_models.actions.classifiers import read_scores
    from vision_models.actions.cohort import gather, overlap_with_training
    from vision_models.actions.features import find_features
    from vision_models.actions.judging import detect_all, judge
    from vision_models.actions.model.folder import load_model
    from vision_models.actions.reports.evaluation import write_evaluation

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    thresholds = options.thresholds()
    file = annotations_beside(features, annotations)
    truth = read_annotations(file, reading)
    use_threads(threads)
    detector = load_model(model, device=resolve_device(device))
    cohort = gather(find_features(features), truth, timing, channels=detector.source.channels)
    for note in cohort.notes:
        warn(note)
    detector.source.refuse_other(cohort.backbone)
    names = _chosen(cohort.clips, detector.provenance, options.part)
    clips = [cohort.clips[name] for name in names]
    scores = None
    if options.classifier is not None:
        scores = read_scores(options.classifier, names, cohort.labels)
    labelled = bool(detector.labels) or scores is not None
    detections = detect_all(detector, clips, detection, scores=scores)
    measures = judge(detections, clips, thresholds, labelled=labelled, resamples=options.resamples, seed=options.seed)
    origin = overlap_with_training(names, detector.provenance)
    described = {
        "network": "BMN" if detector.network.config.bmn.csa == "none" else "BMN-CSA",
        "csa": detector.network.config.bmn.csa,
        "parameters": sum(parameter.numel() for parameter in detector.network.parameters()),
        "labelled": labelled,
        "thresholds": list(thresholds),
        "origin": origin,
        "test": measures.plain(),
    }
    files = write_evaluation(out, described, detections, clips, measures, labelled=labelled)
    write_text(out / "metrics.json", json.dumps(described, indent=1) + "\n")
    return Evaluation(measures, files, origin)


def _chosen(clips: Mapping[str, Clip], provenance: Mapping[str, Any], part: str) -> list[str]:
    """The videos of a part: the model's own, else as the annotations state it.

    Raises:
        UserError: there are none.
    """
    if part == "all":
        return list(clips)
    record = provenance.get("videos")
    if isinstance(record, Mapping):
        own = [name for name in clips if name in set(record.get(part, ()))]
        if own:
            return own
    stated = [name for name, clip in clips.items() if clip.part == part]
    if stated:
        return stated
    if any(clip.part for clip in clips.values()) or isinstance(record, Mapping):
        raise UserError(f"none of these videos is a {part} video", "--part all evaluates every video")
    return list(clips)
