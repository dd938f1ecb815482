"""``vision-models classify train``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, cast

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.image_sets import ImageSet, ImageSetOptions, open_images, set_fingerprint
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from vision_models.classify.cohort import SplitOptions
from vision_models.classify.model.options import NetworkOptions
from vision_models.classify.training.recipe import Recipe

LARGEST = 224  # side that larger images are scaled to, if --size does not say another

Images = Annotated[
    Path,
    Parameter(help="Labelled images: class folders, a table (file, label), an .npz, CIFAR's folder, a sprite sheet."),
]


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        values: counts, parameters, measures of the test images.
        history: one row per epoch.
        data: the images that it was trained on.
    """

    model: Path
    epoch: int
    values: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    data: Path

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "epoch": self.epoch, **self.values}

    def lines(self) -> Iterable[str]:
        from vision_models.classify.metrics import measure_lines

        values, split = self.values, self.values["split"]
        parts = f"{split['train']} train, {split['val']} validate, {split['test']} test"
        yield f"{values['images']} images of {len(values['classes'])} classes ({values['kind']}); split {split['name']}: {parts}"
        yield f"{values['network']} at {values['size']} × {values['size']}, {values['parameters']:,} parameters"
        if values["start"]:
            yield f"Weights: {values['start']}"
        yield f"Epoch {self.epoch} of {values['epochs']} selected (validation {values['val_accuracy']:.1%}). On the test images:"
        yield from measure_lines(values["test"])
        if values["test_ema"] is not None:
            yield f"  {'by the mean weights':24} {values['test_ema']:.4f}"
        yield f"Model folder: {self.model}"
        yield f"Next: vision-models classify evaluate {quote(str(self.data))} --model {quote(str(self.model))}"


def train(
    data: Images,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),
    recipe: Recipe = Recipe(),
    images: ImageSetOptions = ImageSetOptions(),
    split: SplitOptions = SplitOptions(),
    weights: Path | None = None,
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a network of ours or of timm on labelled images with DeiT's recipe, and evaluates it on the test images.

    Example: vision-models classify train flowers/ --network resnet18 --epochs 50 --out run

    Args:
        weights: a file of published weights to start from ('vision-models classify models').
    """
    # unusable data are reported before Lightning is loaded, which alone takes seconds
    from core_runtime.folders import require_apart
    from vision_models.classify.cohort import split_images
    from vision_models.membership import copies_between_parts, record

    require_apart(run.out, data)
    opened = open_images(data, images)
    parts = split_images(opened, split)
    copies = copies_between_parts(opened, parts)
    for note in (*opened.notes, copies):
        if note:
            warn(note)
    import torch

    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import identity
    from core_runtime.training import draw_history, fit
    from vision_models.classify.metrics import measure
    from vision_models.classify.model.classifier import Classifier, ClassifierConfig, check_network
    from vision_models.classify.model.folder import save_model
    from vision_models.classify.model.inference import ImageClassifier, predict_images
    from vision_models.classify.model.preparing import preprocessing_for
    from vision_models.classify.reports.evaluation import write_predictions
    from vision_models.classify.training.data import ClassificationData
    from vision_models.classify.training.module import ClassificationTraining
    from vision_models.classify.training.phases import check_phases
    from vision_models.starting import load_start

    use_threads(run.threads)
    size, channels = _input_of(opened, parts.train, network)
    config = ClassifierConfig(
        network.network,
        num_classes=len(opened.classes),
        in_chans=channels,
        size=size,
        settings=json.dumps(_settings(network, recipe)),
        insert=network.insert or "",
        insert_at=network.insert_at,
    )
    torch.manual_seed(run.seed)  # the same initial weights for every run with this seed
    model = Classifier(config)
    start = ""
    if weights is not None:
        start = load_start(model.network, weights, network.network).line()
    check_network(model, config)
    check_phases(model, recipe, weights)
    arguments = flat(data=data, weights=weights, network=network, recipe=recipe, images=images, split=split)
    learned_from = [set_fingerprint(opened), parts.train, parts.val, parts.test, weights and identity(weights)]
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "timm", "lightning", "attention-suite-vision-models"],
        data=_digest(learned_from),
    )
    prepare = preprocessing_for(size, channels)
    loaders = ClassificationData(opened, parts, prepare, recipe, workers=run.workers, seed=run.seed)
    device = resolve_device(run.device)
    training = ClassificationTraining(model, prepare, recipe, run.seed)
    history, best = fit(
        training,
        loaders,
        run,
        epochs=recipe.epochs,
        score="val_accuracy",
        patience=recipe.patience,
    )
    ready = ImageClassifier(model.eval().to(device), prepare, opened.classes, {})
    labels = [opened.labels[number] for number in parts.test]
    probabilities = predict_images(ready, opened, parts.test)
    metrics = measure(probabilities, labels, opened.classes)
    test_ema = None
    if training.ema is not None:
        averaged = cast(Classifier, training.ema.module).eval().to(device)
        mean = ImageClassifier(averaged, prepare, opened.classes, {})
        test_ema = measure(predict_images(mean, opened, parts.test), labels, opened.classes, resamples=0).accuracy
    counts = {part: len(parts.part(part)) for part in ("train", "val", "test")}
    values = {
        "kind": opened.kind,
        "images": len(opened),
        "classes": list(opened.classes),
        "split": {"name": parts.name, **counts},
        "copies": copies,
        "network": network.network,
        "insert": network.insert,
        "size": size,
        "channels": channels,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "start": start,
        "seed": run.seed,
        "epochs": len(history),
        "val_accuracy": best["val_accuracy"],
        "test": metrics.plain(),
        "test_ema": test_ema,
    }
    provenance = {
        "trained_on": {name: values[name] for name in ("kind", "images", "split")},
        "epoch": int(best["epoch"]),
        "start": start,
        "arguments": recorded,
        "test_accuracy": metrics.accuracy,
        "images": record(opened, parts),
    }
    folder = save_model(
        model.cpu(), run.out / "model", preprocessing=prepare, classes=opened.classes, provenance=provenance
    )
    panels = (("train_loss", "val_loss"), ("val_accuracy", "val_accuracy_ema"))
    draw_history(history, run.out / "figures" / "training.png", panels)
    write_predictions(run.out / "predictions" / "test.csv", opened, parts.test, probabilities, opened.classes)
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, int(best["epoch"]), values, history, data)


def _input_of(images: ImageSet, numbers: Sequence[int], network: NetworkOptions) -> tuple[int, int]:
    """Side and channels of the network's input, by the options, else by the first training images."""
    first = [images.picture(number) for number in numbers[:16]]
    size = network.size
    if size is None:
        size = min(LARGEST, max(8, *(min(picture.size) for picture in first)))
    channels = network.channels
    if channels is None:
        channels = 1 if all(picture.grey for picture in first) else 3
    return size, channels


def _settings(network: NetworkOptions, recipe: Recipe) -> dict[str, Any]:
    """The network's own arguments; drop path only where the network takes it."""
    from vision_models.classify.model.classifier import takes

    settings = network.values()
    if recipe.drop_path and "drop_path_rate" not in settings and takes(network.network, "drop_path_rate"):
        settings["drop_path_rate"] = recipe.drop_path
    return settings


def _digest(values: Sequence[Any]) -> str:
    from core_runtime.folders import fingerprint

    return fingerprint({"learned_from": values})
