"""``vision-models detect ab``: the same detector with and without FeatEnHancer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from core_runtime.boxes import BoxedImage
from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, RunOptions, flat
from vision_models.detect.cohort import SplitOptions
from vision_models.detect.commands.train import Trained, train
from vision_models.detect.model.options import DetectorOptions
from vision_models.detect.scenes.options import ImageFolder, Scenes
from vision_models.detect.training.recipe import Recipe

SHOWN = 4  # test pictures in the report
ARMS = {"featenhancer": "with FeatEnHancer", "none": "without"}


@dataclass(frozen=True)
class Trial(Outcome):
    """An A/B run: the same data, budget and seeds, with and without the enhancer.

    Attributes:
        rows: arm, seed, and its measures with intervals.
        differences: with minus without, by seed and measure: value and interval over pictures.
        report: the page.
        runs: of both arms at the first seed.
    """

    rows: Sequence[dict[str, Any]]
    differences: Sequence[dict[str, Any]]
    report: Path
    runs: Mapping[str, Trained]

    def facts(self) -> dict[str, Any]:
        return {"runs": list(self.rows), "differences": list(self.differences), "report": self.report}

    def lines(self) -> Iterable[str]:
        for row in self.rows:
            low, high = row["interval"]
            yield f"{row['arm']:18} seed {row['seed']}: AP50 {row['ap50']:.4f} ({low:.4f} to {high:.4f}), AP {row['ap']:.4f}, weights {row['start']}"
        for row in self.differences:
            if row["measure"] == "ap50":
                yield (
                    f"AP50 with minus without, seed {row['seed']}: {row['difference']:+.4f} "
                    f"(95 % interval over pictures {row['low']:+.4f} to {row['high']:+.4f})"
                )
        yield f"Report: {self.report}"


def ab(
    data: Scenes,
    /,
    *,
    detector: DetectorOptions = DetectorOptions(),
    recipe: Recipe = Recipe(),
    split: SplitOptions = SplitOptions(),
    images: ImageFolder = None,
    weights: Path | None = None,
    seeds: Annotated[int, AtLeast(1)] = 1,
    run: RunOptions = RunOptions(out=Path("ab")),
) -> Trial:
    """Trains the same detector with and without FeatEnHancer on the same data, budget and seeds, and tells the difference with its interval.

    Example: vision-models detect ab ExDark/ --detector fcos_resnet50_fpn --weights fcos.pth --out ab

    Args:
        weights: a file of published weights that both start from.
        seeds: trainings of each arm, from --seed upwards.
    """
    from core_runtime.folders import write_text
    from vision_models.detect.cohort import split_boxes
    from vision_models.detect.metrics import Judge, differences
    from vision_models.detect.scenes.opening import open_boxes

    scenes = open_boxes(data, images)
    test = split_boxes(scenes, split).test
    rows, gaps = [], []
    runs: dict[str, Trained] = {}
    for seed in range(run.seed, run.seed + seeds):
        judges: dict[str, Judge] = {}
        for arm in ARMS:
            out = run.out / f"{arm}-{seed}"
            own = replace(run, out=out, seed=seed, resume=run.resume and (out / "config.yaml").exists())
            of_arm = replace(detector, enhancer=arm)
            trained = train(data, detector=of_arm, recipe=recipe, split=split, images=images, weights=weights, run=own)
            runs.setdefault(arm, trained)
            judges[arm] = Judge(test, trained.found, scenes.classes)
            measured = trained.values["test"]
            rows.append(
                {
                    "arm": ARMS[arm],
                    "seed": seed,
                    "ap": measured["ap"],
                    "ap50": measured["ap50"],
                    "interval": measured["intervals"]["ap50"],
                    "parameters": trained.values["parameters"],
                    "start": trained.values["start"] or "random",
                }
            )
        for measure, (value, interval) in differences(judges["featenhancer"], judges["none"], seed=seed).items():
            gaps.append(
                {"seed": seed, "measure": measure, "difference": value, "low": interval.low, "high": interval.high}
            )
    arguments = flat(detector=detector, recipe=recipe, split=split, seeds=seeds) | run.recorded()
    described = {"runs": rows, "differences": gaps, "arguments": arguments, "test_pictures": len(test)}
    write_text(run.out / "ab.json", json.dumps(described, indent=1) + "\n")
    report = _report(run.out, rows, gaps, runs, test[:SHOWN])
    return Trial(rows, gaps, report, runs)


def _report(
    out: Path,
    rows: Sequence[dict[str, Any]],
    gaps: Sequence[dict[str, Any]],
    runs: Mapping[str, Trained],
    shown: Sequence[BoxedImage],
) -> Path:
    from core_runtime.report import Report
    from vision_models.detect.model.folder import load_model
    from vision_models.detect.reports.figures import scene_sheet
    from vision_models.detect.reports.scenes import scene_row

    sheet = []
    with_enhancer, without = load_model(runs["featenhancer"].model), load_model(runs["none"].model)
    first = len(shown)
    found, found_without = runs["featenhancer"].found[:first], runs["none"].found[:first]
    for image, one, other in zip(shown, found, found_without, strict=True):
        row = scene_row(image, one, with_enhancer, 0.3)
        row[-1] = ("found with FeatEnHancer", *row[-1][1:])
        _, picture, boxes, drawn = scene_row(image, other, without, 0.3)[-1]
        sheet.append([*row, ("found without", picture, boxes, drawn)])
    picture = scene_sheet(sheet, out / "scenes.png")
    half = [row for row in gaps if row["measure"] == "ap50"]
    mean = sum(row["difference"] for row in half) / len(half)
    lead = f"FeatEnHancer changes AP50 by {mean:+.3f} (mean over {len(half)} trainings of each arm; same data, budget and seeds)."
    page = Report("With and without FeatEnHancer", lead=lead).picture(
        picture, "Test pictures. Boxes from a score of 0.3."
    )
    table = []
    for row in rows:
        low, high = row["interval"]
        table.append(
            (
                row["arm"],
                str(row["seed"]),
                row["ap50"],
                f"{low:.3f} to {high:.3f}",
                row["ap"],
                row["parameters"],
                row["start"],
            )
        )
    columns = ("arm", "seed", "AP50", "95 % over pictures", "AP", "parameters", "weights")
    page.table(columns, table)
    differences = []
    for row in gaps:
        differences.append(
            (str(row["seed"]), row["measure"], row["difference"], f"{row['low']:+.3f} to {row['high']:+.3f}")
        )
    page.table(
        ("seed", "measure", "with minus without", "95 % interval"),
        differences,
        caption="Paired by picture. An interval that includes 0 does not show a difference.",
    )
    return page.write(out / "report.html")
