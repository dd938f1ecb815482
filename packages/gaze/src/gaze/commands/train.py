"""``gaze train``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, use_threads
from gaze.cohort.study import ObjectOptions
from gaze.scanpaths.reading_options import ReadOptions
from gaze.training.recipe import Recipe, Sizes


@dataclass(frozen=True)
class Trained(Outcome):
    """A run that ended.

    Attributes:
        model: its model folder.
        values: counts, split, kept epoch and its validation measures.
    """

    model: Path
    values: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, **self.values}

    def lines(self) -> Iterable[str]:
        values = self.values
        yield values["account"]
        for note in values["notes"]:
            yield f"Note: {note}"
        counts = ", ".join(f"{count} {part}" for part, count in values["parts"].items())
        yield f"Split by {values['split']}: {counts}"
        delta = ""
        if "val_delta" in values:
            delta = f", delta {values['val_delta']:.3f}"
        yield f"Epoch {values['epoch']} of {values['epochs']} kept (validation loss {values['val_loss']:.3f}{delta})"
        yield f"Model folder: {self.model}"
        yield f"Next: gaze evaluate '{values['source']}'{values['objects']} --model '{self.model}'"


def train(
    scanpaths: Path,
    /,
    *,
    objects: ObjectOptions = ObjectOptions(),
    reading: ReadOptions = ReadOptions(),
    recipe: Recipe = Recipe(),
    sizes: Sizes = Sizes(),
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains OAT on people's paths with the published recipe. An interrupted run goes on with --resume.

    Example: gaze train fixations.json --areas areas.json --images pictures --out run

    Args:
        scanpaths: a file of scanpaths, or a folder of them.
    """
    import torch

    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import draw_history, fit
    from gaze.cohort.study import load_study
    from gaze.model.durations import fit_durations
    from gaze.model.folder import Prepared, save_model
    from gaze.model.oat import OAT
    from gaze.predictors.network import patch_scene, patch_trial
    from gaze.training.data import ScanpathData
    from gaze.training.module import ScanpathTraining

    use_threads(run.threads)
    config = network_config(sizes)
    looks = objects.images is not None or objects.crops is not None
    study = load_study(scanpaths, objects, reading, crop=config.crop if looks else None)
    split = split_study(study, recipe, seed=run.seed)
    longest = max(len(trial.objects) for trial in split.train)
    learned, validating, scenes = list(split.train), list(split.valid), dict(study.scenes)
    if sizes.patches is not None:
        patches = {name: patch_scene(scene, *sizes.patches, config.crop) for name, scene in scenes.items()}
        learned = [patch_trial(trial, scenes[trial.scene], patches[trial.scene]) for trial in learned]
        validating = [patch_trial(trial, scenes[trial.scene], patches[trial.scene]) for trial in validating]
        scenes = patches
    config = fitted(config, scenes)
    sources = [path.resolve() for path in (scanpaths, objects.areas, objects.images, objects.crops) if path is not None]
    recorded = open_run(
        run,
        flat(scanpaths=scanpaths, objects=objects, reading=reading, recipe=recipe, sizes=sizes),
        packages=["torch", "lightning", "attention-suite-gaze"],
        data=data_fingerprint(sources),
    )
    torch.manual_seed(run.seed)
    model = OAT(config, seed=run.seed)
    model.optimise_table()
    by_delta = recipe.score == "delta"
    left = fit(
        ScanpathTraining(model, recipe.lr, run.seed, longest=longest, behaviour=by_delta),
        ScanpathData(learned, validating, scenes, batch=recipe.batch, workers=run.workers, seed=run.seed),
        run,
        epochs=recipe.epochs,
        score=(lambda row: -row["val_delta"]) if by_delta else (lambda row: -row["val_loss"]),
        patience=recipe.patience,
        trainer={"gradient_clip_val": 1.0},
    )
    parts = {part: len(trials) for part, trials in split.parts().items()}
    values = {
        "source": str(scanpaths),
        "objects": spelled(objects),
        "account": study.account(),
        "left_out": dict(study.left_out),
        "notes": list(study.notes),
        "split": split.by,
        "parts": parts,
        "epoch": int(left.best["epoch"]),
        "epochs": len(left.history),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "longest": longest,
        **{name: left.best[name] for name in ("val_loss", "val_delta") if name in left.best},
    }
    provenance = {
        "trials": {part: [trial.source for trial in trials] for part, trials in split.parts().items()},
        "split": {
            "by": split.by,
            "seed": run.seed,
            **{name: getattr(recipe, name) for name in ("share", "folds", "fold")},
        },
        "epoch": values["epoch"],
        "data": data_fingerprint(sources),
        "arguments": recorded,
    }
    durations = fit_durations(split.train)
    prepared = Prepared(looks, longest, sizes.patches or (0, 0), durations)
    folder = save_model(model.cpu(), run.out / "model", prepared=prepared, provenance=provenance)
    panels = [["train_loss", "val_loss"]]
    if by_delta:
        panels.append(["val_delta"])
    draw_history(left.history, run.out / "figures" / "training.png", panels)
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, values)


def spelled(objects: ObjectOptions) -> str:
    """The options that say where the objects are, as they are typed."""
    words = ""
    for name in ("areas", "images", "crops"):
        path = getattr(objects, name)
        if path is not None:
            words += f" --{name} '{path}'"
    if objects.grid is not None:
        words += f" --grid {objects.grid[0]},{objects.grid[1]}"
    return words


def split_study(study: Any, recipe: Recipe, *, seed: int) -> Any:
    """What trains, validates and tests.

    Raises:
        UserError: it cannot be split so.
    """
    from gaze.cohort.splits import folds, split_trials

    if not recipe.folds:
        return split_trials(study, recipe.split, shares=(recipe.share, recipe.share), seed=seed)
    if recipe.fold > recipe.folds:
        raise UserError(f"there is no --fold {recipe.fold} of {recipe.folds}", "folds are counted from 1")
    if recipe.split == "published":
        raise UserError("--folds and --split published exclude each other", "choose image, target, subject or trial")
    return folds(study, recipe.split, recipe.folds, seed=seed)[recipe.fold - 1]


def network_config(sizes: Sizes) -> Any:
    """The network's configuration.

    Raises:
        UserError: sizes that do not fit together.
    """
    from gaze.model.oat import OATConfig

    try:
        return OATConfig(
            width=sizes.width,
            heads=sizes.heads,
            feedforward=sizes.feedforward,
            encoder_layers=sizes.layers,
            decoder_layers=sizes.layers,
            pointer_heads=sizes.pointer_heads,
            pointer_width=sizes.width,
            pyramid=sizes.pyramid,
            crop=sizes.crop,
            dropout=sizes.dropout,
            table_width=-(-sizes.width // 6),  # three vectors fill half of a token: 86 for the published 512
            sigma=sizes.sigma,
            target_position=sizes.target_position,
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def fitted(config: Any, scenes: Mapping[str, Any]) -> Any:
    """The configuration with a position table that holds every place of the scenes."""
    from dataclasses import replace

    count = max(map(len, scenes.values()))
    farthest = 0.0
    for scene in scenes.values():
        farthest = max(farthest, scene.places.max(), scene.layout.specials(count).max())
    return replace(config, table_rows=max(config.table_rows, int(farthest) + 2))
