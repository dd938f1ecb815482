"""``vision-language demo``: sample → train → evaluate → ground → report.html."""

import json
from pathlib import Path

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, Full, Overwrite, RunOptions, Seed
from vision_language.commands.answer import VAR, answer
from vision_language.commands.evaluate import evaluate
from vision_language.commands.find import find
from vision_language.commands.ground import Groundings, ground
from vision_language.commands.index import index
from vision_language.commands.probe import probe
from vision_language.commands.train import train
from vision_language.training.recipe import Network, Recipe

SHOWN = 8  # sentences on the sheet


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Grounds sentences, retrieves by colour or shape, and redistributes attention of a tiny LLaVA, on drawn scenes.

    Example: vision-language demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from transformers.utils import logging

    from core_runtime.report import Report
    from vision_language.model.tiny import TAU, save_tiny_llava
    from vision_language.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    logging.disable_progress_bar()  # of models that are tiny
    learned = make_samples(out / "train", scenes=400 if full else 90, seed=2 * seed, overwrite=True)
    held_out = make_samples(out / "test", scenes=60 if full else 10, seed=2 * seed + 1, overwrite=True)
    run = RunOptions(out=out / "run", seed=seed, overwrite=True)
    recipe = Recipe(epochs=60 if full else 14, lr=6e-3, share=0.0, batch=16)
    model = str(train("grounding", learned.grounding, recipe=recipe, network=Network(side=64), run=run).model)
    judged = evaluate(
        "grounding", held_out.grounding, model=model, out=out / "run" / "evaluation", resamples=100, overwrite=True
    )
    scene = out / "test" / "images" / "scene_000.png"
    grounded = ground(held_out.grounding, model=model, out=out / "run" / "groundings", run=BulkOptions(overwrite=True))
    picture = _sheet(grounded, held_out.grounding, out / "run" / "groundings.png")
    focal = RunOptions(out=out / "focal", seed=seed, overwrite=True)
    focal_recipe = Recipe(epochs=16, lr=3e-3, batch=32)
    if full:
        # Colours come in a few passes; shapes want more pictures and a smaller rate.
        focal_recipe = Recipe(epochs=30, lr=1e-3, batch=32)
    embedder = str(train("focallens", learned.instructions, recipe=focal_recipe, run=focal).model)
    retrieved = evaluate(
        "retrieval",
        held_out.instructions,
        model=embedder,
        out=out / "focal" / "evaluation",
        resamples=100,
        overwrite=True,
    )
    sheets = []
    for word in ("colour", "shape"):
        file = out / "focal" / f"{word}.safetensors"
        index(out / "test" / "singles", model=embedder, instruction=f"which {word} is it?", out=file, overwrite=True)
        query = str(out / "test" / "singles" / "single_0000.png")
        sheets.append(find(file, query, model=embedder, top=6, out=out / "focal" / f"{word}.png", overwrite=True).sheet)
    llava = save_tiny_llava(
        out / "llava", ["Is there a circle square triangle cross in the image describe what person"]
    )
    sinks = probe(llava, scene, tau=TAU, out=out / "run" / "sinks.json", overwrite=True)
    asked = answer(
        scene, "Is there a circle in the image?", model=str(llava), sinks=sinks.out, tokens=4, overwrite=True,
        var=VAR(keep_fraction=0.3, least_image_share=0.1, most_sink_share=0.9), out=out / "run" / "answer",
    )  # fmt: skip
    scores = {name: entry["mIoU"]["value"] for name, entry in judged.table.items()}
    points = {name: entry["pointing"]["value"] for name, entry in judged.table.items()}
    recall = {name: entry["R@1"]["value"] for name, entry in retrieved.table.items()}
    headline = (
        f"On scenes that it has not seen, the tiny network's point is on what the sentence means in {points['model']:.0%} "
        f"(sentences shuffled {points['shuffled sentences']:.0%}), and pictures are found by the colour or shape asked for "
        f"in {recall['model']:.0%} (without an instruction {recall['no instruction']:.0%})."
    )
    report = Report("vision-language demo", lead=headline)
    report.picture(picture, "Held-out scenes, the first ones: what a sentence means in colour, box and point.")
    rows = [[name, scores[name], points[name]] for name in scores]
    report.heading("Held-out sentences").table(["", "mean IoU", "point on it"], rows)
    report.heading("One picture, two instructions")
    report.picture(sheets[0], "Most like the first single shape under “which colour is it?”")
    report.picture(sheets[1], "and under “which shape is it?”")
    report.heading("A tiny LLaVA with a planted sink")
    report.text(
        f"Its sink dimension was found, not told: {sinks.found['dims']}. {asked.edited:.0%} of the heads' rows behind the picture "
        "were edited. Its weights are random, so its answers mean nothing; where it looks is what changes."
    )
    assert asked.out is not None
    report.picture(asked.out / "looked.png", "Where the plain and the redistributed answer looked", width=640)
    report.heading("Next").command(f'vision-language ground YOUR.png "the red circle" --model {json.dumps(model)}')
    metrics = {"miou": scores["model"], "pointing": points["model"], "pointing_shuffled": points["shuffled sentences"]}
    metrics |= {"recall": recall["model"], "recall_without": recall["no instruction"], "edited": asked.edited}
    return DemoResult(
        headline,
        report.write(out / "report.html"),
        [(picture, "what a sentence means, in scenes that were not seen")],
        metrics=metrics,
    )


def _sheet(grounded: Groundings, annotations: Path, out: Path) -> Path:
    """The overlays of the first scenes, with each sentence and whether its point lies in the annotated box."""
    from core_runtime.folders import output_names
    from vision_language.reports.overlay import draw_sheet

    boxes = {}
    for line in annotations.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        boxes[Path(row["image"]).name, row["sentence"]] = row["box"]
    overlays, titles = [], []
    names = [picture["picture"] for picture in grounded.groundings]
    for picture, folder in zip(grounded.groundings, output_names(names, taken=["log.jsonl"]), strict=True):
        name = Path(picture["picture"])
        for number, found in enumerate(picture["sentences"], 1):
            left, top, right, bottom = boxes[name.name, found["sentence"]]
            x, y = found["point"]["pixels"]
            on_it = left <= x <= right and top <= y <= bottom
            overlays.append(grounded.out / folder / f"overlay_{number:03}.png")
            titles.append(f"“{found['sentence']}”: {'on it' if on_it else 'beside it'}")
    return draw_sheet(overlays[:SHOWN], titles[:SHOWN], out)
