"""``vision-models actions predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, require_results
from core_runtime.errors import counted, few
from core_runtime.folders import output_names
from core_runtime.identity import differences, identity, keep_latest, key_of, model_identity, spelled
from core_runtime.options import Between, BulkOptions, Device, Model, Out, flat, options, resolve_device
from core_runtime.terminal import warn
from vision_models.actions.inputs import find_inputs, holds_features, name_videos
from vision_models.actions.model.options import DetectionOptions
from vision_models.actions.model.published import ADVICE
from vision_models.actions.results import Segment


@options
class PredictionOptions:
    """What is shown, and where a model's own backbone takes its weights from.

    Attributes:
        threshold: score from which a segment is listed; default: the model's own, chosen on its validation videos.
        weights: file of the backbone's weights, where the model's backbone has any.
        classifier: video-level scores (.csv, .json) instead of the model's own labels.
    """

    threshold: Annotated[float, Between(0, 1)] | None = None
    weights: Path | None = None
    classifier: Path | None = None


@dataclass(frozen=True)
class Work:
    """One item of work: a video, or a file of its features."""

    name: str
    path: Path
    cache: Path
    model: str
    detection: DetectionOptions
    prediction: PredictionOptions
    device: str


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """The segments of videos, and the videos that could not be used.

    Attributes:
        videos: name → segments worth showing.
        notes: name → what is unusual about the video or its features.
        files: results of all videos of the folder, by name.
        folders: of each video.
        held: videos in `files`, with those of earlier runs.
    """

    attempts: Sequence[Attempt]
    videos: Mapping[str, Sequence[Segment]]
    notes: Mapping[str, Sequence[str]]
    files: Mapping[str, Path]
    folders: Mapping[str, Path]
    held: int

    def facts(self) -> dict[str, Any]:
        from vision_models.actions.reports.files import plain_segments

        videos = {name: plain_segments(segments) for name, segments in self.videos.items()}
        return {
            "videos": videos,
            "notes": {name: list(notes) for name, notes in self.notes.items() if notes},
            "files": dict(self.files),
            "videos_in_files": self.held,
            "folders": dict(self.folders),
            "failed": self.failed,
        }

    def lines(self) -> Iterable[str]:
        for name, segments in self.videos.items():
            yield f"{name}: {counted(len(segments), 'segment')}"
            for segment in segments[:12]:
                yield f"  {segment.start:8.1f} to {segment.end:8.1f} s  {segment.label:20} {segment.score:.2f}"
            if len(segments) > 12:
                yield f"  … and {len(segments) - 12} more"
            for note in self.notes[name]:
                yield f"  Note: {note}"
            page = self.folders[name] / "index.html"
            if page.is_file():
                yield f"  Page: {page}"
        for kind, file in self.files.items():
            yield f"{kind}: {file} ({counted(self.held, 'video')})"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("predictions"),
    detection: DetectionOptions = DetectionOptions(),
    prediction: PredictionOptions = PredictionOptions(),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Finds the segments of actions in videos: JSON, table, ELAN file, timeline and a page whose segments play.

    Features are made with the model's backbone, kept under OUT/features, and not made again. A killed run goes on where it stopped. The
    tables hold the videos of all runs into OUT with this model and these options.

    Example: vision-models actions predict match.mp4 --model run/model --out predictions

    Args:
        path: a video, a folder of videos, or features (.npz, .npy, .csv).
    """
    from core_runtime.models import choose_model
    from vision_models.actions.classifiers import read_scores

    inputs = find_inputs(path)
    names = name_videos(inputs)
    folder = choose_model(model, advice=ADVICE)
    place = resolve_device(device)
    detector = _load(folder, place)  # a model that cannot be loaded is one line, not one per item
    if prediction.classifier is not None and prediction.classifier.suffix.lower() != ".npy":
        # labels that it lacks are said before any feature is made
        read_scores(prediction.classifier, [], detector.labels or _labels_of(prediction.classifier))
    if not all(holds_features(each) for each in inputs):
        _backbone(detector.source.backbone, prediction.weights, place)
    shared: dict[str, Any] = {"model": model_identity(Path(folder)), "options": flat(a=detection, b=prediction)}
    if prediction.classifier is not None and prediction.classifier.is_file():
        shared["classifier"] = identity(prediction.classifier)
    items = []
    outputs = output_names([f"{name}.npz" for name in names], taken=("features", "log"))
    for each, name, output in zip(inputs, names, outputs, strict=True):
        work = Work(name, each, out / "features" / f"{output}.npz", folder, detection, prediction, place)
        items.append(Item(name, work, out / output, key={"input": identity(each), **shared}, inputs=[each]))
    files = {"table": out / "segments.csv", "results": out / "results.json"}
    log = out / "log.jsonl"
    attempts = bulk(predict_item, items, run, log=log, description="Detecting", summaries=list(files.values()))
    require_results(attempts)
    contents = _finished(out, shared)
    _write_tables(files, contents)
    videos: dict[str, list[Segment]] = {}
    notes: dict[str, list[str]] = {}
    folders: dict[str, Path] = {}
    for item, attempt in zip(items, attempts, strict=True):
        if attempt.ok:
            more = contents[item.output]["external_data"]
            videos[item.name] = _shown(more)
            notes[item.name] = more.get("notes", [])
            folders[item.name] = item.output
    return Predictions(attempts, videos, notes, files, folders, len(contents))


def _finished(out: Path, shared: Mapping[str, Any]) -> dict[Path, Any]:
    """What the folders of all finished videos hold, of this run and of earlier ones with this model and these options."""
    contents: dict[Path, Any] = {}
    others = []
    for folder in sorted(out.iterdir()):
        file = folder / "segments.json"
        key = key_of(folder)
        if key is None or not file.is_file():
            continue
        if differences({**key, "input": ""}, spelled({**shared, "input": ""})):
            others.append(folder.name)
            continue
        contents[folder] = json.loads(file.read_text(encoding="utf-8"))
    if others:
        left_out = counted(len(others), "video")
        warn(f"{out}: {left_out} of another model or other options not in the tables: {few(others)}")
    return contents


def _write_tables(files: Mapping[str, Path], contents: Mapping[Path, Any]) -> None:
    """The segments worth showing of all videos, and all their proposals as ActivityNet's results."""
    from core_runtime.folders import write_text
    from vision_models.actions.reports.files import write_table

    rows: list[tuple[str, Segment]] = []
    results: dict[str, Any] = {}
    for content in contents.values():
        for name in content["results"]:
            rows += [(name, segment) for segment in _shown(content["external_data"])]
        results |= content["results"]
    write_table(files["table"], rows)
    everything = {"version": "attention-suite", "results": results, "external_data": {}}
    write_text(files["results"], json.dumps(everything) + "\n")


def _shown(more: Mapping[str, Any]) -> list[Segment]:
    return [Segment(row["start"], row["end"], row["label"], row["score"]) for row in more["shown"]]


@keep_latest
def _load(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from vision_models.actions.model.folder import load_model

    return load_model(model, device=device)


@lru_cache(1)
def _backbone(description: str, weights: Path | None, device: str) -> Any:
    """The backbone, once in each process."""
    from vision_models.actions.backbones import rebuild_backbone

    return rebuild_backbone(description, weights, device=device)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the folder of one video, whole or not at all."""
    from core_runtime.folders import writing
    from core_runtime.videos import open_video
    from vision_models.actions.classifiers import read_scores
    from vision_models.actions.features import Source, length_notes, read_features
    from vision_models.actions.snippets import extract

    work: Work = item.source
    detector = _load(work.model, work.device)
    video = None
    notes: list[str] = []
    if holds_features(work.path):
        features = read_features(work.name, Source(work.path), channels=detector.source.channels)
        detector.source.refuse_other(features.backbone)
    else:
        backbone = _backbone(detector.source.backbone, work.prediction.weights, work.device)
        features = extract(work.path, backbone, work.cache)
        video = open_video(work.path)
        notes += video.notes
    notes += [*length_notes(features), *detector.range_notes(features)]
    scores = None
    if work.prediction.classifier is not None:
        labels = detector.labels or _labels_of(work.prediction.classifier)
        scores = read_scores(work.prediction.classifier, [work.name], labels)[work.name]
    found = detector.detect(work.name, features, work.detection, scores=scores)
    if work.prediction.threshold is not None:
        found = replace(found, threshold=work.prediction.threshold)
    with writing(item.output) as part:
        part.mkdir()
        _write(part, item.output, work.path, found, video, detector.labels, notes)
    return {"segments": len(found.shown()), "seconds": round(found.seconds, 2)}


def _labels_of(classifier: Path) -> list[str]:
    """All labels that a file of scores knows, for a model without any."""
    from vision_models.actions.classifiers import stated_labels

    return stated_labels(classifier)


def _write(
    part: Path, place: Path, source: Path, found: Any, video: Any, known: Sequence[str], notes: Sequence[str]
) -> None:
    """All files of a video into `part`, which becomes `place`."""
    import os

    from vision_models.actions.reports.files import plain_segments, write_elan, write_table
    from vision_models.actions.reports.page import write_page
    from vision_models.actions.reports.timeline import draw_timeline, save, thumbnails

    shown = found.shown()
    labels = sorted({*known, *(segment.label for segment in found.segments)})
    content = {
        "version": "attention-suite",
        "results": {found.video: found.entry()},
        "external_data": {
            "shown": plain_segments(shown),
            "threshold": found.threshold,
            "seconds": found.seconds,
            "notes": list(notes),
        },
    }
    (part / "segments.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_table(part / "segments.csv", [(found.video, segment) for segment in shown])
    media = os.path.relpath(source.resolve(), place.resolve()).replace(os.sep, "/")
    write_elan(part / "segments.eaf", media, shown)
    images: Sequence[Any] = ()
    if video is not None:
        images = thumbnails(video, found.seconds)
    figure = draw_timeline(images, found.seconds, shown, labels, title=found.video)
    save(figure, part / "timeline.png")
    if video is not None:
        lead = f"{counted(len(shown), 'segment')} from score {found.threshold:.2f} on in {found.seconds:.1f} seconds."
        if notes:
            lead += f" Note: {'; '.join(notes)}."
        write_page(part / "index.html", found, media, figure, labels, lead)
