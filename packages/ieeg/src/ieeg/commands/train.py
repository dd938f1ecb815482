"""The job `train`: from recordings to a run folder with a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core_attention.systems import load_strictly
from core_runtime.errors import UserError
from core_runtime.folders import data_fingerprint, open_run, write_text
from core_runtime.training import draw_history
from ieeg.cohort import Case, Cohort, open_cohort, sources, split
from ieeg.training.data import Source
from ieeg.recordings.copies import refuse_leaks
from ieeg.model.lora import merged, with_lora
from ieeg.model.folder import LoadedModel, load, save
from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig
from ieeg.model.inference import probabilities
from ieeg.recordings.prepared import Settings
from ieeg.training.recipe import Recipe
from ieeg.metrics.scores import score_events, score_samples, to_events
from ieeg.training.module import fit


@dataclass(frozen=True)
class Trained:
    """What `train` made.

    Attributes:
        run, model: folders.
        best: the history's row of the epoch that was kept.
        threshold: probability from which a segment counts as seizure; chosen on the patients held out, where there are any.
        learned, held_out: patients.
        left_out: recordings that were not used, and why.
        detects: whether it has a seizure head.
    """

    run: Path
    model: Path
    best: Mapping[str, float]
    threshold: float
    learned: Sequence[str]
    held_out: Sequence[str]
    left_out: Mapping[str, str]
    detects: bool

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "run": str(self.run), "model": str(self.model)}


def train(
    paths: Sequence[Path],
    out: Path,
    *,
    model: str = "tiny",
    recipe: Recipe | None = None,
    window: int | None = None,
    rate: float | None = None,
    preparing: Mapping[str, Any] | None = None,
    validation: str | float = 0.2,
    drop_copies: bool = False,
    store_limit: float = 20e9,
    relative_index: str | None = None,
    device: str = "cpu",
    precision: str = "32-true",
    workers: int = 0,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains a model and leaves a run folder: ``config.yaml``, ``checkpoints/``, ``metrics.csv``, ``model/``, ``figures/``, ``metrics.json``.

    Args:
        paths: recordings, or folders of them.
        model: a size (tiny, s, m) for a fresh model, or a model folder to go on from.
        recipe: how; default `Recipe()`.
        window: segments T; default: the model's, 25 for a fresh S or M, 12 for a fresh tiny one.
        rate: Hz, of a fresh model; default 512, 128 for tiny.
        preparing: further fields of `Settings`, by name; default: the model's.
        validation: patients held out, by name or share.
        drop_copies: of recordings that are the same, keep the first instead of refusing.
        store_limit: bytes that prepared recordings may take on disk while training.
        relative_index: of a fresh model; "distance" makes results independent of the window's length.
        resume: go on with an interrupted run; the result equals an uninterrupted one.
        trainer: further arguments of Lightning's Trainer.

    Raises:
        UserError: anything wrong with the files, named.
    """
    recipe = recipe or Recipe()
    arguments = {
        "paths": [str(p) for p in paths],
        "model": model,
        **asdict(recipe),
        "window": window,
        "rate": rate,
        "preparing": dict(preparing or {}),
        "validation": validation,
        "drop_copies": drop_copies,
        "relative_index": relative_index,
        "precision": precision,
        "seed": seed,
    }
    torch.manual_seed(seed)  # a fresh model is drawn here
    start = _start(model, recipe, window, rate, preparing, relative_index)
    cohort = open_cohort(paths, drop_copies=drop_copies, need_seizures=recipe.task == "detect", progress=progress)
    learned, held_out = split(cohort, validation, seed=seed)
    refuse_leaks([c.signature for c in learned], [c.signature for c in held_out])
    files = [p for c in cohort.cases for p in ([c.path] if c.path.is_file() else sorted(c.path.rglob("*.tdat")))]
    packages = ["torch", "lightning", "attention-suite-ieeg"]
    open_run(out, arguments, packages=packages, data=data_fingerprint(files), resume=resume, overwrite=overwrite)
    if overwrite:
        _remove(out / "prepared")
    settings = settings_of(start)
    left_out = dict(cohort.left_out)
    parts: list[list[Source]] = []
    for cases in (learned, held_out):
        found, unusable = sources(cases, settings, out / "prepared", limit=store_limit / 2, progress=progress)
        left_out |= unusable
        parts.append([s for s in found if s.signals.segment_count >= start.window])
        left_out |= {s.name: f"shorter than {start.window} segments" for s in found if s not in parts[-1]}
    torch.manual_seed(seed)  # and here its head and LoRA, whatever was drawn in between
    network = _network(start, recipe)
    history, best = fit(
        network,
        parts[0],
        parts[1],
        out,
        recipe,
        window=start.window,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        show=progress,
        trainer=trainer,
    )
    threshold = start.threshold
    if recipe.task == "detect" and parts[1]:
        threshold = best_threshold(network.to(device), parts[1], window=start.window)
    provenance = {
        "trained_on": _summary(cohort, learned, held_out),
        "started_from": model,
        "arguments": {k: v for k, v in arguments.items() if k != "paths"},
        "best": dict(best),
        "recordings": [c.signature.plain() | {"held_out": c in held_out} for c in [*learned, *held_out]],
    }
    folder = save(
        network.cpu(),
        out / "model",
        rate=start.rate,
        window=start.window,
        threshold=threshold,
        preparing=start.preparing,
        provenance=provenance,
    )
    measures = ("val_kappa", "val_f1", "val_auroc", "val_accuracy")
    draw_history(history, out / "figures" / "training.png", [("train_loss", "val_loss"), measures])
    _remove(out / "prepared")
    named = [sorted({c.patient for c in cases}) for cases in (learned, held_out)]
    made = Trained(out, folder, best, threshold, named[0], named[1], left_out, recipe.task == "detect")
    write_text(out / "metrics.json", json.dumps(made.plain(), indent=1, default=str))
    return made


def settings_of(model: LoadedModel) -> Settings:
    """How recordings are prepared for a model.

    Raises:
        UserError: the model folder names settings that do not exist.
    """
    try:
        return Settings(**{**(model.preparing or {}), "rate": model.rate, "segment": model.segment_seconds})
    except TypeError as error:
        raise UserError(f"the model's settings of preparing do not fit: {error}") from None


def _start(
    model: str,
    recipe: Recipe,
    window: int | None,
    rate: float | None,
    preparing: Mapping[str, Any] | None,
    relative_index: str | None,
) -> LoadedModel:
    """What training begins from: a fresh model of a size, or a model folder."""
    unknown = sorted(set(preparing or {}) - {f.name for f in fields(Settings)})
    if unknown:
        raise UserError(f"no setting of preparing is called {', '.join(unknown)}")
    if model not in SIZES:
        if "/" not in model and not Path(model).is_dir():
            raise UserError(f"{model!r} is neither a size ({', '.join(SIZES)}) nor a model folder")
        if rate or relative_index:
            raise UserError("--rate and --relative-index are for fresh models; this one has its own")
        found = load(model)
        return LoadedModel(
            found.network,
            found.rate,
            window or found.window,
            found.threshold,
            {**(found.preparing or {}), **(preparing or {})},
        )
    tiny = model == "tiny"
    changes: dict[str, Any] = {"relative_index": relative_index} if relative_index else {}
    network = MVPFormer(MVPFormerConfig(**{**SIZES[model], **changes}))
    return LoadedModel(network, rate or (128.0 if tiny else 512.0), window or (12 if tiny else 25), 0.5, preparing)


def _network(start: LoadedModel, recipe: Recipe) -> MVPFormer:
    """The model to train: head, LoRA and dropout as the recipe has them."""
    base = start.network
    classes = 2 if recipe.task == "detect" else 0
    if recipe.task == "pretrain" and base.config.classes:
        raise UserError("a model with a seizure head is not pre-trained", "begin from a generative model or a size")
    if base.config.lora_rank:
        base = merged(base)
    rank = recipe.lora_rank if recipe.task == "detect" and recipe.tune == "lora" else 0
    made = with_lora(base, rank=rank, alpha=recipe.lora_alpha, classes=classes)
    rates = dict.fromkeys(("embedding_dropout", "residual_dropout", "attention_dropout"), recipe.dropout)
    config = MVPFormerConfig(**{**_values(made.config), **rates, "structured_dropout": recipe.structured_dropout})
    network = MVPFormer(config)
    load_strictly(network, made.state_dict())
    return network


def _values(config: MVPFormerConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def best_threshold(network: MVPFormer, judged: Sequence[Source], *, window: int) -> float:
    """The threshold at which events and samples of these recordings are found best: the greatest sum of their F1, the middle of a plateau."""
    network.eval()
    traces = [
        np.array([s.probability for s in probabilities(network, r.signals, window=window, channels=False)])
        for r in judged
    ]
    grid = np.linspace(0.05, 0.95, 37)
    scores = np.zeros(len(grid))
    for i, threshold in enumerate(grid):
        events = samples = None
        for trace, source in zip(traces, judged, strict=True):
            seconds = len(trace) * source.seconds
            found = to_events(trace >= threshold, 1 / source.seconds)
            of_events = score_events(source.seizures, found, seconds).score
            of_samples = score_samples(source.seizures, found, seconds)
            events = of_events if events is None else events + of_events
            samples = of_samples if samples is None else samples + of_samples
        assert events is not None
        assert samples is not None
        scores[i] = np.nan_to_num(events.f1) + np.nan_to_num(samples.f1)
    plateau = np.flatnonzero(scores >= scores.max() - 1e-9)
    return round(float(grid[plateau[len(plateau) // 2]]), 3)


def _summary(cohort: Cohort, learned: Sequence[Case], held_out: Sequence[Case]) -> str:
    hours = sum(c.signature.samples / c.signature.rate for c in learned if c.signature.rate) / 3600
    patients = len({c.patient for c in learned})
    seizures = sum(len(c.seizures) for c in learned)
    return (
        f"{len(learned)} recordings of {patients} patients, {hours:.1f} h, {seizures} seizures; "
        f"{len({c.patient for c in held_out})} patients held out"
    )


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
