"""``pathology-mil evaluate``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from core_runtime.bulk import Attempt, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Model, Out, Overwrite, resolve_device
from pathology_mil.cohort.options import LabelOptions
from pathology_mil.model.published import NO_CLASSIFIERS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pathology_mil.cohort.cohort import Cohort
    from pathology_mil.metrics import Metrics

Resamples = Annotated[int, AtLeast(0), Parameter(help="Resamples of the bootstrap intervals; 0 leaves them out.")]


@dataclass(frozen=True)
class Evaluation(Outcome):
    """A model evaluated on labelled slides.

    Attributes:
        metrics: measures with their intervals.
        data: what a reader of them must know: encoder, magnification, numbers of slides and tiles.
        table: CLAM's fold_0.csv, slide by slide.
        skipped: slide → why it is left out.
        notes: how the table of labels was read.
        seen: slide → the part that it had in making the model; these are left out, unless `include_seen`.
    """

    metrics: "Metrics"
    data: Mapping[str, Any]
    table: Path
    skipped: Mapping[str, str]
    seen: Mapping[str, str] = field(default_factory=dict)
    include_seen: bool = False
    notes: Sequence[str] = ()

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return summary(Attempt(slide, reason) for slide, reason in self.skipped.items())

    def facts(self) -> dict[str, Any]:
        return {
            **self.metrics.plain(),
            "data": self.data,
            "table": self.table,
            "skipped": self.skipped,
            "notes": self.notes,
            **self._seen(),
        }

    def lines(self) -> Iterable[str]:
        yield data_line(self.data)
        for text in self.notes:
            yield f"  {text}"
        if self.seen:
            slide, reason = next(iter(self.seen.items()))
            what = "Left out:"
            if self.include_seen:
                what = "Evaluated with"
            yield f"{what} {len(self.seen)} slides that the model has seen (for example {slide}: {reason})"
        yield from self.metrics.lines()
        yield f"Slide by slide: {self.table}"

    def _seen(self) -> dict[str, Any]:
        if not self.seen:
            return {}
        return {"seen": dict(self.seen), "seen_are_judged": self.include_seen}


def evaluate(
    features: Path,
    labels: Path | None = None,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    splits: Path | None = None,
    reading: LabelOptions = LabelOptions(),
    include_seen: bool = False,
    resamples: Resamples = 1000,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Evaluation:
    """Evaluates a model on labelled slides: AUROC, accuracy, F1, sensitivity and specificity, with bootstrap intervals.

    Writes fold_0.csv (CLAM's columns) and metrics.json.

    Example: pathology-mil evaluate features labels.csv --model run/model --splits run/splits/splits_0.csv

    Args:
        features: folder of feature files (CLAM, TRIDENT, Slideflow) or an ACMIL .h5.
        labels: CSV with slide_id,label[,case_id]; an ACMIL .h5 may carry its own.
        splits: evaluate the test slides of this split file only.
        include_seen: also evaluate slides that the model was trained on; otherwise they are left out and named.
    """
    from core_runtime.folders import write_text
    from core_runtime.models import choose_model
    from pathology_mil.cohort.cohort import open_cohort
    from pathology_mil.metrics import measure
    from pathology_mil.model.folder import load
    from pathology_mil.reports.tables import json_text, write_fold_table

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    where = resolve_device(device)
    loaded = load(choose_model(model, advice=NO_CLASSIFIERS), device=where)
    cohort = open_cohort(features, labels, reading, classes=loaded.classes)
    for bag in cohort.bags.values():
        loaded.check_bag(bag)
    slides = sorted(cohort.labels.label)
    if splits is not None:
        slides = sorted(set(_test_part(splits)) - set(cohort.skipped))
    absent = [slide for slide in slides if slide not in cohort.labels.label]
    if absent:
        raise UserError(f"slide {absent[0]} has no label or no features")
    # A model has "seen" a slide that trained or selected it, by its features, or one of a patient who did so.
    digests = {slide: cohort.digests[slide] for slide in slides}
    patients = {slide: cohort.labels.case[slide] for slide in slides if slide in cohort.labels.known}
    seen_slides = loaded.seen(digests, patients)
    if seen_slides and not include_seen:
        slides = [slide for slide in slides if slide not in seen_slides]
        if not slides:
            slide, reason = next(iter(seen_slides.items()))
            raise UserError(
                f"none of the {len(seen_slides)} slides is new to the model: {slide}: {reason}",
                "give other slides; --include-seen evaluates these anyway, which says nothing about new patients",
            )
    truth, probabilities = judge(loaded.network, cohort, slides, where)
    metrics = measure(
        probabilities, truth, loaded.classes, patients=cohort.labels.patients_of(slides), resamples=resamples
    )
    table = out / "fold_0.csv"
    write_fold_table(table, slides, truth.tolist(), probabilities)
    data = {**cohort.facts, **cohort.tile_counts(slides)}
    evaluation = Evaluation(metrics, data, table, cohort.skipped, seen_slides, include_seen, cohort.labels.notes)
    write_text(out / "metrics.json", json_text(evaluation.facts()))
    return evaluation


def judge(network: "nn.Module", cohort: "Cohort", slides: Sequence[str], device: str) -> "tuple[Tensor, Tensor]":
    """Class numbers [slides] and class probabilities [slides, classes] of slides."""
    import torch

    from core_runtime.terminal import track
    from pathology_mil.features.bags import read_features

    probabilities = []
    with torch.inference_mode():
        for slide in track(slides, "Predicting"):
            # one slide at a time: bags differ in length, and the longest alone may fill the memory
            bag = read_features(cohort.features(slide), slide).to(device)
            probabilities.append(network(bag).slide_logits[0].float().softmax(0).cpu())
    truth = torch.tensor([cohort.labels.label[slide] for slide in slides])
    return truth, torch.stack(probabilities)


def data_line(data: Mapping[str, Any]) -> str:
    """What a reader of a result must know about its data, in one line."""
    return (
        f"{data['slides']} slides, {data['tiles']:,} tiles (median {data['tiles_per_slide']:.0f} per slide), "
        f"encoder {data['encoder']} ({data['feature_width']} wide), magnification {data['magnification']}"
    )


def _test_part(splits: Path) -> Sequence[str]:
    """The test slides of a split file."""
    from pathology_mil.cohort.splits import read_splits

    folds = read_splits(splits)
    if len(folds) != 1 or not folds[0].test:
        raise UserError(
            f"{splits} does not hold one split with test slides", "name the file of one fold (splits_0.csv)"
        )
    return folds[0].test
