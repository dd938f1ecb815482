"""``pathology-mil sweep``: training over masked shares and over seeds."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Device, Integers, Numbers, Out, Precision, RunOptions, Threads, Workers
from pathology_mil.cohort.options import LabelOptions, SplitOptions
from pathology_mil.commands.evaluate import Resamples
from pathology_mil.commands.train import train
from pathology_mil.training.recipe import MaskingOptions, NetworkOptions, Recipe

MEASURES = ("f1_macro", "auroc", "accuracy")


@dataclass(frozen=True)
class SweepRow:
    """One masked share: mean and standard deviation, over seeds and folds, of measures on the test slides."""

    mask_drop: float
    runs: int
    mean: dict[str, float]
    deviation: dict[str, float]


@dataclass(frozen=True)
class Sweep(Outcome):
    """One row per masked share, and the table on disk."""

    rows: Sequence[SweepRow]
    table: Path

    def facts(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "table": self.table}

    def lines(self) -> Iterable[str]:
        yield "share masked   runs   macro F1          AUROC"
        for row in self.rows:
            f1 = f"{row.mean['f1_macro']:.3f} ± {row.deviation['f1_macro']:.3f}"
            auroc = f"{row.mean['auroc']:.3f} ± {row.deviation['auroc']:.3f}"
            yield f"{row.mask_drop:<14g} {row.runs:<6} {f1}     {auroc}"
        yield f"Table: {self.table}"


def sweep(
    features: Path,
    labels: Path | None = None,
    /,
    *,
    out: Out = Path("sweep"),
    mask_drops: Numbers = (0.0, 0.3, 0.6),
    seeds: Integers = (1, 2, 3, 4, 5),
    network: NetworkOptions = NetworkOptions(),
    recipe: Recipe = Recipe(),
    reading: LabelOptions = LabelOptions(),
    splitting: SplitOptions = SplitOptions(),
    resamples: Resamples = 0,
    device: Device = "auto",
    precision: Precision = "32-true",
    workers: Workers = 0,
    threads: Threads = None,
) -> Sweep:
    """Trains over masked shares and seeds: does masking help with your encoder? A rerun continues.

    Each combination has a run folder, mask_{p}_seed_{s}. Where no splits are given, they depend on the seed as well: each
    seed then tests on other slides.

    Example: pathology-mil sweep features labels.csv --mask-drops 0,0.6 --seeds 1,2,3 --out sweep

    Args:
        features: folder of feature files (CLAM, TRIDENT, Slideflow) or an ACMIL .h5.
        labels: CSV with slide_id,label[,case_id]; an ACMIL .h5 may carry its own.
        mask_drops: shares of the top K tiles to mask; 0 masks nothing.
        seeds: seeds for every share; the paper reports five.
    """
    from core_runtime.folders import write_text
    from core_runtime.terminal import note

    rows = []
    for mask_drop in mask_drops:
        values: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        for seed in seeds:
            note.print(f"p = {mask_drop:g}, seed {seed}", markup=False)
            trained = train(
                features,
                labels,
                network=network,
                masking=MaskingOptions(mask_drop=mask_drop),
                recipe=recipe,
                reading=reading,
                splitting=splitting,
                resamples=resamples,
                run=RunOptions(
                    out=out / f"mask_{mask_drop:g}_seed_{seed}",
                    device=device,
                    precision=precision,
                    workers=workers,
                    threads=threads,
                    seed=seed,
                    resume=True,
                ),
            )
            for fold in trained.folds:
                metrics = fold.test or fold.validation  # the test, if there is one
                if metrics is not None:
                    for measure in MEASURES:
                        values[measure].append(getattr(metrics, measure))
        rows.append(_summarise(mask_drop, values))
    table = out / "sweep.csv"
    write_text(table, _csv(rows))
    return Sweep(rows, table)


def _summarise(mask_drop: float, values: dict[str, list[float]]) -> SweepRow:
    mean, deviation = {}, {}
    for measure, numbers in values.items():
        mean[measure] = math.nan
        deviation[measure] = math.nan
        if numbers:
            mean[measure] = statistics.fmean(numbers)
        if len(numbers) > 1:  # of a single run there is no deviation, which is not the same as 0
            deviation[measure] = statistics.stdev(numbers)
    return SweepRow(mask_drop, len(values[MEASURES[0]]), mean, deviation)


def _csv(rows: Sequence[SweepRow]) -> str:
    header = ["mask_drop", "runs"]
    for measure in MEASURES:
        header += [f"{measure}_mean", f"{measure}_std"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = [row.mask_drop, row.runs]
        for measure in MEASURES:
            cells += [row.mean[measure], row.deviation[measure]]
        writer.writerow(cells)
    return text.getvalue()
