"""``vision-models detect evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from core_runtime.boxes import BoxedImage, BoxSet
from core_runtime.cli import Outcome
from core_runtime.errors import UserError, counted, few
from core_runtime.options import (
    AtLeast,
    Between,
    Device,
    Model,
    Out,
    Overwrite,
    Seed,
    Threads,
    options,
    resolve_device,
    use_threads,
)
from core_runtime.terminal import warn
from vision_models.detect.scenes.options import ImageFolder, Scenes
from vision_models.membership import choose

if TYPE_CHECKING:
    from vision_models.detect.metrics import Metrics
    from vision_models.detect.model.inference import ReadyDetector
    from vision_models.membership import KnownImages

SHOWN = 5  # pictures in the report


@options
class EvaluationOptions:
    """Which pictures are evaluated, and which boxes count.

    Attributes:
        part: of the model's own split, if it knows these pictures; else of the files; all takes every picture.
        most: boxes of a picture that count, the surest first (100 as COCO; more for DARK FACE's crowds).
        threshold: score from which boxes are drawn; all count for the measures.
    """

    part: Literal["train", "val", "test", "all"] = "test"
    most: Annotated[int, AtLeast(1)] = 100
    threshold: Annotated[float, Between(0, 1)] = 0.3


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a detector on pictures with boxes.

    Attributes:
        metrics: the measures.
        files: page, picture and boxes by name.
        origin: the relation of the pictures to the model's training, in words.
    """

    metrics: Metrics
    files: Mapping[str, Path]
    origin: str

    def facts(self) -> dict[str, Any]:
        return {**self.metrics.plain(), "origin": self.origin, "files": dict(self.files)}

    def lines(self) -> Iterable[str]:
        from vision_models.detect.metrics import measure_lines

        yield self.origin
        yield from measure_lines(self.metrics.plain())
        for name, value in self.metrics.by_class.items():
            yield f"    {name:20} AP50 {value:.3f}"
        yield f"Report: {self.files['report']}"


def evaluate(
    data: Scenes,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    images: ImageFolder = None,
    options: EvaluationOptions = EvaluationOptions(),
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Evaluates a detector: AP, AP50 and AP75 with intervals over pictures, by class, and pictures before and after enhancement.

    Example: vision-models detect evaluate ExDark/ --model run/model --out evaluation
    """
    from core_runtime.folders import require_apart, write_text
    from vision_models.detect.metrics import Judge
    from vision_models.detect.model.folder import load_model
    from vision_models.detect.predictions import find_boxes
    from vision_models.detect.scenes.opening import open_boxes
    from vision_models.membership import KnownImages

    require_apart(out, data)
    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    use_threads(threads)
    detector = load_model(model, device=resolve_device(device))
    scenes = in_classes_of(open_boxes(data, images), detector.classes)
    for warning in scenes.warnings():
        warn(warning)
    known = KnownImages.of(detector.provenance, f"{detector.path}/config.json")
    chosen, origin = choose_pictures(scenes, known, options.part)
    found = find_boxes(detector, chosen, most=options.most)
    metrics = Judge(chosen, found, detector.classes, options.most).metrics(seed=seed)
    write_text(out / "metrics.json", json.dumps(metrics.plain(), indent=1) + "\n")
    files = _write_report(out, detector, scenes, chosen, found, metrics, origin, options.threshold)
    return Evaluation(metrics, files, origin)


def in_classes_of(scenes: BoxSet, classes: tuple[str, ...]) -> BoxSet:
    """The pictures with the class numbers of a model.

    Raises:
        UserError: boxes of a class that the model has not.
    """
    from dataclasses import replace

    if scenes.classes == classes:
        return scenes
    counts = scenes.counts()
    unknown = [name for name in scenes.classes if name not in classes and counts[name]]
    if unknown:
        raise UserError(
            f"{scenes.root} has boxes of {few(unknown)}, the model knows {', '.join(classes)}",
            "the classes must have the names of the training data",
        )
    images = []
    for image in scenes.images:
        labels = tuple(classes.index(scenes.classes[label]) for label in image.labels)
        images.append(replace(image, labels=labels))
    return replace(scenes, classes=classes, images=tuple(images), category_ids=())


def choose_pictures(scenes: BoxSet, known: KnownImages | None, part: str) -> tuple[tuple[BoxedImage, ...], str]:
    """The pictures to evaluate, and their relation to the model's training.

    Args:
        known: the pictures that the model was made from, by their content, if it has a record.
        part: of the model's own split, if it knows these pictures; else of the files.

    Raises:
        UserError: pictures that the model was trained on are asked for as others; none is left, or a file is not there or too small.
    """
    from vision_models.detect.cohort import PicturesByContent, check_files

    every = range(len(scenes.images))
    numbers, origin = choose(PicturesByContent(scenes), every, known, part, noun="pictures")
    chosen = tuple(scenes.images[number] for number in numbers)
    check_files(scenes, chosen)
    if not any(image.boxes for image in chosen):
        raise UserError(f"{scenes.root}: no box in {counted(len(chosen), 'picture')}", "'detect predict' needs none")
    return chosen, origin


def _write_report(
    out: Path,
    model: ReadyDetector,
    scenes: BoxSet,
    images: Sequence[BoxedImage],
    found: Sequence[Sequence[Any]],
    metrics: Metrics,
    origin: str,
    threshold: float,
) -> dict[str, Path]:
    from core_runtime.folders import write_text
    from core_runtime.report import Report
    from vision_models.detect.commands.predict import coco_results
    from vision_models.detect.reports.scenes import draw_scenes

    step = max(1, len(images) // SHOWN)
    picture = draw_scenes(out / "scenes.png", images[::step][:SHOWN], found[::step][:SHOWN], model, threshold=threshold)
    low, high = metrics.intervals["ap50"]
    lead = f"AP50 {metrics.ap50:.3f} ({low:.3f} to {high:.3f}) on {counted(metrics.images, 'picture')} with {counted(metrics.boxes, 'box', 'boxes')}"
    page = Report(f"Boxes on {scenes.root.name}", lead=lead).text(origin)
    rows = []
    for key, name in (("ap", "AP, IoU 0.5 to 0.95"), ("ap50", "AP50"), ("ap75", "AP75"), ("recall", "recall")):
        low, high = metrics.intervals[key]
        rows.append((name, getattr(metrics, key), f"{low:.3f} to {high:.3f}"))
    page.table(["measure", "value", "95 % interval"], rows, caption="Intervals are over pictures.")
    page.picture(picture, "As taken, after enhancement where there is one, drawn boxes, found boxes.")
    page.table(["class", "AP50"], list(metrics.by_class.items()))
    results = json.dumps(coco_results([image.name for image in images], found, model.classes))
    write_text(out / "boxes.json", results + "\n")
    report = page.write(out / "report.html")
    return {"report": report, "picture": picture, "boxes": out / "boxes.json"}
