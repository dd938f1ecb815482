"""``medical-segmentation organs demo``."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from medical_segmentation.organs.commands.evaluate import Evaluation, evaluate
from medical_segmentation.organs.commands.predict import Predictions, predict
from medical_segmentation.organs.commands.train import Trained, train
from medical_segmentation.organs.model.sizes import NetworkOptions
from medical_segmentation.organs.options import InferenceOptions, SampleOptions
from medical_segmentation.organs.training.recipe import InputOptions, Recipe, SplitOptions


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned; the network is the published one on a smaller backbone, with narrower maps."""

    cases: int
    size: int
    slices: int
    epochs: int
    backbone: str
    width: int
    augment: bool


QUICK = Plan(cases=8, size=48, slices=8, epochs=4, backbone="test_resnet", width=16, augment=False)
FULL = Plan(cases=24, size=96, slices=20, epochs=40, backbone="resnet18", width=32, augment=True)


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws abdomens, trains, judges beside thresholding, segments a DICOM series, writes report.html.

    Example: medical-segmentation organs demo /tmp/organs

    Args:
        out: folder for everything that is made.
    """
    from medical_segmentation.organs.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "run", "evaluation", "predictions"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data = out / "data"
    make_samples(data, SampleOptions(cases=plan.cases, unlabelled=2, size=plan.size, slices=plan.slices), seed=seed)
    trained = train(
        data,
        network=NetworkOptions(backbone=plan.backbone, width=plan.width),
        recipe=Recipe(epochs=plan.epochs, lr=4e-3, batch=8, augment=plan.augment, validate_every=2),
        input=InputOptions(window=(-60, 140)),
        split=SplitOptions(folds=4),
        run=RunOptions(out=out / "run", seed=seed, device="cpu"),
    )
    judged = evaluate(data, model=str(trained.model), out=out / "evaluation", device="cpu")
    predictions = predict(
        data / "imagesTs",
        model=str(trained.model),
        out=out / "predictions",
        inference=InferenceOptions(confidence=True),
        viewer=True,
        device="cpu",
    )
    baseline = judge_baseline(data, seed)
    return _report(out, trained, judged, predictions, baseline, time.monotonic() - began)


def judge_baseline(data: Path, seed: int) -> list[dict[str, Any]]:
    """The measures of thresholding on the same held-out cases."""
    from medical_segmentation.organs.baseline import fit_thresholds, threshold
    from medical_segmentation.organs.cohort.folds import split_cases
    from medical_segmentation.organs.cohort.layouts import find_dataset
    from medical_segmentation.organs.judging import Judgement, summarise

    dataset = find_dataset(data)
    parts = split_cases(dataset, fold=0, folds=4, seed=seed)
    windows = fit_thresholds(dataset, parts.train, len(dataset.classes))
    judgement = Judgement()
    for case in parts.val:
        volume = dataset.image(case)
        labels = threshold(volume.array, windows)
        truth = dataset.labels(case, volume)
        judgement.add(case.name, case.patient, labels, truth, volume.geometry, list(dataset.classes.values()))
    return summarise(judgement.rows, seed=seed)


def _dice(summary: Any, name: str) -> dict[str, Any]:
    return next(row for row in summary if row["class"] == name and row["measure"] == "dice")


def _report(
    out: Path,
    trained: Trained,
    judged: Evaluation,
    predictions: Predictions,
    baseline: list[dict[str, Any]],
    seconds: float,
) -> DemoResult:
    from core_runtime.report import Report

    ours, theirs = _dice(judged.summary, "all"), _dice(baseline, "all")
    headline = (
        f"Guided attention reaches a mean Dice of {ours['mean']:.2f} on held-out drawn abdomens, thresholding {theirs['mean']:.2f}; "
        f"every mask has the geometry of its image, and the DICOM series got a DICOM segmentation."
    )
    page = Report("Organs in volumes", lead=headline)
    picture = (
        out / "evaluation" / "best.png",
        "A held-out abdomen: prediction, truth, confidence, and where the guided attention lies.",
    )
    page.picture(*picture)
    page.link("evaluation/best.html", "Scroll through it")
    values = trained.values
    page.text(
        f"{values['split']['train']} drawn abdomens with noise, a bias field, thick slices and odd orientations trained the network "
        f"({values['parameters']:,} parameters, smaller than the published 104.5 million), {values['split']['val']} were held out. "
        f"These figures say nothing about real patients."
    )
    rows = []
    for name in [*values["classes"][1:], "all"]:
        a, b = _dice(judged.summary, name), _dice(baseline, name)
        rows.append((name, a["mean"], a["low"], a["high"], b["mean"], a["cases"]))
    columns = ("class", "Dice, guided attention", "low", "high", "Dice, thresholding", "cases")
    page.table(columns, rows, caption="On the same held-out cases, 95 % intervals by patient.")
    page.text(values["abstention"] + f" Calibration error {judged.ece:.3f}.")
    page.picture(out / "run" / "figures" / "training.png", "Training loss, and the Dice of the held-out cases.")
    page.picture(out / "evaluation" / "calibration.png", "How often the class is right at each confidence.")
    page.heading("Volumes without labels")
    for case in predictions.cases:
        folder = out / "predictions" / case["case"]
        page.picture(folder / case["files"]["picture"], f"{case['case']}: {', '.join(case['files'].values())}")
        page.link(Path("predictions") / case["case"] / "viewer.html", f"Scroll through {case['case']}")
    page.heading("With your own data").command(
        "medical-segmentation organs inspect FOLDER",
        "medical-segmentation organs train FOLDER --out run",
        "medical-segmentation organs predict SERIES --model run/model --format dicom-seg",
    )
    page.facts([("seconds", f"{seconds:.0f}")])
    figures = {"dice": ours["mean"], "baseline_dice": theirs["mean"], "ece": judged.ece, "seconds": seconds}
    path = page.write(out / "report.html")
    return DemoResult(headline, path, [picture], columns, rows, figures)
