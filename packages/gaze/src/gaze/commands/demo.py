"""``gaze demo``: sample → train → evaluate → predict → report.html."""

import json
from pathlib import Path
from typing import Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, Full, Overwrite, RunOptions, Seed
from gaze.cohort.study import ObjectOptions
from gaze.commands.evaluate import evaluate
from gaze.commands.predict import predict, say_cut
from gaze.commands.report import report as describe
from gaze.commands.train import train
from gaze.training.recipe import Recipe, Sizes

_HELD_OUT = 6  # products that nobody searches in the training pictures


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Learns how three synthetic observers search shelves, and judges on other shelves and other products.

    Example: gaze demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from core_runtime.report import Report
    from gaze.samples import OBSERVERS, PRODUCTS, make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    learned, held_out = PRODUCTS[:-_HELD_OUT], PRODUCTS[-_HELD_OUT:]
    data = make_samples(
        out / "train",
        layouts=60 if full else 16,
        searches=9,
        targets=learned,
        other_formats=False,
        seed=seed,
        overwrite=True,
    )
    unseen = make_samples(
        out / "test", layouts=5, searches=4, targets=held_out, other_formats=False, seed=seed + 1, overwrite=True
    )
    sizes = Sizes(width=64, feedforward=128, layers=1, pyramid=2, crop=(24, 24), dropout=0.0)
    recipe = Recipe(epochs=100 if full else 18, lr=2e-3, batch=64, score="likelihood", patience=0)
    run = RunOptions(out=out / "run", seed=seed, overwrite=True)
    model = str(
        train(
            data.scanpaths,
            objects=ObjectOptions(areas=data.areas, images=data.pictures),
            recipe=recipe,
            sizes=sizes,
            run=run,
        ).model
    )
    objects = ObjectOptions(areas=unseen.areas, images=unseen.pictures)
    judged = evaluate(
        unseen.scanpaths,
        model=model,
        objects=objects,
        out=out / "run" / "evaluation",
        samples=100 if full else 10,
        seed=seed,
        overwrite=True,
    )
    people = describe(unseen.scanpaths, objects=objects, out=out / "report", overwrite=True)
    shelf = sorted(unseen.pictures.iterdir())[0]
    target = _searched(unseen.scanpaths, shelf.name)
    predictions = predict(
        shelf,
        areas=unseen.areas,
        target=target,
        model=model,
        beams=8,
        out=out / "run" / "predictions",
        run=BulkOptions(overwrite=True),
    )
    picture = predictions.out / shelf.stem / "path.png"
    score = {name: measures["bits"]["value"] for name, measures in judged.table.items() if "bits" in measures}
    best_baseline = max((name for name in score if name != "OAT"), key=lambda name: score[name])
    strategies = {row["subject"]: row["strategy"].partition(":")[0] for row in people.subjects}
    truth = {str(number): name for number, name in enumerate(OBSERVERS, 1)}
    named = sum(strategies.get(subject) == name for subject, name in truth.items())
    headline = (
        f"On new shelves and products OAT predicts the next look {score['OAT']:.2f} bits better than chance "
        f"(best baseline, {best_baseline}: {score[best_baseline]:.2f}); {named} of {len(truth)} observers' strategies are named rightly."
    )
    caption = f"Predicted search for {target}: numbered, the likeliest path of 8 beams; shaded, the share of sampled paths that look there."
    page = Report("gaze demo", lead=headline).picture(picture, caption)
    for note in say_cut(predictions.predictions[0]):
        page.warning(note.removeprefix("Note: "))
    page.picture(out / "run" / "evaluation" / "measures.png", "The model, the baselines and people against each other.")
    rows = [
        [truth[subject], row["strategy"], row["strategy_bits"]] for subject, row in _by_subject(people.subjects).items()
    ]
    page.heading("Observers").table(["true strategy", "named from the paths", "bits per step ahead of the next"], rows)
    page.link(Path("run/evaluation/report.html"), "All measures, intervals and the trials that differ most")
    page.link(Path("report/report.html"), "What the observers did")
    page.heading("Next").command(f"gaze predict YOUR.png --areas YOUR_AREAS.json --model {json.dumps(model)}")
    metrics = {"bits": score["OAT"], "bits_best_baseline": score[best_baseline], "strategies_named": named / len(truth)}
    metrics["sequence_score"] = judged.table["OAT"]["sequence_score"]["value"]
    return DemoResult(headline, page.write(out / "report.html"), [(picture, caption)], metrics=metrics)


def _by_subject(subjects: Any) -> dict[str, Any]:
    return {row["subject"]: row for row in subjects}


def _searched(scanpaths: Path, picture: str) -> str:
    """What was searched in a picture first."""
    records = json.loads(scanpaths.read_text(encoding="utf-8"))
    return next(record["task"] for record in records if record["name"] == picture)
