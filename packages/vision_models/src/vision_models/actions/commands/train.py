"""``vision-models actions train``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from vision_models.actions.annotations import AnnotationOptions
from vision_models.actions.cohort import Cohort, Split, SplitOptions
from vision_models.actions.features import FeatureOptions
from vision_models.actions.training.recipe import NetworkOptions, Recipe

if TYPE_CHECKING:
    from vision_models.actions.model.detector import DetectorConfig

FeatureFolder = Annotated[
    Path, Parameter(help="Features: a folder of VIDEO.npz, .npy or .csv (snippets × channels), or an HDF5 file.")
]
AnnotationFile = Annotated[
    Path | None,
    Parameter(
        help="ActivityNet's JSON, or a table (video, start, end, label); default: annotations.json or .csv beside the features."
    ),
]
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        values: counts, parameters, measures of the test videos.
        history: one row per epoch.
        data: the features that it was trained on.
        annotations: their annotations.
    """

    model: Path
    epoch: int
    values: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    data: Path
    annotations: Path

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "epoch": self.epoch, **self.values}

    def lines(self) -> Iterable[str]:
        values, split = self.values, self.values["split"]
        yield (
            f"{values['videos']} videos, {values['actions']} actions of {len(values['labels'])} labels; split {split['name']}: "
            f"{split['train']} train, {split['val']} validate, {split['test']} test"
        )
        yield (
            f"{values['network']}, {values['parameters']:,} parameters, {values['sequences']} training sequences of "
            f"{values['steps']} steps ({values['fit']})"
        )
        yield f"Epoch {self.epoch} of {values['epochs']} selected. On the test videos:"
        for name, value in values["test"].items():
            yield f"  {name:20} {value:.4f}"
        yield f"Model folder: {self.model}"
        data, annotations, model = (quote(str(each)) for each in (self.data, self.annotations, self.model))
        yield f"Next: vision-models actions evaluate {data} --annotations {annotations} --model {model}"


def annotations_beside(features: Path, annotations: Path | None) -> Path:
    """The file of annotations: the option's, else one that lies with the features or beside their folder.

    Raises:
        UserError: none was given, and none lies there.
    """
    if annotations is not None:
        return annotations
    folder = features if features.is_dir() else features.parent
    for place in (folder, folder.parent):
        for name in ("annotations.json", "annotations.csv"):
            if (place / name).is_file():
                return place / name
    if not features.exists():
        raise UserError(f"no such file or folder: {features}", "features come from 'vision-models actions extract'")
    raise UserError(f"{features}: no annotations were given, and none lie there", "--annotations FILE")


def train(
    features: FeatureFolder,
    /,
    *,
    annotations: AnnotationFile = None,
    reading: AnnotationOptions = AnnotationOptions(),
    timing: FeatureOptions = FeatureOptions(),
    network: NetworkOptions = NetworkOptions(),
    recipe: Recipe = Recipe(),
    split: SplitOptions = SplitOptions(),
    weights: Path | None = None,
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains BMN, or BMN with class semantics (CSA), on features and annotations, and evaluates it on the test videos.

    Example: vision-models actions train features/ --annotations annotations.json --out run

    Args:
        weights: a model folder's model.safetensors to start from; its sizes must be the same.
    """
    # unusable data are reported before Lightning is loaded, which alone takes seconds
    from vision_models.actions.annotations import read_annotations
    from vision_models.actions.cohort import gather, scale_of, split_clips
    from vision_models.actions.features import find_features

    if run.out.resolve() == features.resolve():
        raise UserError(f"{run.out} holds the features", "--out names a folder of the run's own")
    file = annotations_beside(features, annotations)
    truth = read_annotations(file, reading)
    sources = find_features(features)
    cohort = gather(sources, truth, timing)
    parts = split_clips(cohort, split)
    for note in cohort.notes:
        warn(note)
    clips = cohort.clips
    step = _common_step([clips[name].step for name in parts.train], network)
    import torch

    from core_runtime.folders import fingerprint, open_run, write_text
    from core_runtime.identity import identity
    from core_runtime.training import draw_history, fit
    from vision_models.actions.judging import detect_all, judge
    from vision_models.actions.metrics.threshold import best_threshold
    from vision_models.actions.model.detector import ActionDetector
    from vision_models.actions.model.folder import save_model
    from vision_models.actions.model.inference import FeatureSource, ReadyDetector
    from vision_models.actions.model.options import DetectionOptions
    from vision_models.actions.reports.files import write_detections
    from vision_models.actions.training.data import DetectionData, Sequences
    from vision_models.actions.training.module import DetectionTraining
    from vision_models.starting import load_start

    use_threads(run.threads)
    trained_labels = sorted({action.label for name in parts.train for action in clips[name].actions})
    if not trained_labels:
        raise UserError("the training videos hold no action", "--split random, or annotate more")
    labels = tuple(trained_labels)
    if network.labels != "auto" or len(labels) == 1:
        labels = ()  # segments without a name
    config = _config_of(network, cohort.channels, len(labels))
    torch.manual_seed(run.seed)  # the same initial weights for every run with this seed
    model = ActionDetector(config)
    mean, spread = scale_of([clips[name] for name in parts.train])
    model.mean.copy_(torch.from_numpy(mean))
    model.spread.copy_(torch.from_numpy(spread))
    start = ""
    if weights is not None:
        start = load_start(model, weights).line()
    paths = {"features": features, "annotations": file, "weights": weights}
    options = {"reading": reading, "timing": timing, "network": network, "recipe": recipe, "split": split}
    arguments = flat(**paths, **options)
    learned_from = [
        identity(file),
        {name: identity(sources[name].path) for name in clips},
        parts.train,
        parts.val,
        weights and identity(weights),
    ]
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "lightning", "attention-suite-vision-models"],
        data=fingerprint({"learned_from": learned_from}),
    )
    make = {"config": config, "labels": trained_labels, "step": step, "fill": mean, "inside": recipe.inside}
    sequences = [Sequences([clips[name] for name in names], **make) for names in (parts.train, parts.val)]
    loaders = DetectionData(sequences[0], sequences[1], recipe, workers=run.workers, seed=run.seed)
    device = resolve_device(run.device)
    trainer: dict[str, Any] = {}
    if recipe.clip:
        trainer["gradient_clip_val"] = recipe.clip
    history, best = fit(
        DetectionTraining(model, recipe, run.seed),
        loaders,
        run,
        epochs=recipe.epochs,
        score=lambda row: -row["val_loss"],
        patience=recipe.patience,
        trainer=trainer,
    )
    kept_step = step if network.fit == "windows" else 0.0
    source = FeatureSource(cohort.backbone, cohort.channels, kept_step)
    ready = ReadyDetector(model.eval().to(device), labels, source, 0.0, {})
    how = DetectionOptions()
    tuning = detect_all(ready, [clips[name] for name in parts.val], how)
    threshold = best_threshold(tuning, clips, agnostic=not labels)
    detections = detect_all(ready, [clips[name] for name in parts.test], how)
    measures = judge(detections, [clips[name] for name in parts.test], THRESHOLDS, labelled=bool(labels), resamples=0)
    values = {
        **_account(cohort, parts, network),
        "sequences": len(sequences[0]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "start": start,
        "seed": run.seed,
        "epochs": len(history),
        "threshold": threshold,
        "test": dict(measures.values),
    }
    provenance = {
        "epoch": int(best["epoch"]),
        "arguments": recorded,
        "test": dict(measures.values),
        "videos": {"train": list(parts.train), "val": list(parts.val), "test": list(parts.test)},
    }
    folder = save_model(
        model.cpu(), run.out / "model", labels=labels, source=source, threshold=threshold, provenance=provenance
    )
    panels = (("train_loss", "val_loss"), ("val_tem", "val_reg", "val_cls"), ("train_label", "val_label"))
    draw_history(history, run.out / "figures" / "training.png", panels)
    write_detections(run.out / "predictions" / "test.json", detections)
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, int(best["epoch"]), values, history, features, file)


def _config_of(network: NetworkOptions, channels: int, labels: int) -> "DetectorConfig":
    """The network that the options describe, for features of so many channels and so many named actions."""
    from vision_models.actions.model.bmn import BMNConfig
    from vision_models.actions.model.detector import DetectorConfig

    sizes = ("steps", "longest", "bins", "hidden", "pem_channels", "map_3d", "map_2d", "layout")
    bmn = BMNConfig(
        channels=channels,
        groups=4 if channels % 4 == 0 else 1,
        csa=network.csa,
        csa_fuse=network.csa_fuse,
        csa_self_se=network.csa_self_se,
        **{name: getattr(network, name) for name in sizes},
    )
    return DetectorConfig(bmn, labels=labels, fit=network.fit)


def _account(cohort: Cohort, parts: Split, network: NetworkOptions) -> dict[str, Any]:
    """What was trained on, and which network: the first of the run's figures."""
    counts = {part: len(getattr(parts, part)) for part in ("train", "val", "test")}
    return {
        "videos": len(cohort.clips),
        "actions": sum(len(clip.actions) for clip in cohort.clips.values()),
        "labels": list(cohort.labels),
        "split": {"name": parts.name, **counts},
        "network": "BMN" if network.csa == "none" else f"BMN-CSA ({network.csa}, {network.csa_fuse})",
        "csa": network.csa,
        "fit": network.fit,
        "steps": network.steps,
    }


def _common_step(steps: Sequence[float], network: NetworkOptions) -> float:
    """Seconds of a snippet in windows: the middle of the training videos'.

    Raises:
        UserError: they differ so much that one length cannot stand for all.
    """
    ordered = sorted(steps)
    middle = ordered[len(ordered) // 2]
    if network.fit == "windows" and ordered[-1] > 4 * ordered[0]:
        raise UserError(
            f"snippets are {ordered[0]:.3g} to {ordered[-1]:.3g} s long: windows of one length do not fit them",
            "--fit resize stretches each video to the network's steps, as for ActivityNet",
        )
    return middle
