"""Training over shares of masking and over seeds: whether masking helps with an encoder, and how far seeds disagree."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import note
from core_runtime.folders import write_text
from pathology_mil.commands.train import train

MEASURES = ("f1_macro", "auroc", "accuracy")


@dataclass(frozen=True)
class SweepRow:
    """One share of masking: mean and standard deviation over seeds and folds of measures on the test slides."""

    mask_drop: float
    runs: int
    mean: dict[str, float]
    deviation: dict[str, float]


def sweep(
    features: Path | str,
    labels: Path | str | None,
    out: Path | str,
    *,
    mask_drops: Sequence[float] = (0.0, 0.3, 0.6),
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    progress: bool = True,
    **options: Any,
) -> list[SweepRow]:
    """Trains every combination into ``OUT/mask_{p}_seed_{s}`` and writes ``sweep.csv``; an interrupted sweep goes on when it is run again.

    The splits depend on the seed, too, where none are given: then every seed judges another part of the slides.

    Args:
        mask_drops: shares p of the top K that are masked; 0 masks nothing.
        seeds: the paper reports five.
        options: of `runs.train`.
    """
    rows = []
    for p in mask_drops:
        found: dict[str, list[float]] = {m: [] for m in MEASURES}
        for seed in seeds:
            if progress:
                note.print(f"p = {p:g}, seed {seed}", markup=False)
            folder = Path(out) / f"mask_{p:g}_seed_{seed}"
            made = train(features, labels, folder, mask_drop=p, seed=seed, resume=True, progress=progress, **options)
            for fold in made.folds:
                judged = fold.test or fold.validation
                if judged is not None:
                    for m in MEASURES:
                        found[m].append(getattr(judged, m))
        mean = {m: statistics.fmean(v) if v else math.nan for m, v in found.items()}
        deviation = {m: statistics.stdev(v) if len(v) > 1 else math.nan for m, v in found.items()}
        rows.append(SweepRow(p, len(found[MEASURES[0]]), mean, deviation))
    write_text(Path(out) / "sweep.csv", _csv(rows))
    return rows


def _csv(rows: Sequence[SweepRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["mask_drop", "runs", *(f"{m}_{kind}" for m in MEASURES for kind in ("mean", "std"))])
    for row in rows:
        writer.writerow([row.mask_drop, row.runs, *(v for m in MEASURES for v in (row.mean[m], row.deviation[m]))])
    return out.getvalue()
