"""``vision-models classify demo``."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from vision_models.classify.commands.compare import NetworksCompared, compare
from vision_models.classify.commands.evaluate import Evaluation, evaluate
from vision_models.classify.commands.predict import predict
from vision_models.classify.commands.train import train
from vision_models.classify.model.options import NetworkOptions
from vision_models.classify.samples import SampleOptions, make_samples
from vision_models.classify.training.recipe import Recipe

# A small transformer and a small CNN, and the CNN with an attention of this suite in it.
NETWORKS: Mapping[str, NetworkOptions] = {
    "transformer": NetworkOptions(
        network="vit_tiny_patch16_224", settings=("embed_dim=48", "depth=3", "num_heads=3", "patch_size=4")
    ),
    "cnn": NetworkOptions(network="resnet10t", settings=("channels=32/32/64/64", "stem_width=16")),
    "cnn-ela": NetworkOptions(network="resnet10t", settings=("channels=32/32/64/64", "stem_width=16"), insert="ela"),
}


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned."""

    per_class: int
    epochs: int


QUICK, FULL = Plan(per_class=40, epochs=6), Plan(per_class=200, epochs=60)
RECIPE = {"batch": 16, "lr": 6e-2, "warmup": 1, "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "augment": "crop"}


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws images, trains a transformer and a CNN with and without ELA, compares them, shows the most wrong images, writes report.html.

    Example: vision-models classify demo /tmp/classify

    Args:
        out: folder for everything that is made.
    """
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "run-transformer", "run-cnn", "run-cnn-ela", "evaluation", "comparison", "predictions"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data = make_samples(out / "data", SampleOptions(per_class=plan.per_class, side=24), seed=seed)
    runs = []
    for name, network in NETWORKS.items():
        run = RunOptions(out=out / f"run-{name}", seed=seed, device="cpu")
        train(data["folders"], network=network, recipe=Recipe(epochs=plan.epochs, **RECIPE), run=run)
        runs.append(run.out)
    compared = compare(runs, out=out / "comparison", resamples=500)
    judged = evaluate(data["folders"], model=str(runs[1] / "model"), out=out / "evaluation", device="cpu")
    looked = predict(data["folders"] / "test", model=str(runs[0] / "model"), out=out / "predictions", device="cpu")
    return _report(out, plan, compared, judged, looked.files["picture"], time.monotonic() - began)


def _report(
    out: Path, plan: Plan, compared: NetworksCompared, judged: Evaluation, sheet: Path, seconds: float
) -> DemoResult:
    from core_runtime.report import Report

    rows = []
    for row in compared.rows:
        rows.append((row["name"], row["parameters"], row["accuracy"], f"{row['low']:.3f} to {row['high']:.3f}"))
    columns = ("network", "parameters", "accuracy", "95 % interval over images")
    best = compared.rows[0]
    images = judged.metrics.images
    headline = (
        f"Of three small networks trained for {plan.epochs} epochs, {best['name']} names {best['accuracy']:.0%} of {images} unseen images "
        f"rightly ({best['low']:.0%} to {best['high']:.0%}; chance is {1 / len(judged.classes):.0%})."
    )
    picture = (sheet, "What the transformer answers for unseen images, and below each where its last layer looks.")
    page = Report("What is in a picture", lead=headline).picture(*picture)
    page.text(
        "The images were drawn: six kinds of pattern in random colours, places, turns and sizes, so that colour tells nothing. "
        "The figures say nothing about photographs. The same commands take any of timm's networks and this package's, and your images."
    )
    page.table(columns, rows, caption=f"On the same {images} unseen images.")
    page.picture(compared.picture, "Accuracy with its interval over images.")
    if compared.tests is not None:
        tests = []
        for test in compared.tests.rows:
            pair = f"{test['first']} - {test['second']}"
            tests.append((pair, test["difference"], f"{test['low']:+.3f} to {test['high']:+.3f}", test["p_holm"]))
        page.table(("pair", "difference", "95 % interval", "p (Holm)"), tests, caption="Paired by image.")
    page.heading("One of them, closely").picture(
        judged.files["confusion"], "Confusion of the CNN: rows are the true classes."
    )
    if "mistakes" in judged.files:
        page.picture(judged.files["mistakes"], "Its most wrong images.")
    page.picture(out / "run-cnn" / "figures" / "training.png", "Its training.")
    page.heading("With your own images").command(
        "vision-models classify train FOLDER --network resnet18 --out run",
        "vision-models classify compare run other-run",
        "vision-models classify predict PICTURES --model run/model",
    )
    page.facts([("seconds", f"{seconds:.0f}")])
    figures = {"accuracy": judged.metrics.accuracy, "seconds": seconds}
    for row in compared.rows:
        figures[f"accuracy of {row['name']}"] = row["accuracy"]
    path = page.write(out / "report.html")
    return DemoResult(headline, path, [picture], columns, rows, figures)
