"""``vision-models classify evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.image_sets import UNKNOWN, ImageSet, ImageSetOptions, open_images
from core_runtime.options import Device, Model, Out, Overwrite, Threads, options, resolve_device, use_threads
from vision_models.classify.commands.train import Images
from vision_models.membership import choose

if TYPE_CHECKING:
    from vision_models.classify.metrics import Metrics
    from vision_models.membership import KnownImages


@options
class EvaluationOptions:
    """Which images are evaluated.

    Attributes:
        part: of the images that the model knows, the part it was trained with; of others the part that the files state; all takes every image.
    """

    part: Literal["train", "val", "test", "all"] = "test"


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on labelled images.

    Attributes:
        metrics: the measures.
        files: table, pictures and page by name.
        origin: the relation of the images to the model's training, in words.
    """

    metrics: Metrics
    files: Mapping[str, Path]
    origin: str
    classes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        return {**self.metrics.plain(), "origin": self.origin, "files": dict(self.files)}

    def lines(self) -> Iterable[str]:
        from vision_models.classify.metrics import measure_lines

        yield self.origin
        yield from measure_lines(self.metrics.plain())
        if len(self.metrics.recall) <= 20:
            for name, value in self.metrics.recall.items():
                yield f"    {name:22} {value:.3f} of its images recognised"
        for true, predicted, count in self.metrics.confused(self.classes):
            yield f"  {true} taken for {predicted}: {count}"
        yield f"Report: {self.files['report']}"


def evaluate(
    data: Images,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    images: ImageSetOptions = ImageSetOptions(),
    options: EvaluationOptions = EvaluationOptions(),
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Evaluates a model on labelled images: accuracy with its interval, per class, confusion, calibration, the most wrong images.

    Example: vision-models classify evaluate flowers/ --model run/model --out evaluation
    """
    from core_runtime.folders import require_apart, write_text
    from vision_models.classify.metrics import measure
    from vision_models.classify.model.folder import load_model
    from vision_models.classify.model.inference import predict_images
    from vision_models.classify.reports.evaluation import write_evaluation
    from vision_models.membership import KnownImages

    require_apart(out, data)
    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    use_threads(threads)
    classifier = load_model(model, device=resolve_device(device))
    opened = in_classes_of(open_images(data, images), classifier.classes)
    known = KnownImages.of(classifier.provenance, f"{classifier.path}/config.json")
    numbers, origin = choose_images(opened, known, options.part)
    probabilities = predict_images(classifier, opened, numbers)
    labels = [opened.labels[number] for number in numbers]
    metrics = measure(probabilities, labels, classifier.classes)
    files = write_evaluation(out, classifier, opened, numbers, probabilities, metrics, origin)
    config = classifier.network.config
    described = {
        "network": config.network,
        "insert": config.insert or None,
        "parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
        "seed": classifier.provenance.get("arguments", {}).get("seed"),
        "test": metrics.plain(),
    }
    write_text(out / "metrics.json", json.dumps(described, indent=1) + "\n")
    return Evaluation(metrics, files, origin, classifier.classes)


def in_classes_of(images: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """The images with the class numbers of a model.

    Raises:
        UserError: images of a class that the model has not.
    """
    from dataclasses import replace

    if images.classes == classes:
        return images
    unknown = [name for name in images.classes if name not in classes]
    if unknown or not images.classes:
        raise UserError(
            f"{images.root}: its classes ({', '.join(images.classes) or 'none'}) are not the model's ({', '.join(classes)})",
            "the classes must have the names of the training data; --class-names names those of an .npz or sprite sheet",
        )
    numbers = [classes.index(name) for name in images.classes]
    labels = []
    for label in images.labels:
        labels.append(UNKNOWN if label == UNKNOWN else numbers[label])
    return replace(images, classes=classes, labels=tuple(labels))


def choose_images(images: ImageSet, known: KnownImages | None, part: str) -> tuple[list[int], str]:
    """The images to evaluate, and their relation to the model's training.

    Args:
        known: the images that the model was made from, if it has a record.
        part: of the model's own split, if it knows these images; else of the files.

    Raises:
        UserError: images that the model was trained on are asked for as others, or none are left.
    """
    labelled = [number for number, label in enumerate(images.labels) if label != UNKNOWN]
    if not labelled:
        raise UserError(f"{images.root} has no labels", "'vision-models classify predict' needs none")
    return choose(images, labelled, known, part, noun="images")
