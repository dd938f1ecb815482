"""``vision-models detect demo``."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from vision_models.detect.commands.ab import Trial, ab
from vision_models.detect.commands.evaluate import evaluate
from vision_models.detect.commands.predict import predict
from vision_models.detect.model.options import DetectorOptions
from vision_models.detect.samples import SampleOptions, make_samples
from vision_models.detect.training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned; enhancer and detector are narrower than published."""

    scenes: int
    epochs: int
    seeds: int


QUICK, FULL = Plan(scenes=40, epochs=5, seeds=1), Plan(scenes=200, epochs=30, seeds=3)
DETECTOR = DetectorOptions(
    enhancer_width=8,
    detector="fcos",
    backbone="resnet10t",
    settings=("channels=16/32/48/64", "stem_width=8"),
    channels=32,
    size=96,
)


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws dark scenes, trains a small detector with and without FeatEnHancer, tells the difference, writes report.html.

    Example: vision-models detect demo /tmp/detect

    Args:
        out: folder for everything that is made.
    """
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "ab", "evaluation", "predictions"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data = make_samples(out / "data", SampleOptions(scenes=plan.scenes, width=128), seed=seed)["exdark"]
    trial = ab(
        data,
        detector=DETECTOR,
        recipe=Recipe(epochs=plan.epochs, batch=4, lr=2e-3, warmup=0.1),
        seeds=plan.seeds,
        run=RunOptions(out=out / "ab", seed=seed, device="cpu"),
    )
    model = str(trial.runs["featenhancer"].model)
    judged = evaluate(data, model=model, out=out / "evaluation", device="cpu")
    held_out = data / "ExDark" / "Bottle"
    predict(held_out, model=model, out=out / "predictions", device="cpu")
    return _report(out, plan, trial, judged.files["picture"], time.monotonic() - began)


def _report(out: Path, plan: Plan, trial: Trial, scenes: Path, seconds: float) -> DemoResult:
    from core_runtime.report import Report

    columns = ("arm", "seed", "AP50", "95 % over pictures", "AP", "parameters")
    rows = []
    for row in trial.rows:
        low, high = row["interval"]
        rows.append(
            (row["arm"], str(row["seed"]), row["ap50"], f"{low:.3f} to {high:.3f}", row["ap"], row["parameters"])
        )
    gap = next(row for row in trial.differences if row["measure"] == "ap50")
    headline = (
        f"In {plan.scenes} drawn dark scenes, a small detector trained for {plan.epochs} epochs reaches AP50 {trial.rows[0]['ap50']:.2f} with "
        f"FeatEnHancer and {trial.rows[1]['ap50']:.2f} without (difference {gap['low']:+.2f} to {gap['high']:+.2f}, 95 %)."
    )
    picture = (
        out / "ab" / "scenes.png",
        "Test scenes: as taken, after enhancement, drawn boxes, and what both detectors find.",
    )
    page = Report("Boxes in the dark", lead=headline).picture(*picture)
    page.text(
        "The scenes were drawn as by day, lit by one lamp, darkened to about a tenth, and given a sensor's noise. Both detectors see the same "
        "pictures in the same order for the same number of steps; nothing but the detector's own losses trains the enhancer. A few epochs on "
        "drawn scenes say nothing about photographs."
    )
    page.table(columns, rows, caption="Same data, budget and seed.")
    page.picture(scenes, "More of the detector with FeatEnHancer.")
    for arm in ("featenhancer", "none"):
        page.picture(trial.runs[arm].model.parent / "figures" / "training.png", f"Training: {arm}.")
    page.heading("With your own pictures").command(
        "vision-models detect inspect ExDark/",
        "vision-models detect ab ExDark/ --detector fcos_resnet50_fpn --weights FILE --out ab",
        "vision-models detect predict NIGHT-PICTURES --model ab/featenhancer-0/model",
    )
    page.facts([("seconds", f"{seconds:.0f}")])
    figures = {
        "ap50 with": trial.rows[0]["ap50"],
        "ap50 without": trial.rows[1]["ap50"],
        "difference": gap["difference"],
        "seconds": seconds,
    }
    path = page.write(out / "report.html")
    return DemoResult(headline, path, [picture], columns, rows, figures)
