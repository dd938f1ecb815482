"""``pathology-mil train``: from features and a table of labels to a run folder with a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.bulk import Attempt, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from pathology_mil.cohort.options import MERGES, LabelOptions, SplitOptions
from pathology_mil.commands.evaluate import Resamples, data_line
from pathology_mil.training.recipe import MaskingOptions, NetworkOptions, Recipe

if TYPE_CHECKING:
    from torch import nn

    from pathology_mil.cohort.cohort import Cohort
    from pathology_mil.cohort.splits import Split
    from pathology_mil.metrics import Metrics

_PACKAGES = ("torch", "lightning", "attention-suite-pathology-mil")


@dataclass(frozen=True)
class Fold:
    """One trained model.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        validation, test: its measures on the slides that selected the epoch, and on those that test it.
    """

    model: Path
    epoch: int
    validation: "Metrics | None"
    test: "Metrics | None"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        parts = {"validation": self.validation, "test": self.test}
        plain: dict[str, Any] = {"model": str(self.model), "epoch": self.epoch}
        for name, metrics in parts.items():
            plain[name] = None
            if metrics is not None:
                plain[name] = metrics.plain()
        return plain


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        run: the run folder.
        folds: one model per fold.
        data: what a reader of the results must know: encoder, magnification, numbers of slides and tiles.
        skipped: slide → why it is left out.
        notes: how the table of labels was read.
    """

    run: Path
    folds: Sequence[Fold]
    data: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return summary(Attempt(slide, reason) for slide, reason in self.skipped.items())

    @property
    def model(self) -> Path:
        """The model folder (of the first fold, if there are several)."""
        return self.folds[0].model

    def facts(self) -> dict[str, Any]:
        folds = [fold.plain() for fold in self.folds]
        return {
            "run": self.run,
            "model": self.model,
            "folds": folds,
            "data": self.data,
            "skipped": self.skipped,
            "notes": self.notes,
        }

    def lines(self) -> Iterable[str]:
        yield data_line(self.data)
        for number, fold in enumerate(self.folds):
            name = "Epoch"
            if len(self.folds) > 1:
                name = f"Fold {number}, epoch"
            yield f"{name} {fold.epoch} selected"
            metrics = fold.test or fold.validation
            if metrics is not None:
                part = "Test" if fold.test else "Validation"
                yield f"{part} slides: {metrics.slides}"
                yield from metrics.lines()
        yield f"Model folder: {self.model}"
        yield f"Next: pathology-mil predict FEATURES --model {self.model}"


def train(
    features: Path,
    labels: Path | None = None,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),
    masking: MaskingOptions = MaskingOptions(),
    recipe: Recipe = Recipe(),
    reading: LabelOptions = LabelOptions(),
    splitting: SplitOptions = SplitOptions(),
    resamples: Resamples = 1000,
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a slide classifier on features and labels; takes the published YAML files of ACMIL as --config.

    An interrupted run continues with --resume; its result equals an uninterrupted one. The run folder holds config.yaml, splits/
    (CLAM's files), checkpoints/, metrics.csv and model/ (with several folds, one of each in fold_{i}/), fold_{i}.csv and
    summary.csv as CLAM writes them, and metrics.json.

    Example: pathology-mil train job/20x_256px_0px_overlap/features_uni_v1 labels.csv --out run

    Args:
        features: folder of feature files (CLAM, TRIDENT, Slideflow) or an ACMIL .h5.
        labels: CSV with slide_id,label[,case_id]; an ACMIL .h5 may carry its own.
    """
    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.terminal import note
    from pathology_mil.cohort.cohort import open_cohort
    from pathology_mil.cohort.splits import write_splits
    from pathology_mil.reports.tables import json_text, write_summary

    use_threads(run.threads)
    source = _of_encoder(features, splitting.pretrain)
    merge = MERGES.get((str(splitting.dataset).lower(), splitting.n_class or 0))
    cohort = open_cohort(source, labels, reading, merge=merge)
    _check(cohort, splitting)
    splits = _splits(cohort, splitting, run.seed, ignore_missing=reading.ignore_missing)
    config = _model_config(cohort, network, masking)
    # resolved, so that `train --config RUN/config.yaml` works from any folder
    arguments = flat(
        features=features,
        labels=labels,
        network=network,
        masking=masking,
        recipe=recipe,
        reading=reading,
        splitting=splitting,
        resamples=resamples,
    )
    files = list(cohort.paths)
    if labels is not None:
        files.append(labels)
    if splitting.splits is not None:
        files.append(splitting.splits)
    data = data_fingerprint(files)
    recorded = open_run(run, arguments, packages=_PACKAGES, data=data)
    if run.overwrite:
        _remove_folds(run.out)
    for text in cohort.labels.notes:
        note.print(text, markup=False, soft_wrap=True)
    write_splits(run.out / "splits", splits, cohort.labels)
    folds = []
    for number, split in enumerate(splits):
        if len(splits) > 1:
            sizes = f"{len(split.train)} slides train, {len(split.test)} test"
            note.print(f"Fold {number + 1} of {len(splits)}: {sizes}", markup=False)
        job = _FoldJob(cohort, split, number, network, config, recipe, run, resamples, recorded)
        folder = run.out
        if len(splits) > 1:
            folder = run.out / f"fold_{number}"
        folds.append(_train_fold(job, folder))
    write_summary(run.out / "summary.csv", [_clam_row(fold) for fold in folds])
    trained = Trained(run.out, folds, cohort.facts, cohort.skipped, cohort.labels.notes)
    write_text(run.out / "metrics.json", json_text(trained.facts()))
    return trained


def _of_encoder(features: Path, pretrain: str | None) -> Path:
    """In a folder of ACMIL files, the file of the requested encoder."""
    file = features / f"patch_feats_pretrain_{pretrain}.h5"
    if pretrain and file.is_file():
        return file
    return features


def _check(cohort: "Cohort", splitting: SplitOptions) -> None:
    """Refuses data with other classes or features than the user expects."""
    classes, width = cohort.labels.classes, cohort.facts["feature_width"]
    if splitting.n_class and splitting.n_class != len(classes):
        raise UserError(
            f"--n-class is {splitting.n_class}, but the labels have {len(classes)} classes: {', '.join(classes)}",
            "--label-map merges labels, --label-col chooses another column",
        )
    if splitting.feature_width and splitting.feature_width != width:
        raise UserError(f"--feature-width is {splitting.feature_width}, but these features are {width} wide")


def _splits(cohort: "Cohort", splitting: SplitOptions, seed: int, *, ignore_missing: bool) -> "list[Split]":
    """The requested splits: from a file, from the label table, of a published setting, or made here."""
    from pathology_mil.cohort.splits import camelyon16, check_splits, few_shot, from_names, make_splits, read_splits

    # In this order: what the user states outweighs what the data state.
    labels = cohort.labels
    dataset = str(splitting.dataset).lower()
    if splitting.splits is not None:
        given = read_splits(splitting.splits)
        splits = check_splits(given, labels, ignore_missing=ignore_missing, left_out=cohort.skipped)
    elif labels.split:
        try:
            splits = check_splits([from_names(labels.split)], labels)
        except ValueError as error:
            raise UserError(f"the column 'split' of the labels: {error}") from None
    elif dataset == "camelyon" or dataset.startswith("camelyon16"):
        splits = check_splits([camelyon16(labels, seed)], labels)
    else:
        splits = make_splits(labels, folds=splitting.folds, seed=seed)
    if splitting.n_shot > 0:
        splits = [few_shot(split, labels, splitting.n_shot, seed) for split in splits]
    return splits


def _model_config(cohort: "Cohort", network: NetworkOptions, masking: MaskingOptions) -> dict[str, Any]:
    """The sizes of the model; sizes that do not fit are refused before anything is written."""
    import torch

    from pathology_mil.training.module import build_model

    top_k, mask_drop = masking.rates
    config = {
        "n_features": cohort.facts["feature_width"],
        "n_class": len(cohort.labels.classes),
        "branches": network.branches,
        "top_k": top_k,
        "mask_drop": mask_drop,
        "width": network.width,
    }
    try:
        with torch.device("meta"):  # shapes without memory
            build_model(network.model, config)
    except ValueError as error:
        raise UserError(str(error)) from None
    return config


def _remove_folds(out: Path) -> None:
    """Removes outputs of an earlier run that `open_run` does not know of."""
    import shutil

    for old in [*out.glob("fold_*"), out / "splits"]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


@dataclass(frozen=True)
class _FoldJob:
    """Everything that one fold is trained from."""

    cohort: "Cohort"
    split: "Split"
    number: int
    network: NetworkOptions
    config: Mapping[str, Any]
    recipe: Recipe
    run: RunOptions
    resamples: int
    recorded: Mapping[str, Any]

    @property
    def rule(self) -> str:
        """The rule that selects the epoch: without validation slides it is the last."""
        if not self.split.val:
            return "last"
        return self.recipe.selection


def _train_fold(job: _FoldJob, folder: Path) -> Fold:
    import torch

    from core_runtime.training import draw_history, fit
    from pathology_mil.training.data import BagData
    from pathology_mil.training.module import MILTraining, build_model, f1_and_auc

    run = job.run
    device = resolve_device(run.device)
    # The same initial weights for every fold and after a resume.
    torch.manual_seed(run.seed)
    network = build_model(job.network.model, job.config)
    left = fit(
        MILTraining(network, job.recipe, run.seed),
        BagData(job.cohort, job.split, batch=job.recipe.batch, workers=run.workers, seed=run.seed),
        replace(run, out=folder),
        epochs=job.recipe.epochs,
        score="epoch" if job.rule == "last" else f1_and_auc,
    )
    losses = ("train_slide", "train_branch", "train_diversity", "val_loss")
    draw_history(left.history, folder / "figures" / "training.png", [losses, ("val_auc", "val_f1_macro", "val_acc")])
    return _judge_fold(job, folder, network.eval().to(device), int(left.best["epoch"]), device)


def _judge_fold(job: _FoldJob, folder: Path, network: "nn.Module", epoch: int, device: str) -> Fold:
    """Evaluates the selected epoch; writes CLAM's table of the fold and the model folder."""
    import torch

    from pathology_mil.commands.evaluate import judge
    from pathology_mil.metrics import measure
    from pathology_mil.model.folder import save
    from pathology_mil.reports.tables import write_fold_table

    cohort, split, classes = job.cohort, job.split, job.cohort.labels.classes
    slides: Sequence[str] = ()
    truth, probabilities = torch.zeros(0, dtype=torch.long), torch.zeros(0, 1)
    metrics: dict[str, Metrics] = {}
    # The table of the fold shows the test slides, or the validation slides where there is no test.
    for name, part in (("validation", split.val), ("test", split.test)):
        if part:
            slides = part
            truth, probabilities = judge(network, cohort, part, device)
            patients = cohort.labels.patients_of(part)
            metrics[name] = measure(probabilities, truth, classes, patients=patients, resamples=job.resamples)
    write_fold_table(job.run.out / f"fold_{job.number}.csv", slides, truth.tolist(), probabilities)
    # Digests and patients go with the model, so that `evaluate` can tell that it has seen a slide.
    digests, patients_of_part = {}, {}
    for name, part in {"train": split.train, "val": split.val, "test": split.test}.items():
        digests[name] = {slide: cohort.digests[slide] for slide in part}
        patients_of_part[name] = cohort.labels.known_patients(part)
    test_metrics = None
    if "test" in metrics:
        test_metrics = metrics["test"].plain()
    provenance = {
        "trained_on": dict(cohort.facts),
        "slides": digests,
        "patients": patients_of_part,
        "selection": {"rule": job.rule, "epoch": epoch},
        "arguments": job.recorded,
        "test": test_metrics,
    }
    model = save(network.cpu(), folder / "model", classes=classes, features=cohort.preprocessing, provenance=provenance)
    return Fold(model, epoch, metrics.get("validation"), metrics.get("test"))


def _clam_row(fold: Fold) -> dict[str, float]:
    """A row of CLAM's summary.csv."""
    row: dict[str, float] = {}
    for name, metrics in (("val", fold.validation), ("test", fold.test)):
        if metrics is not None:
            row |= {f"{name}_auc": metrics.auroc, f"{name}_acc": metrics.accuracy}
    return row
