"""The verbs about models: train, evaluate, predict, models; no logic. `add_to` puts them into the command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core_runtime.cli import (
    Device,
    DeviceName,
    Json,
    Model,
    ModelsAction,
    Out,
    Overwrite,
    Precision,
    PrecisionName,
    Resume,
    Seed,
    Verbose,
    Workers,
    config_option,
    end,
    resolve_device,
)
from pathology_mil.training.recipe import PRESETS, PUBLISHED_CONFIG


class ModelKind(StrEnum):
    acmil = "acmil"
    acmil_mha = "acmil-mha"
    abmil = "abmil"
    mean = "mean"


class PresetName(StrEnum):
    paper = "paper"
    no_masking = "no-masking"


class SelectionName(StrEnum):
    best = "val_f1+val_auc"
    last = "last"


def _preset(ctx: typer.Context, value: PresetName | None) -> PresetName | None:
    if value is not None:
        ctx.default_map = {**PRESETS[value.value], **(ctx.default_map or {})}
    return value


Features = Annotated[
    Path, typer.Argument(metavar="FEATURES", help="Folder of feature files (CLAM, TRIDENT, Slideflow) or an ACMIL .h5.")
]
Labels = Annotated[
    Path | None,
    typer.Argument(metavar="[LABELS]", help="CSV with slide_id,label[,case_id]; an ACMIL .h5 may carry its own."),
]
LabelColumn = Annotated[str, typer.Option("--label-col", help="Column of LABELS to learn.")]
LabelMap = Annotated[str | None, typer.Option("--label-map", help="Merge labels: '2=1,3=1'.")]
IgnoreMissing = Annotated[
    bool, typer.Option("--ignore-missing", help="Leave out labelled slides that have no features.")
]


def train(
    features: Features,
    labels: Labels = None,
    out: Out = Path("run"),
    model: Annotated[
        ModelKind, typer.Option("--model", help="acmil (gated), acmil-mha, abmil (one branch, no masking), mean.")
    ] = ModelKind.acmil,
    config: Annotated[Path | None, config_option(PUBLISHED_CONFIG)] = None,
    preset: Annotated[
        PresetName | None, typer.Option(callback=_preset, is_eager=True, help="Published settings; flags win.")
    ] = None,
    branches: Annotated[int, typer.Option(min=1, help="Branches M.")] = 5,
    top_k: Annotated[int, typer.Option(min=0, help="Instances that masking draws from, K; 0: none.")] = 10,
    mask_drop: Annotated[float, typer.Option(min=0, max=1, help="Share of those that is masked, p.")] = 0.6,
    width: Annotated[int | None, typer.Option(min=1, help="Inner width L (default by the features).")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    lr: Annotated[float, typer.Option(min=0, help="AdamW's rate at the start of the cosine.")] = 1e-4,
    min_lr: Annotated[float, typer.Option(min=0)] = 0.0,
    warmup_epochs: Annotated[float, typer.Option(min=0)] = 0.0,
    weight_decay: Annotated[float, typer.Option(min=0)] = 1e-5,
    batch: Annotated[int, typer.Option(min=1, help="Slides a step.")] = 1,
    slide_weight: Annotated[float, typer.Option(min=0, help="Weight of the slide loss.")] = 1.0,
    branch_weight: Annotated[float, typer.Option(min=0, help="Weight of the branch losses.")] = 1.0,
    diversity_weight: Annotated[float, typer.Option(min=0, help="Weight of the branch diversity.")] = 1.0,
    aem_weight: Annotated[float, typer.Option(min=0, help="Weight of attention entropy (AEM; about 0.1).")] = 0.0,
    selection: Annotated[SelectionName, typer.Option(help="Which epoch is kept.")] = SelectionName.best,
    splits: Annotated[Path | None, typer.Option(help="Split file or folder: CLAM, ACMIL, or slide_id,fold.")] = None,
    folds: Annotated[int, typer.Option(min=1, help="Folds of cross-validation, where no splits are given.")] = 1,
    n_shot: Annotated[int, typer.Option(help="Training slides a class; 0 or less: all.")] = 0,
    label_col: LabelColumn = "label",
    label_map: LabelMap = None,
    dataset: Annotated[str | None, typer.Option(help="camelyon, bracs, lct: published splits or label merges.")] = None,
    n_class: Annotated[int | None, typer.Option(min=2, help="How many classes the labels must have.")] = None,
    feature_width: Annotated[int | None, typer.Option(min=1, help="Width that the features must have.")] = None,
    pretrain: Annotated[str | None, typer.Option(help="Of a folder, patch_feats_pretrain_NAME.h5.")] = None,
    ignore_missing: IgnoreMissing = False,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Workers = 0,
    seed: Seed = 1,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trains a slide classifier on features and labels; takes the published YAML files of ACMIL as --config.

    Example: pathology-mil train job/20x_256px_0px_overlap/features_uni_v1 labels.csv --out run
    """
    from pathology_mil.learning import recipe_of, trained
    from pathology_mil.commands.train import train as fit

    where = resolve_device(device)
    made = fit(
        _pretrained(features, pretrain),
        labels,
        out,
        model=model.value,
        recipe=recipe_of(
            epochs=epochs,
            lr=lr,
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
            batch=batch,
            slide=slide_weight,
            branch=branch_weight,
            diversity=diversity_weight,
            aem=aem_weight,
            selection=selection.value,
        ),
        branches=branches,
        top_k=top_k,
        mask_drop=mask_drop,
        width=width,
        splits=splits,
        folds=folds,
        n_shot=n_shot,
        label_col=label_col,
        merge=_pairs(label_map),
        dataset=dataset,
        n_class=n_class,
        feature_width=feature_width,
        ignore_missing=ignore_missing,
        device=where,
        precision=str(precision),
        workers=workers,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        progress=not json,
    )
    end(trained(made), json)


def sweep(
    features: Features,
    labels: Labels = None,
    out: Out = Path("sweep"),
    model: Annotated[ModelKind, typer.Option("--model", help="acmil or acmil-mha.")] = ModelKind.acmil,
    mask_drops: Annotated[str, typer.Option(help="Shares of masking to try.")] = "0,0.3,0.6",
    seeds: Annotated[str, typer.Option(help="Seeds of every share.")] = "1,2,3,4,5",
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    splits: Annotated[Path | None, typer.Option(help="Split file or folder, as in 'train'.")] = None,
    folds: Annotated[int, typer.Option(min=1, help="Folds of cross-validation, where no splits are given.")] = 1,
    label_col: LabelColumn = "label",
    device: Device = DeviceName.auto,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trains over shares of masking and seeds: whether masking helps with your encoder. A rerun goes on.

    Example: pathology-mil sweep features labels.csv --mask-drops 0,0.6 --seeds 1,2,3 --out sweep
    """
    from pathology_mil.learning import numbers, recipe_of, swept
    from pathology_mil.commands.sweep import sweep as run_all

    rows = run_all(
        features,
        labels,
        out,
        mask_drops=numbers(mask_drops),
        seeds=[int(s) for s in numbers(seeds)],
        model=model.value,
        recipe=recipe_of(epochs=epochs),
        splits=splits,
        folds=folds,
        label_col=label_col,
        device=resolve_device(device),
        progress=not json,
    )
    end(swept(rows, out), json)


def evaluate(
    features: Features,
    labels: Labels = None,
    model: Model = None,
    out: Out = Path("evaluation"),
    splits: Annotated[Path | None, typer.Option(help="Only the test slides of this split file.")] = None,
    label_col: LabelColumn = "label",
    label_map: LabelMap = None,
    ignore_missing: IgnoreMissing = False,
    device: Device = DeviceName.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judges a model on labelled slides: AUROC, accuracy, F1, sensitivity and specificity, with bootstrap intervals.

    Example: pathology-mil evaluate features labels.csv --model run/model --splits run/splits/splits_0.csv
    """
    from pathology_mil.commands.evaluate import evaluate as judge
    from pathology_mil.learning import chosen, evaluated, test_part

    made = judge(
        chosen(model),
        features,
        labels,
        out,
        part=test_part(splits),
        label_col=label_col,
        merge=_pairs(label_map),
        ignore_missing=ignore_missing,
        device=resolve_device(device),
        overwrite=overwrite,
        progress=not json,
    )
    end(evaluated(made), json)


def predict(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Features or slides: a file or a folder of them.")],
    model: Model = None,
    out: Out = Path("predictions"),
    encoder: Annotated[
        str | None, typer.Option(help="For slides: as in 'encode', if the model's needs weights.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="For slides: the encoder's file of weights.")] = None,
    slide_mpp: Annotated[
        float | None, typer.Option("--slide-mpp", help="For slides whose file says no resolution.")
    ] = None,
    slide_mag: Annotated[float | None, typer.Option("--slide-mag", help="Or the scan's objective (20, 40).")] = None,
    device: Device = DeviceName.auto,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Predicts slide labels with probabilities, and the attention of every tile.

    Example: pathology-mil predict features/slide.h5 --model run/model
    """
    from pathology_mil.learning import chosen, predict_path
    from pathology_mil.slides.resolution import own_mpp

    mpp = own_mpp(slide_mpp, slide_mag)
    preparation = {"encoder": encoder, "weights": weights, "mpp": mpp, "workers": workers}
    made = predict_path(path, chosen(model), out, device=resolve_device(device), overwrite=overwrite, **preparation)
    end(made, json)


def models(
    action: Annotated[ModelsAction, typer.Argument(help="What to do.")] = ModelsAction.list,
    what: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A name (get), a checkpoint (convert), a folder (check).")
    ] = None,
    out: Out = Path("models"),
    classes: Annotated[str | None, typer.Option(help="Class names of a checkpoint, in order: 'normal,tumour'.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lists published weights with licence, size and needs; gets them; converts official checkpoints; checks folders.

    Example: pathology-mil models convert checkpoint-best.pth --out acmil-model
    """
    from pathology_mil.learning import about_models

    end(about_models(action.value, what, out, [c.strip() for c in classes.split(",")] if classes else None), json)


def add_to(app: typer.Typer) -> None:
    """Adds the verbs of this file to the command."""
    for verb in (train, sweep, evaluate, predict, models):
        app.command()(verb)


def _pairs(text: str | None) -> dict[str, str] | None:
    """``'2=1,3=1'`` as a mapping."""
    if not text:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter(f"{text!r} is not of the form '2=1,3=1'", param_hint="--label-map")
    return {old.strip(): new.strip() for old, _, new in pairs}


def _pretrained(features: Path, pretrain: str | None) -> Path:
    """In a folder of ACMIL files, the one of the encoder wanted."""
    file = features / f"patch_feats_pretrain_{pretrain}.h5"
    return file if pretrain and file.is_file() else features
