"""``explainability demo``: sample → train → evaluate → explain → report.html."""

from pathlib import Path
from typing import Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from explainability.commands.evaluate import classify, judge_maps
from explainability.commands.explain import MapOptions
from explainability.commands.train import train
from explainability.training.recipe import Recipe

METHODS = ("gradcam", "ig", "lrp", "rollout", "attention")


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Trains on pictures with a planted shortcut, finds it, and shows which methods see it.

    Example: explainability demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    import torch

    from core_runtime.pictures import open_picture
    from core_runtime.report import Report
    from explainability.attribution.explaining import Checks, explain_batch
    from explainability.models.loading import load_classifier
    from explainability.reports.figures import TITLES, draw_curves, draw_examples, draw_maps
    from explainability.samples import CORNER, SHAPES, SIDE, make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    make_samples(out / "shapes", seed=seed, overwrite=True)
    run = RunOptions(out=out / "run", seed=seed, overwrite=True)
    model = train(out / "shapes", recipe=Recipe(epochs=40 if full else 10), run=run).model
    classifier = load_classifier(str(model))
    test = out / "shapes" / "test"
    labelled, images, right, _ = classify(test, classifier)
    _, _, right_without, _ = classify(out / "shapes" / "test-without-shortcut", classifier)
    accuracy, without = sum(right) / len(right), sum(right_without) / len(right_without)

    corner = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    corner[:, :CORNER, -CORNER:] = True
    count = len(images) if full else 18
    spread = [number * len(images) // count for number in range(count)]
    maps = MapOptions(method=METHODS, steps=20 if full else 10)
    labels = [labelled.labels[number] for number in spread]
    methods, _ = judge_maps(classifier, images[spread], labels, corner[spread], maps, seed)
    rows = []
    for name, measures in methods.items():
        cells = [
            _with_interval(measures[column]) for column in ("energy_in_mask", "pointing_game", "insertion", "deletion")
        ]
        rows.append((TITLES[name], *cells))
    columns = ["", "energy in the corner", "greatest value in the corner", "insertion ↑", "deletion ↓"]
    share = CORNER**2 / SIDE**2
    seeing = [TITLES[name] for name, m in methods.items() if name != "random" and m["energy_in_mask"][1] > 3 * share]
    headline = (
        f"The model is right on {accuracy:.0%} of new pictures, and on {without:.0%} once the coloured corner is gone "
        f"(chance {1 / len(SHAPES):.0%}): it learned the corner. {len(seeing)} of {len(METHODS)} methods show it."
    )

    one = [labelled.labels.index(1)]
    picture = open_picture(labelled.files[one[0]]).image
    explanations, _ = explain_batch(classifier.model, images[one], METHODS, 1, Checks(20, True, seed))
    figure = draw_maps(picture, explanations)
    figure.savefig(out / "maps.png", dpi=110)
    caption = f"Why {SHAPES[1]}? The coloured corner is the shortcut; the shape is what a person would look at."
    examples: list[tuple[Any, str]] = []
    for number, shape in enumerate(SHAPES):
        index = labelled.labels.index(number)
        examples.append((open_picture(labelled.files[index]).image, shape))
    page = Report("explainability demo", lead=headline)
    page.picture(draw_examples(examples), "Of each class one picture: the corner's colour gives the class away.")
    page.heading("Which methods see the shortcut?").picture(out / "maps.png", caption)
    page.table(
        columns,
        rows,
        caption=f"Means over {count} pictures with 95 % intervals. The corner is {share:.1%} of a picture.",
    )
    page.picture(draw_curves(explanations), "The class's probability as pixels are added or removed.")
    page.heading("Next").command(f"explainability explain YOUR.png --model '{model}'")
    metrics = {"accuracy": accuracy, "accuracy_without_shortcut": without, "methods_that_see_it": float(len(seeing))}
    metrics |= {f"{name}_energy_in_corner": measures["energy_in_mask"][0] for name, measures in methods.items()}
    report = page.write(out / "report.html")
    return DemoResult(headline, report, [(out / "maps.png", caption)], columns, rows, metrics)


def _with_interval(value: tuple[float, float, float]) -> str:
    mean, low, high = value
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
