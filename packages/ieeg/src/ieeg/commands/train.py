"""``ieeg train``."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.bulk import Attempt, summary
from core_runtime.cli import Outcome
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from ieeg.model.published import RESEARCH_ONLY
from ieeg.recordings.labels import LabelOptions
from ieeg.recordings.settings import Montage
from ieeg.training.recipe import CohortOptions, FreshOptions, Recipe

if TYPE_CHECKING:
    from ieeg.cohort import Case
    from ieeg.training.sources import Source


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        run, model: folders.
        best: the history's row of the selected epoch.
        threshold: probability from which a segment counts as seizure; chosen on the patients held out, if there are any.
        learned, held_out: patients of training and validation.
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

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return summary(Attempt(name, "left out", why) for name, why in self.left_out.items())

    def facts(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "model": str(self.model),
            "best": dict(self.best),
            "threshold": self.threshold,
            "learned": self.learned,
            "held_out": self.held_out,
            "left_out": dict(self.left_out),
            "detects": self.detects,
            "notice": RESEARCH_ONLY,
        }

    def lines(self) -> Iterable[str]:
        yield f"Trained on {len(self.learned)} patients, {len(self.held_out)} held out"
        for name, value in self.best.items():
            if name not in ("score", "lr"):
                yield f"  {name.replace('_', ' '):16} {value:.4g}"
        if self.detects:
            yield f"  threshold        {self.threshold:g}"
        yield f"Model folder: {self.model}"
        yield RESEARCH_ONLY
        verb = "detect" if self.detects else "forecast"
        yield f"Next: ieeg {verb} RECORDING --model {self.model}"


def train(
    paths: list[Path],
    /,
    *,
    model: str = "tiny",
    recipe: Recipe = Recipe(),
    fresh: FreshOptions = FreshOptions(),
    montage: Montage = Montage(),
    cohort: CohortOptions = CohortOptions(),
    labels: LabelOptions = LabelOptions(),
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains MVPFormer, patient by patient; refuses copies of one recording under two names. For research only, not for diagnosis.

    Example: ieeg train data --task detect --model tiny --out run

    Args:
        paths: recordings, or folders of them.
        model: tiny, s, m: a fresh model of that size; or a model folder to continue from.
    """
    import torch

    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import draw_history
    from ieeg.cohort import open_cohort, split
    from ieeg.model.folder import save_model
    from ieeg.recordings.copies import refuse_leaks
    from ieeg.training.module import best_threshold, fit
    from ieeg.training.sources import prepare_sources
    from ieeg.training.start import network_to_train, starting_model

    use_threads(run.threads)
    device = resolve_device(run.device)
    recipe = recipe.suited_to(model)
    torch.manual_seed(run.seed)  # a fresh model is drawn here
    start = starting_model(model, recipe, fresh, montage)
    members = open_cohort(paths, drop_copies=cohort.drop_copies, need_seizures=recipe.task == "detect", labels=labels)
    learned, held_out = split(members, cohort.validation, seed=run.seed)
    # Not by name: the same hour under two names, in both parts, would make any model look good.
    refuse_leaks([case.signature for case in learned], [case.signature for case in held_out])
    arguments = flat(
        paths=paths,
        model=_resolved(model),
        recipe=recipe,
        fresh=fresh,
        montage=montage,
        cohort=cohort,
        labels=labels,
    )
    data = data_fingerprint(_inputs(members.cases, labels, model))
    recorded = open_run(run, arguments, packages=["torch", "lightning", "attention-suite-ieeg"], data=data)
    store = run.out / "prepared"
    if run.overwrite:
        shutil.rmtree(store, ignore_errors=True)
    left_out = dict(members.left_out)
    sources = []
    for cases in (learned, held_out):
        # half of the store for each part; it is in GB
        usable, unusable = prepare_sources(cases, start.settings, store, limit=cohort.store_limit * 1e9 / 2)
        long_enough, too_short = _by_length(usable, start.window)
        left_out |= unusable | too_short
        sources.append(long_enough)
    torch.manual_seed(run.seed)  # the head and LoRA are drawn here, whatever was drawn in between
    network = network_to_train(start, recipe)
    history, best = fit(network, sources[0], sources[1], run, recipe, window=start.window)
    threshold = start.threshold
    if recipe.task == "detect" and sources[1]:
        threshold = best_threshold(network.to(device), sources[1], window=start.window)
    recordings = []
    for case in (*learned, *held_out):
        recordings.append(case.signature.plain() | {"held_out": case in held_out})
    provenance = {
        "trained_on": _summary(learned, held_out),
        "started_from": model,
        "arguments": recorded,
        "best": dict(best),
        "recordings": recordings,
    }
    folder = save_model(
        network.cpu(),
        run.out / "model",
        rate=start.rate,
        window=start.window,
        threshold=threshold,
        preparing=start.preparing,
        provenance=provenance,
    )
    measures = ("val_kappa", "val_f1", "val_auroc", "val_accuracy")
    draw_history(history, run.out / "figures" / "training.png", [("train_loss", "val_loss"), measures])
    shutil.rmtree(store, ignore_errors=True)
    trained = Trained(
        run.out,
        folder,
        best,
        threshold,
        sorted({case.patient for case in learned}),
        sorted({case.patient for case in held_out}),
        left_out,
        recipe.task == "detect",
    )
    write_text(run.out / "metrics.json", json.dumps(trained.facts(), indent=1, default=str))
    return trained


def _inputs(cases: "Sequence[Case]", labels: LabelOptions, model: str) -> set[Path]:
    """All files that the run depends on."""
    from core_attention.checkpoints.folders import CONFIG, WEIGHTS
    from ieeg.recordings.finding import files_of

    files = set()
    for case in cases:
        files.update(files_of(case.path))
    if labels.label_map is not None:
        files.add(labels.label_map)
    if Path(model).is_dir():
        files |= {Path(model) / CONFIG, Path(model) / WEIGHTS}
    return files


def _by_length(sources: "Sequence[Source]", window: int) -> "tuple[list[Source], dict[str, str]]":
    """The recordings that hold a window, and of the others why they are left out."""
    long_enough, left_out = [], {}
    for source in sources:
        if source.signals.segment_count >= window:
            long_enough.append(source)
        else:
            left_out[source.name] = f"shorter than {window} segments"
    return long_enough, left_out


def _resolved(model: str) -> str:
    """A model folder by its absolute path, so that the run can be repeated from anywhere; a size as it is."""
    if Path(model).is_dir():
        return str(Path(model).resolve())
    return model


def _summary(learned: Sequence["Case"], held_out: Sequence["Case"]) -> str:
    """A summary of what a model was trained on."""
    seconds = sum(case.signature.samples / case.signature.rate for case in learned if case.signature.rate)
    seizures = sum(len(case.seizures) for case in learned)
    patients = len({case.patient for case in learned})
    others = len({case.patient for case in held_out})
    return (
        f"{len(learned)} recordings of {patients} patients, {seconds / 3600:.1f} h, {seizures} seizures; "
        f"{others} patients held out"
    )
