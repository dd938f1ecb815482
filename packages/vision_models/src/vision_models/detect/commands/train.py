"""``vision-models detect train``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.cli import Outcome
from core_runtime.errors import counted
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from vision_models.detect.cohort import SplitOptions
from vision_models.detect.model.options import DetectorOptions
from vision_models.detect.scenes.options import ImageFolder, Scenes
from vision_models.detect.training.recipe import Recipe

if TYPE_CHECKING:
    from vision_models.detect.model.detectors import DetectorConfig
    from vision_models.detect.results import FoundBox


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        values: counts, parameters, measures of the test pictures.
        history: one row per epoch.
        data: the pictures that it was trained on.
        found: boxes in each test picture.
    """

    model: Path
    epoch: int
    values: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    data: Path
    found: Sequence[Sequence["FoundBox"]]

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "epoch": self.epoch, **self.values}

    def lines(self) -> Iterable[str]:
        from vision_models.detect.metrics import measure_lines

        values, split = self.values, self.values["split"]
        parts = f"{split['train']} train, {split['val']} validate, {split['test']} test"
        yield f"{counted(values['pictures'], 'picture')}, {counted(values['boxes'], 'box', 'boxes')} ({values['kind']}); split {split['name']}: {parts}"
        front = "without enhancer"
        if values["enhancer"]:
            front = f"behind FeatEnHancer ({values['enhancer_parameters']:,} parameters)"
        yield f"{values['detector']} {front}, {values['parameters']:,} parameters in all"
        yield f"Weights: {values['start'] or 'random'}"
        yield f"Epoch {self.epoch} of {values['epochs']} selected (validation AP50 {values['val_ap50']:.3f}). On the test pictures:"
        yield from measure_lines(values["test"])
        yield f"Model folder: {self.model}"
        yield f"Next: vision-models detect evaluate {quote(str(self.data))} --model {quote(str(self.model))}"


def train(
    data: Scenes,
    /,
    *,
    detector: DetectorOptions = DetectorOptions(),
    recipe: Recipe = Recipe(),
    split: SplitOptions = SplitOptions(),
    images: ImageFolder = None,
    weights: Path | None = None,
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a detector, with or without FeatEnHancer in front, by the detector's losses alone, and evaluates it on the test pictures.

    Example: vision-models detect train ExDark/ --detector fcos_resnet50_fpn --weights fcos.pth --out run

    Args:
        weights: a file of published weights to start from ('vision-models detect models'); what is loaded is printed.
    """
    # unusable data are reported before Lightning is loaded, which alone takes seconds
    from core_runtime.folders import require_apart
    from vision_models.detect.cohort import PicturesByContent, numbers_of, split_boxes
    from vision_models.detect.scenes.opening import open_boxes
    from vision_models.membership import copies_between_parts, record

    require_apart(run.out, data)
    scenes = open_boxes(data, images)
    parts = split_boxes(scenes, split)
    by_content, numbers = PicturesByContent(scenes), numbers_of(scenes, parts)
    for warning in (*scenes.warnings(), copies_between_parts(by_content, numbers)):
        if warning:
            warn(warning)
    import torch

    from core_runtime.folders import fingerprint, open_run, write_text
    from core_runtime.identity import data_fingerprint, identity
    from core_runtime.training import draw_history, fit
    from vision_models.detect.metrics import Judge
    from vision_models.detect.model.detectors import Detector
    from vision_models.detect.model.folder import save_model
    from vision_models.detect.model.inference import ReadyDetector
    from vision_models.detect.predictions import find_boxes
    from vision_models.detect.training.data import DetectionData
    from vision_models.detect.training.module import DetectionTraining
    from vision_models.starting import load_start

    use_threads(run.threads)
    config, own_weights = config_of(detector, len(scenes.classes))
    torch.manual_seed(run.seed)  # the same initial weights for every run with this seed
    model = Detector(config)
    start = ""
    first_weights = weights or own_weights
    if first_weights is not None:
        start = load_start(model.bare, first_weights).line()
    arguments = flat(data=data, images=images, weights=weights, detector=detector, recipe=recipe, split=split)
    learned_from = {
        "pictures": data_fingerprint([image.file for image in scenes.images]),
        "boxes": [(image.name, image.boxes, image.labels, image.part) for image in scenes.images],
        "weights": weights and identity(weights),
    }
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "torchvision", "timm", "lightning", "attention-suite-vision-models"],
        data=fingerprint(learned_from),
    )
    loaders = DetectionData(parts, recipe, workers=run.workers, seed=run.seed)
    device = resolve_device(run.device)
    trainer: dict[str, Any] = {"gradient_clip_val": recipe.clip}
    history, best = fit(
        DetectionTraining(model, recipe, scenes.classes, parts.val, run.seed),
        loaders,
        run,
        epochs=recipe.epochs,
        score="val_ap50",
        patience=recipe.patience,
        trainer=trainer,
    )
    ready = ReadyDetector(model.eval().to(device), scenes.classes, {})
    found = find_boxes(ready, parts.test)
    metrics = Judge(parts.test, found, scenes.classes).metrics()
    enhancer = model.enhancer
    values = {
        "kind": scenes.kind,
        "pictures": len(scenes.images),
        "boxes": scenes.box_count,
        "classes": list(scenes.classes),
        "split": {"name": parts.name, **{part: len(parts.part(part)) for part in ("train", "val", "test")}},
        "detector": detector.detector,
        "enhancer": config.enhancer,
        "enhancer_parameters": sum(p.numel() for p in enhancer.parameters()) if enhancer is not None else 0,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "start": start,
        "seed": run.seed,
        "epochs": len(history),
        "val_ap50": best["val_ap50"],
        "test": metrics.plain(),
    }
    provenance = {
        "trained_on": {name: values[name] for name in ("kind", "pictures", "split")},
        "epoch": int(best["epoch"]),
        "start": start,
        "arguments": recorded,
        "test_ap50": metrics.ap50,
        "images": record(by_content, numbers),
    }
    folder = save_model(model.cpu(), run.out / "model", classes=scenes.classes, provenance=provenance)
    draw_history(history, run.out / "figures" / "training.png", (("train_loss",), ("val_ap50",)))
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, int(best["epoch"]), values, history, data, found)


def config_of(detector: DetectorOptions, num_classes: int) -> tuple["DetectorConfig", Path | None]:
    """How the detector is built; of a transformers folder, also its weights."""
    from vision_models.classify.model.options import NetworkOptions
    from vision_models.detect.model.detectors import HEADS, DetectorConfig, read_transformers

    name, described, weights, backbone = detector.detector, "", None, ""
    if Path(name).is_dir():
        described, weights = read_transformers(Path(name), num_classes)
        name = "transformers"
    elif name in HEADS:
        backbone = detector.backbone
    settings = NetworkOptions(settings=detector.settings).values()
    config = DetectorConfig(
        detector=name,
        num_classes=num_classes,
        backbone=backbone,
        settings=json.dumps(settings),
        channels=detector.channels,
        size=detector.size,
        largest=detector.largest,
        enhancer=detector.enhancer == "featenhancer",
        enhancer_width=detector.enhancer_width,
        described=described,
    )
    return config, weights
