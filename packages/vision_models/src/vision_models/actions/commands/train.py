"""``vision-models actions train``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from vision_models.actions.annotations import AnnotationOptions, annotations_in
from vision_models.actions.cohort import Clip, Cohort, Split, SplitOptions
from vision_models.actions.features import FeatureOptions, Source
from vision_models.actions.training.recipe import NetworkOptions, Recipe

if TYPE_CHECKING:
    from vision_models.actions.metrics.measure import Measures
    from vision_models.actions.model.detector import ActionDetector, DetectorConfig
    from vision_models.actions.model.inference import ReadyDetector
    from vision_models.actions.results import Detections

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
        file = annotations_in(place)
        if file is not None:
            return file
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
    data = _read_data(features, annotations, reading, timing, network, split, run)
    from core_runtime.folders import open_run

    use_threads(run.threads)
    model, mean, start = _build(data, network, weights, run.seed)
    paths = {"features": features, "annotations": data.annotations, "weights": weights}
    options = {"reading": reading, "timing": timing, "network": network, "recipe": recipe, "split": split}
    recorded = open_run(
        run,
        flat(**paths, **options),
        packages=["torch", "lightning", "attention-suite-vision-models"],
        data=_fingerprint(data, weights),
    )
    device = resolve_device(run.device)
    sequences, history, best = _fit(model, mean, data, recipe, run)
    ready, measures, detections = _judge(model.eval().to(device), data, network)
    counts = {"sequences": sequences, "start": start, "seed": run.seed, "epochs": len(history)}
    values = _figures(data, network, ready, counts, measures)
    folder = _save(ready, run.out / "model", data, {"epoch": int(best["epoch"]), "arguments": recorded}, measures)
    _write_run(run.out, history, detections, values)
    return Trained(folder, int(best["epoch"]), values, history, features, data.annotations)


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        cohort: videos with features and annotations.
        parts: which of them train, validate and test.
        sources: of the features of each video.
        annotations: the file.
        step: seconds of a snippet in windows.
        trained_labels: those of the training videos.
        labels: what segments are called; none: they are class-agnostic.
    """

    cohort: Cohort
    parts: Split
    sources: Mapping[str, Source]
    annotations: Path
    step: float
    trained_labels: Sequence[str]
    labels: tuple[str, ...]

    def clips(self, names: Sequence[str]) -> list[Clip]:
        """The videos of a part."""
        return [self.cohort.clips[name] for name in names]


def _read_data(
    features: Path,
    annotations: Path | None,
    reading: AnnotationOptions,
    timing: FeatureOptions,
    network: NetworkOptions,
    split: SplitOptions,
    run: RunOptions,
) -> Data:
    """Features and annotations put together and split; what is odd about them is said.

    Raises:
        UserError: they cannot be used.
    """
    from vision_models.actions.annotations import read_annotations
    from vision_models.actions.cohort import gather, split_clips
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
    trained = [cohort.clips[name] for name in parts.train]
    step = _common_step([clip.step for clip in trained], network)
    trained_labels = sorted({action.label for clip in trained for action in clip.actions})
    if not trained_labels:
        raise UserError("the training videos hold no action", "--split random, or annotate more")
    labels = tuple(trained_labels)
    if network.labels != "auto" or len(labels) == 1:
        labels = ()  # segments without a name
    return Data(cohort, parts, sources, file, step, trained_labels, labels)


def _build(data: Data, network: NetworkOptions, weights: Path | None, seed: int) -> tuple[ActionDetector, Any, str]:
    """The network before its training, the mean of the training features, and in words what it starts from."""
    import torch

    from vision_models.actions.cohort import scale_of
    from vision_models.actions.model.detector import ActionDetector
    from vision_models.starting import load_start

    torch.manual_seed(seed)  # the same initial weights for every run with this seed
    model = ActionDetector(_config_of(network, data.cohort.channels, len(data.labels)))
    mean, spread = scale_of(data.clips(data.parts.train))
    model.mean.copy_(torch.from_numpy(mean))
    model.spread.copy_(torch.from_numpy(spread))
    start = ""
    if weights is not None:
        start = load_start(model, weights).line()
    return model, mean, start


def _fingerprint(data: Data, weights: Path | None) -> str:
    """What tells these data and initial weights from others, so that a run is not resumed with others."""
    from core_runtime.folders import fingerprint
    from core_runtime.identity import identity

    learned_from = [
        identity(data.annotations),
        {name: identity(data.sources[name].path) for name in data.cohort.clips},
        data.parts.train,
        data.parts.val,
        weights and identity(weights),
    ]
    return fingerprint({"learned_from": learned_from})


def _fit(
    model: ActionDetector, mean: Any, data: Data, recipe: Recipe, run: RunOptions
) -> tuple[int, Sequence[Mapping[str, float]], Mapping[str, float]]:
    """Trains the network in place: the number of training sequences, a row per epoch, and the selected one."""
    from core_runtime.training import fit
    from vision_models.actions.training.data import DetectionData, Sequences
    from vision_models.actions.training.module import DetectionTraining

    how = {
        "config": model.config,
        "labels": data.trained_labels,
        "step": data.step,
        "fill": mean,
        "inside": recipe.inside,
    }
    trained = Sequences(data.clips(data.parts.train), **how)
    judged = Sequences(data.clips(data.parts.val), **how)
    trainer: dict[str, Any] = {}
    if recipe.clip:
        trainer["gradient_clip_val"] = recipe.clip
    history, best = fit(
        DetectionTraining(model, recipe, run.seed),
        DetectionData(trained, judged, recipe, workers=run.workers, seed=run.seed),
        run,
        epochs=recipe.epochs,
        score=lambda row: -row["val_loss"],
        patience=recipe.patience,
        trainer=trainer,
    )
    return len(trained), history, best


def _judge(
    model: ActionDetector, data: Data, network: NetworkOptions
) -> tuple[ReadyDetector, Measures, Mapping[str, Detections]]:
    """The detector with the threshold that the validation videos choose, its measures and its segments of the test videos."""
    from vision_models.actions.judging import detect_all, judge
    from vision_models.actions.metrics.threshold import best_threshold
    from vision_models.actions.model.inference import FeatureSource, ReadyDetector
    from vision_models.actions.model.options import DetectionOptions

    step = data.step if network.fit == "windows" else 0.0
    source = FeatureSource(data.cohort.backbone, data.cohort.channels, step)
    ready = ReadyDetector(model, data.labels, source, 0.0, {})
    how = DetectionOptions()
    tuning = detect_all(ready, data.clips(data.parts.val), how)
    threshold = best_threshold(tuning, data.cohort.clips, agnostic=not data.labels)
    tested = data.clips(data.parts.test)
    detections = detect_all(ready, tested, how)
    measures = judge(detections, tested, THRESHOLDS, labelled=bool(data.labels), resamples=0)
    return replace(ready, threshold=threshold), measures, detections


def _figures(
    data: Data, network: NetworkOptions, ready: ReadyDetector, counts: Mapping[str, Any], measures: Measures
) -> dict[str, Any]:
    """The figures of the run."""
    return {
        **_account(data.cohort, data.parts, network),
        **counts,
        "parameters": sum(parameter.numel() for parameter in ready.network.parameters()),
        "threshold": ready.threshold,
        "test": dict(measures.values),
    }


def _save(ready: ReadyDetector, folder: Path, data: Data, made: Mapping[str, Any], measures: Measures) -> Path:
    """Writes the model folder, which says what it was made from."""
    from vision_models.actions.model.folder import save_model

    parts = data.parts
    provenance = {
        **made,
        "test": dict(measures.values),
        "videos": {"train": list(parts.train), "val": list(parts.val), "test": list(parts.test)},
    }
    return save_model(
        ready.network.cpu(),
        folder,
        labels=ready.labels,
        source=ready.source,
        threshold=ready.threshold,
        provenance=provenance,
    )


def _write_run(
    out: Path,
    history: Sequence[Mapping[str, float]],
    detections: Mapping[str, Detections],
    values: Mapping[str, Any],
) -> None:
    """Writes the course of the training, the segments of the test videos and the figures."""
    from core_runtime.folders import write_text
    from core_runtime.training import draw_history
    from vision_models.actions.reports.files import write_detections

    panels = (("train_loss", "val_loss"), ("val_tem", "val_reg", "val_cls"), ("train_label", "val_label"))
    draw_history(history, out / "figures" / "training.png", panels)
    write_detections(out / "predictions" / "test.json", detections)
    write_text(out / "metrics.json", json.dumps(values, indent=1) + "\n")


def _config_of(network: NetworkOptions, channels: int, labels: int) -> DetectorConfig:
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
