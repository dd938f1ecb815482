"""The job `evaluate`: a model judged on labelled slides."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from pathology_mil.training.data import BagDataset, Cohort, open_cohort
from pathology_mil.metrics import Metrics, measure, write_fold_table
from pathology_mil.model.folder import LoadedModel, load


def judge(
    network: nn.Module, cohort: Cohort, slides: Sequence[str], device: str, show: bool = False
) -> tuple[list[str], Tensor, Tensor]:
    """Slides, their labels and class probabilities."""
    data = BagDataset(cohort, slides)
    every = track(range(len(data)), "Predicting") if show else range(len(data))
    with torch.inference_mode():
        found = [network(data[i][0].to(device)).slide_logits[0].float().softmax(0).cpu() for i in every]
    return list(slides), torch.tensor([cohort.labels.label[s] for s in slides]), torch.stack(found)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    metrics: Metrics
    facts: Mapping[str, Any]
    table: Path
    skipped: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.metrics.plain(),
            "data": dict(self.facts),
            "table": str(self.table),
            "skipped": dict(self.skipped),
        }


def evaluate(
    model: Path | str | LoadedModel,
    features: Path | str,
    labels: Path | str | None,
    out: Path | str,
    *,
    part: Sequence[str] | None = None,
    label_col: str = "label",
    merge: Mapping[str, str] | None = None,
    ignore_missing: bool = False,
    device: str = "cpu",
    resamples: int = 1000,
    overwrite: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Judges a model on labelled slides; writes ``fold_0.csv`` (CLAM's columns) and ``metrics.json`` to `out`.

    Args:
        model: model folder.
        features, labels, label_col, merge, ignore_missing: as `open_cohort`; the classes are the model's.
        part: only these slides (a split's test part, say).
        resamples: of the bootstrap intervals.

    Raises:
        UserError: as `open_cohort`; features of another width than the model's, labels that the model does not know.
    """
    out = Path(out)
    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    loaded = model if isinstance(model, LoadedModel) else load(model, device=device)
    cohort = open_cohort(
        features,
        labels,
        label_col=label_col,
        classes=loaded.classes,
        merge=merge,
        ignore_missing=ignore_missing,
        progress=progress,
    )
    loaded.check_width(cohort.facts["feature_width"], str(features))
    slides = sorted(cohort.labels.label if part is None else set(part) - set(cohort.skipped))
    if absent := [s for s in slides if s not in cohort.labels.label]:
        raise UserError(f"slide {absent[0]} has no label or no features")
    slides, y, probabilities = judge(loaded.network, cohort, slides, device, progress)
    metrics = measure(probabilities, y, loaded.classes, resamples=resamples)
    write_fold_table(out / "fold_0.csv", slides, y.tolist(), probabilities)
    tiles = [len(cohort.features[s]) for s in slides]
    judged = {"slides": len(slides), "tiles": sum(tiles), "tiles_per_slide": float(statistics.median(tiles))}
    made = Evaluation(metrics, {**cohort.facts, **judged}, out / "fold_0.csv", cohort.skipped)
    write_text(out / "metrics.json", json_text(made.plain()))
    return made


def json_text(value: Any) -> str:
    """JSON with null for NaN."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=1)
