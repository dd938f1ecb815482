"""``medical-segmentation organs train``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Between, RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from medical_segmentation.organs.model.sizes import NetworkOptions
from medical_segmentation.organs.training.recipe import InputOptions, Recipe, SplitOptions
from medical_segmentation.volumes.volume import ReadingOptions


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        values: split, preparation, parameters, Dice of the validation cases, calibration.
        history: one row per epoch.
        summary: measures of the validation cases on their own grids.
        data: what it was trained on.
    """

    model: Path
    epoch: int
    values: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    summary: Sequence[Mapping[str, Any]]
    data: Path

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "epoch": self.epoch, **self.values}

    def lines(self) -> Iterable[str]:
        from medical_segmentation.organs.judging import summary_lines

        values = self.values
        split = values["split"]
        yield f"{split['train']} cases trained, {split['val']} held out ({split['name']}); {values['layout']}"
        yield f"{values['network']}, {values['parameters']:,} parameters; epoch {self.epoch + 1} of {values['epochs']} selected"
        yield "On the held-out cases, in their own geometry (they selected the epoch, so a little too good):"
        yield from summary_lines(self.summary)
        yield values["abstention"]
        yield f"Model folder: {self.model}"
        yield f"Next: medical-segmentation organs predict VOLUME --model {quote(str(self.model))}"


def train(
    data: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),
    recipe: Recipe = Recipe(),
    input: InputOptions = InputOptions(),
    split: SplitOptions = SplitOptions(),
    reading: ReadingOptions = ReadingOptions(),
    risk: Annotated[float, Between(0.005, 0.5)] = 0.1,
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a network on labelled volumes, holds out a fold by patient, and calibrates its certainty on it.

    Example: medical-segmentation organs train Dataset009_Spleen --backbone resnet18 --epochs 100 --out run

    Args:
        data: nnU-Net v2 or Decathlon folder, CHAOS, HVSMR, BraTS, PNG slices, or images/ and labels/.
        risk: share of organ voxels that may be wrong, in expectation, among those the model does not abstain from.
    """
    from medical_segmentation.organs.cohort.dataset import with_mapping, with_patients, without_names
    from medical_segmentation.organs.cohort.folds import Split, check_images, split_cases
    from medical_segmentation.organs.cohort.layouts import find_dataset

    # unusable data are reported before Lightning is loaded, which alone takes seconds
    dataset = with_mapping(find_dataset(data), reading)
    for note in dataset.notes:
        warn(note)
    if split.patients is not None:
        dataset = with_patients(dataset, Path(split.patients))
    parts = split_cases(dataset, fold=split.fold, folds=split.folds, seed=run.seed)
    check_images(parts)
    parts = Split(without_names(parts.train), without_names(parts.val), without_names(parts.test), parts.name)
    import torch

    from core_runtime.folders import abandon_run, open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import draw_history, fit
    from medical_segmentation.organs.judging import summarise
    from medical_segmentation.organs.model.folder import save_model
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, initialise
    from medical_segmentation.organs.model.inference import OrganModel
    from medical_segmentation.organs.model.networks import build_network
    from medical_segmentation.organs.reports.figures import draw_calibration, draw_scores
    from medical_segmentation.organs.training.calibration import calibrate
    from medical_segmentation.organs.training.data import OrganData, prepare_cases
    from medical_segmentation.organs.training.module import OrganTraining
    from medical_segmentation.organs.training.planning import named_classes, plan_preparation

    use_threads(run.threads)
    preparation, channels = plan_preparation(dataset, parts.train, network, input, reading)
    files = [path for case in (*parts.train, *parts.val) for path in (*case.images, case.labels) if path]
    arguments = flat(data=data, network=network, recipe=recipe, input=input, split=split, reading=reading, risk=risk)
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "lightning", "monai", "attention-suite-medical-segmentation"],
        data=data_fingerprint(files),
    )
    cache = run.out / "cache"
    try:
        train_cases = prepare_cases(dataset, parts.train, preparation, cache, reading)
        val_cases = prepare_cases(dataset, parts.val, preparation, cache, reading)
        classes, notes = named_classes(dataset.classes, train_cases, val_cases)
    except UserError:
        if not run.resume:
            abandon_run(run.out)  # so that the same command runs once the case is mended
        raise
    for note in notes:
        warn(note)
    torch.manual_seed(run.seed)  # the same initial weights for every run with this seed
    model = build_network(network, n_classes=len(classes), in_channels=len(channels))
    if isinstance(model, GuidedAttentionNet) and not network.pretrained:
        initialise(model)
    device = resolve_device(run.device)
    loaders = OrganData(
        train_cases,
        preparation,
        batch=recipe.batch,
        per_volume=recipe.windows,
        augment=recipe.augment,
        workers=run.workers,
        seed=run.seed,
    )
    if len(loaders.patches) < 2:
        raise UserError(f"{data}: one slice to train on, batch normalisation needs two", "add cases")
    history, best = fit(
        OrganTraining(model, recipe, preparation, classes, channels, loaders.patches, val_cases, run.seed),
        loaders,
        run,
        epochs=recipe.epochs,
        score="val_dice",
    )
    ready = OrganModel([model.eval().to(device)], preparation, classes, tuple(channels), {})
    calibrated, threshold, sentence, judgement = calibrate(
        ready, dataset, parts.val, val_cases, risk=risk, reading=reading
    )
    summary = summarise(judgement.rows, seed=run.seed)
    mean_dice = next(row["mean"] for row in summary if row["class"] == "all" and row["measure"] == "dice")
    values = {
        "layout": dataset.layout,
        "classes": list(classes),
        "channels": list(channels),
        "split": {"name": parts.name, "train": len(parts.train), "val": len(parts.val)},
        "preparation": preparation.plain(),
        "network": _network_in_words(network),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": len(history),
        "val_dice": mean_dice,
        "temperature": calibrated.temperature,
        "threshold": threshold,
        "ece": judgement.reliability.ece,
        "abstention": sentence,
    }
    provenance = {
        "trained_on": {name: values[name] for name in ("layout", "split")},
        "cases": fingerprints(parts.train),
        "epoch": int(best["epoch"]),
        "arguments": recorded,
        "val_dice": mean_dice,
        "risk": risk,
        "drawn": dataset.drawn,
    }
    folder = save_model(
        model.cpu(),
        run.out / "model",
        preparation=preparation,
        classes=classes,
        channels=channels,
        provenance=provenance,
        temperature=calibrated.temperature,
        threshold=threshold,
    )
    write_text(run.out / "cases.csv", judgement.table())
    write_text(
        run.out / "metrics.json",
        json.dumps({**values, "summary": summary}, indent=1, default=str).replace("NaN", "null") + "\n",
    )
    draw_history(history, run.out / "figures" / "training.png", [("train_loss",), ("val_dice",)])
    draw_calibration(judgement.reliability.bins, judgement.reliability.ece, run.out / "figures" / "calibration.png")
    draw_scores(judgement.rows, run.out / "figures" / "dice.png")
    return Trained(folder, int(best["epoch"]), values, history, summary, data)


def _network_in_words(network: NetworkOptions) -> str:
    if network.network != "guided":
        return network.network
    return f"guided attention on {network.backbone} ({network.form})"


def fingerprints(cases: Sequence[Any]) -> list[str]:
    """Digests of the images that were trained on, so that `evaluate` knows them again under any name."""
    from medical_segmentation.organs.cohort.dataset import case_digest

    return [case_digest(case) for case in cases]
