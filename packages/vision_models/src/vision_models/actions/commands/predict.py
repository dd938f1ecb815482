"""``vision-models actions predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, require_results
from core_runtime.errors import UserError, counted
from core_runtime.folders import output_names
from core_runtime.identity import identity, is_own_output, keep_latest, model_identity
from core_runtime.options import Between, BulkOptions, Device, Model, Out, flat, options, resolve_device
from vision_models.actions.model.options import DetectionOptions
from vision_models.actions.model.published import ADVICE
from vision_models.actions.results import Segment

FEATURE_ENDINGS = (".npz", ".npy", ".csv")


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
        files: results of all, by name.
        folders: of each video.
    """

    attempts: Sequence[Attempt]
    videos: Mapping[str, Sequence[Segment]]
    files: Mapping[str, Path]
    folders: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        from vision_models.actions.reports.files import plain_segments

        videos = {name: plain_segments(segments) for name, segments in self.videos.items()}
        return {
            "videos": videos,
            "files": dict(self.files),
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
            page = self.folders[name] / "index.html"
            if page.is_file():
                yield f"  Page: {page}"
        for kind, file in self.files.items():
            yield f"{kind}: {file}"


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

    Features are made with the model's backbone, kept under OUT/features, and not made again. A killed run goes on where it stopped.

    Example: vision-models actions predict match.mp4 --model run/model --out predictions

    Args:
        path: a video, a folder of videos, or features (.npz, .npy, .csv).
    """
    from core_runtime.folders import writing
    from core_runtime.models import choose_model
    from vision_models.actions.classifiers import read_scores
    from vision_models.actions.reports.files import write_table

    inputs = _inputs(path)
    folder = choose_model(model, advice=ADVICE)
    place = resolve_device(device)
    made_by = model_identity(Path(folder))
    detector = _load(folder, place)  # a model that cannot be loaded is one line, not one per item
    if prediction.classifier is not None and prediction.classifier.suffix.lower() != ".npy":
        # labels that it lacks are said before any feature is made
        read_scores(prediction.classifier, [], detector.labels or _labels_of(prediction.classifier))
    if any(each.suffix.lower() not in FEATURE_ENDINGS for each in inputs):
        _backbone(detector.source.backbone, prediction.weights, place)
    names = output_names([each.name for each in inputs], taken=("features", "log"))
    items = []
    for each, name in zip(inputs, names, strict=True):
        work = Work(each, out / "features" / f"{name}.npz", folder, detection, prediction, place)
        key = {"input": identity(each), "model": made_by, "options": flat(a=detection, b=prediction)}
        if prediction.classifier is not None and prediction.classifier.is_file():
            key["classifier"] = identity(prediction.classifier)
        items.append(Item(name, work, out / name, key=key, inputs=[each]))
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Detecting")
    require_results(attempts)
    videos: dict[str, list[Segment]] = {}
    results: dict[str, Any] = {}
    folders: dict[str, Path] = {}
    for item, attempt in zip(items, attempts, strict=True):
        if not attempt.ok:
            continue
        content = json.loads((item.output / "segments.json").read_text(encoding="utf-8"))
        results |= content["results"]
        shown = content["external_data"]["shown"]
        videos[item.name] = [Segment(row["start"], row["end"], row["label"], row["score"]) for row in shown]
        folders[item.name] = item.output
    rows = [(name, segment) for name, segments in videos.items() for segment in segments]
    files = {"table": write_table(out / "segments.csv", rows), "results": out / "results.json"}
    with writing(files["results"]) as part:
        part.write_text(json.dumps({"version": "attention-suite", "results": results, "external_data": {}}) + "\n")
    return Predictions(attempts, videos, files, folders)


def _inputs(path: Path) -> list[Path]:
    """The videos, or files of features, at a path.

    Raises:
        UserError: there are none, or a single file that is neither.
    """
    from core_runtime.videos import ENDINGS, KINDS, open_video

    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not is_own_output(file))
        videos = [file for file in files if file.suffix.lower() in ENDINGS]
        chosen = videos or [file for file in files if file.suffix.lower() in FEATURE_ENDINGS]
        if not chosen and (path / "videos").is_dir():
            return _inputs(path / "videos")
        if not chosen:
            raise UserError(f"{path} holds no video", f"videos are {KINDS}")
        return chosen
    if path.suffix.lower() not in FEATURE_ENDINGS:
        open_video(path)  # what cannot be used is said before a model is asked for
    elif not path.is_file():
        raise UserError(f"no such file: {path}", f"videos are {KINDS}")
    return [path]


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
    from vision_models.actions.features import Source, read_features
    from vision_models.actions.snippets import extract

    work: Work = item.source
    detector = _load(work.model, work.device)
    video = None
    if work.path.suffix.lower() in FEATURE_ENDINGS:
        features = read_features(item.name, Source(work.path), channels=detector.source.channels)
    else:
        backbone = _backbone(detector.source.backbone, work.prediction.weights, work.device)
        features = extract(work.path, backbone, work.cache)
        video = open_video(work.path)
    scores = None
    if work.prediction.classifier is not None:
        labels = detector.labels or _labels_of(work.prediction.classifier)
        scores = read_scores(work.prediction.classifier, [item.name], labels)[item.name]
    found = detector.detect(item.name, features, work.detection, scores=scores)
    if work.prediction.threshold is not None:
        from dataclasses import replace

        found = replace(found, threshold=work.prediction.threshold)
    with writing(item.output) as part:
        part.mkdir()
        _write(part, item.output, work.path, found, video, detector.labels)
    return {"segments": len(found.shown()), "seconds": round(found.seconds, 2)}


def _labels_of(classifier: Path) -> list[str]:
    """All labels that a file of scores knows, for a model without any."""
    from vision_models.actions.classifiers import stated_labels

    return stated_labels(classifier)


def _write(part: Path, place: Path, source: Path, found: Any, video: Any, known: Sequence[str]) -> None:
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
        "external_data": {"shown": plain_segments(shown), "threshold": found.threshold, "seconds": found.seconds},
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
        notes = "; ".join(video.notes)
        lead = f"{counted(len(shown), 'segment')} from score {found.threshold:.2f} on in {found.seconds:.1f} seconds."
        if notes:
            lead += f" Note: {notes}."
        write_page(part / "index.html", found, media, figure, labels, lead)
