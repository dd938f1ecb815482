"""The job `train`: from a folder of features and a table of labels to a run folder with a model."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core_attention.checkpoints.folders import save_model
from core_runtime.cli import note
from core_runtime.errors import UserError
from core_runtime.folders import data_fingerprint, open_run, write_text
from core_runtime.training import draw_history, fit
from pathology_mil.training.data import BagData, Cohort, open_cohort
from pathology_mil.commands.evaluate import json_text, judge
from pathology_mil.cohort.labels import MERGES, Labels
from pathology_mil.metrics import Metrics, measure, write_fold_table, write_summary
from pathology_mil.training.recipe import ModelName, Recipe
from pathology_mil.cohort.splits import Split, check_splits, few_shot, from_names, make_splits, read_splits, write_splits
from pathology_mil.training.module import MILTraining, build_model, f1_and_auc


@dataclass(frozen=True)
class Fold:
    """One trained model: where it is, which epoch it is, and how it does on the slides that chose and that judge it."""

    model: Path
    epoch: int
    validation: Metrics | None
    test: Metrics | None


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    run: Path
    folds: Sequence[Fold]
    facts: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """The model folder (of the first fold, where there are several)."""
        return self.folds[0].model

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        folds = [
            {
                "model": str(f.model),
                "epoch": f.epoch,
                **{k: v and v.plain() for k, v in (("validation", f.validation), ("test", f.test))},
            }
            for f in self.folds
        ]
        return {
            "run": str(self.run),
            "model": str(self.model),
            "folds": folds,
            "data": dict(self.facts),
            "skipped": dict(self.skipped),
        }


def train(
    features: Path | str,
    labels: Path | str | None,
    out: Path | str,
    *,
    model: ModelName = "acmil",
    recipe: Recipe | None = None,
    branches: int = 5,
    top_k: int = 10,
    mask_drop: float = 0.6,
    width: int | None = None,
    splits: Path | str | Sequence[Split] | None = None,
    folds: int = 1,
    n_shot: int = 0,
    label_col: str = "label",
    classes: Sequence[str] | None = None,
    merge: Mapping[str, str] | None = None,
    dataset: str | None = None,
    n_class: int | None = None,
    feature_width: int | None = None,
    ignore_missing: bool = False,
    device: str = "cpu",
    precision: str = "32-true",
    workers: int = 0,
    seed: int = 0,
    resamples: int = 1000,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains one model a fold and leaves a run folder.

    ``config.yaml`` · ``splits/`` (CLAM's files) · ``checkpoints/``, ``metrics.csv``, ``model/`` (of each fold in ``fold_{i}/`` where there
    are several) · ``fold_{i}.csv`` and ``summary.csv`` as CLAM writes them · ``metrics.json``.

    Args:
        features: folder of feature files, or an ACMIL file.
        labels: CSV; None takes the class numbers in an ACMIL file.
        model: acmil (gated), acmil-mha, abmil, mean.
        recipe: how; default `Recipe()`, the paper's.
        branches, top_k, mask_drop, width: of the model (`acmil.ACMILConfig`).
        splits: a file or folder (`read_splits`) or the splits themselves; default: those in the label table, else patient-grouped,
            stratified ones made here.
        folds: of cross-validation, where no splits are given.
        n_shot: training slides a class; 0 or less takes all.
        label_col, classes, merge, ignore_missing: as `open_cohort`.
        dataset, n_class: names of the published configurations; they choose label merges and check the classes.
        feature_width: width that the features must have.
        resamples: of the bootstrap intervals; 0 leaves them out.
        resume: go on with an interrupted run; the result equals an uninterrupted one.
        trainer: further arguments of Lightning's Trainer (devices, strategy, num_nodes …).

    Raises:
        UserError: anything wrong with the files, named.
    """
    out, recipe = Path(out), recipe or Recipe()
    arguments = {
        "features": str(features),
        "labels": None if labels is None else str(labels),
        "model": model,
        **asdict(recipe),
        "branches": branches,
        "top_k": top_k,
        "mask_drop": mask_drop,
        "width": width,
        "splits": str(splits) if isinstance(splits, str | Path) else splits and [asdict(s) for s in splits],
        "folds": folds,
        "n_shot": n_shot,
        "label_col": label_col,
        "classes": classes and list(classes),
        "merge": merge and dict(merge),
        "dataset": dataset,
        "n_class": n_class,
        "feature_width": feature_width,
        "ignore_missing": ignore_missing,
        "precision": precision,
        "seed": seed,
    }
    merge = merge or MERGES.get((str(dataset).lower(), n_class or 0))
    cohort = open_cohort(
        features,
        labels,
        label_col=label_col,
        classes=classes,
        merge=merge,
        ignore_missing=ignore_missing,
        progress=progress,
    )
    _check(cohort, n_class, feature_width)
    chosen = _splits(cohort, splits, dataset, folds, seed, ignore_missing)
    if n_shot > 0:
        chosen = [few_shot(s, cohort.labels, n_shot, seed) for s in chosen]
    config = {
        "n_features": cohort.facts["feature_width"],
        "n_class": len(cohort.labels.classes),
        "branches": branches,
        "top_k": top_k,
        "mask_drop": mask_drop,
        "width": width,
    }
    try:
        with torch.device("meta"):
            build_model(model, config)  # sizes that do not fit are found before anything is written
    except ValueError as error:
        raise UserError(str(error)) from None
    files = [*cohort.paths, *([Path(labels)] if labels is not None else [])]
    packages = ["torch", "lightning", "attention-suite-pathology-mil"]
    open_run(out, arguments, packages=packages, data=data_fingerprint(files), resume=resume, overwrite=overwrite)
    if overwrite:
        _clear(out)
    write_splits(out / "splits", chosen, cohort.labels)
    made: list[Fold] = []
    for i, split in enumerate(chosen):
        folder = out if len(chosen) == 1 else out / f"fold_{i}"
        if progress and len(chosen) > 1:
            note.print(
                f"Fold {i + 1} of {len(chosen)}: {len(split.train)} slides train, {len(split.test)} test", markup=False
            )
        torch.manual_seed(seed)
        network = build_model(model, config)
        data = BagData(cohort, split, batch=recipe.batch, workers=workers, seed=seed)
        rule = recipe.selection if split.val else "last"
        history, best = fit(
            MILTraining(network, recipe, seed),
            data,
            folder,
            epochs=recipe.epochs,
            score="epoch" if rule == "last" else f1_and_auc,
            device=device,
            precision=precision,
            show=progress,
            trainer=trainer,
        )
        losses = ("train_slide", "train_branch", "train_diversity", "val_loss")
        draw_history(history, folder / "figures" / "training.png", [losses, ("val_auc", "val_f1_macro", "val_acc")])
        made.append(_finish(out, i, folder, network, cohort, split, rule, best, arguments, device, resamples))
    write_summary(out / "summary.csv", [_clam_row(f) for f in made])
    trained = Trained(out, made, cohort.facts, cohort.skipped)
    write_text(out / "metrics.json", json_text(trained.plain()))
    return trained


def _check(cohort: Cohort, n_class: int | None, feature_width: int | None) -> None:
    found = len(cohort.labels.classes)
    if n_class and n_class != found:
        raise UserError(
            f"{n_class} classes are asked for, the labels have {found}: {', '.join(cohort.labels.classes)}",
            "--label-map merges labels, --label-col chooses another column",
        )
    if feature_width and feature_width != cohort.facts["feature_width"]:
        raise UserError(f"features {feature_width} wide are asked for, these are {cohort.facts['feature_width']} wide")


def _splits(
    cohort: Cohort,
    given: Path | str | Sequence[Split] | None,
    dataset: str | None,
    folds: int,
    seed: int,
    ignore_missing: bool,
) -> list[Split]:
    labels = cohort.labels
    if given is not None:
        return check_splits(
            read_splits(given) if isinstance(given, str | Path) else given,
            labels,
            ignore_missing=ignore_missing,
            left_out=cohort.skipped,
        )
    if labels.split:
        try:
            return check_splits([from_names(labels.split)], labels)
        except ValueError as error:
            raise UserError(f"the column 'split' of the labels: {error}") from None
    if str(dataset).lower().startswith("camelyon16") or str(dataset).lower() == "camelyon":
        return check_splits([_camelyon16(labels, seed)], labels)
    return make_splits(labels, folds=folds, seed=seed)


def _camelyon16(labels: Labels, seed: int) -> Split:
    """Slides named test_### test; of the others a tenth validates, stratified (the published setting)."""
    test = tuple(s for s in labels.label if "test" in s)
    rest = make_splits(labels.only(set(labels.label) - set(test)), folds=10, seed=seed)[0]
    return Split((*rest.train, *rest.val), rest.test, test)


def _clear(out: Path) -> None:
    """Removes what an earlier run left beside the names that `open_run` knows."""
    for old in [*out.glob("fold_*"), out / "splits"]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def _finish(
    out: Path,
    number: int,
    folder: Path,
    network: nn.Module,
    cohort: Cohort,
    split: Split,
    rule: str,
    best: Mapping[str, float],
    arguments: Mapping[str, Any],
    device: str,
    resamples: int,
) -> Fold:
    """The model folder and CLAM's table of one fold."""
    network.eval().to(device)
    judged = {
        name: judge(network, cohort, part, device)
        for name, part in (("validation", split.val), ("test", split.test))
        if part
    }
    slides, labels, probabilities = (
        judged.get("test") or judged.get("validation") or ([], torch.zeros(0, dtype=torch.long), torch.zeros(0, 1))
    )
    write_fold_table(out / f"fold_{number}.csv", slides, labels.tolist(), probabilities)
    names = cohort.labels.classes
    measured = {name: measure(p, y, names, resamples=resamples) for name, (_, y, p) in judged.items()}
    save_model(
        network.cpu(),
        folder / "model",
        preprocessing={"classes": list(names), "features": dict(cohort.preprocessing)},
        provenance={
            "trained_on": dict(cohort.facts),
            "selection": {"rule": rule, "epoch": int(best["epoch"])},
            "arguments": {k: v for k, v in arguments.items() if k not in ("features", "labels", "splits", "out")},
            "test": measured["test"].plain() if "test" in measured else None,
        },
    )
    return Fold(folder / "model", int(best["epoch"]), measured.get("validation"), measured.get("test"))


def _clam_row(fold: Fold) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, metrics in (("val", fold.validation), ("test", fold.test)):
        if metrics is not None:
            row |= {f"{name}_auc": metrics.auroc, f"{name}_acc": metrics.accuracy}
    return row
