"""``gui-grounding demo``: sample → train → evaluate → predict → report.html."""

import json
from pathlib import Path

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.options import BulkOptions, Full, Overwrite, RunOptions, Seed
from gui_grounding.commands.evaluate import evaluate
from gui_grounding.commands.predict import predict
from gui_grounding.commands.train import train
from gui_grounding.training.recipe import Recipe, Start

_MESSAGE = "Find the element."  # a short one: every token counts on a CPU


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Trains a tiny Qwen2.5-VL with random weights on drawn pages, and judges it on other pages.

    Example: gui-grounding demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from core_runtime.report import Report
    from gui_grounding.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    learned = make_samples(out / "train", pages=240 if full else 66, seed=2 * seed, overwrite=True)
    held_out = make_samples(out / "test", pages=40 if full else 16, seed=2 * seed + 1, overwrite=True)
    write_text(out / "train" / "system_message.txt", _MESSAGE + "\n")
    recipe = Recipe(epochs=40 if full else 18, lr=6e-3, batch=6, questions=5, learns="all", share=0.1)
    start = Start(layers=1, vision_layers=1, system_message=str(out / "train" / "system_message.txt"))
    run = RunOptions(out=out / "run", seed=seed, overwrite=True)
    model = str(train(learned.training, recipe=recipe, start=start, run=run).model)
    judged = evaluate(
        held_out.annotations,
        model=model,
        blind=True,
        out=out / "run" / "evaluation",
        seed=seed,
        run=BulkOptions(overwrite=True),
    )
    page, asked = typical_page(out / "run" / "evaluation" / "predictions.jsonl")
    hit = dict(asked)
    predictions = predict(
        page,
        *list(hit)[:3],
        model=model,
        write="pyautogui",
        out=out / "run" / "predictions",
        run=BulkOptions(overwrite=True),
    )
    scores = {name: slices["all"] for name, slices in judged.table.items()}
    hits = {name: entry["hit@1"]["value"] for name, entry in scores.items()}
    headline = (
        f"On pages that it has not seen the tiny model clicks the right element in {hits['model']:.0%} of "
        f"{scores['model']['items']} instructions (without the words {hits['text-blind']:.0%}, the centre {hits['centre']:.0%})."
    )
    report = Report("gui-grounding demo", lead=headline)
    pictures = []
    for number, grounding in enumerate(predictions.predictions[0]["groundings"], 1):
        judgement = "a miss"
        if hit[grounding["instruction"]]:
            judgement = "hit"
        caption = f"“{grounding['instruction']}” → {grounding['written']}: {judgement}; warm: where the model looks."
        pictures.append((predictions.out / page.stem / f"overlay_{number:03}.png", caption))
        report.picture(*pictures[-1], width=336)
    rows = []
    for name, entry in scores.items():
        rows.append([name, *(entry[measure]["value"] for measure in ("hit@1", "hit@k", "mass", "overlap"))])
    report.heading("Held-out pages").table(
        ["", "hit@1", "hit@k", "attention in the target", "best cell meets it"], rows
    )
    report.link(Path("run/evaluation/report.html"), "All scores with intervals, and the misses")
    report.heading("Next").command(f'gui-grounding predict YOUR.png "click the red button" --model {json.dumps(model)}')
    metrics = {"hit": hits["model"], "hit_text_blind": hits["text-blind"], "hit_centre": hits["centre"]}
    metrics["mass"] = scores["model"]["mass"]["value"]
    return DemoResult(headline, report.write(out / "report.html"), pictures[:1], metrics=metrics)


def typical_page(predictions: Path) -> tuple[Path, list[tuple[str, bool]]]:
    """Of the judged screenshots the first that is right about as often as all together, with its instructions and whether each was hit."""
    pages: dict[str, list[tuple[str, bool]]] = {}
    for line in predictions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["predictor"] == "model":
            pages.setdefault(row["image"], []).append((row["instruction"], row["hit@1"] > 0))
    shares = {image: sum(hit for _, hit in asked) / len(asked) for image, asked in pages.items()}
    count = sum(len(asked) for asked in pages.values())
    overall = sum(hit for asked in pages.values() for _, hit in asked) / count
    image = min(shares, key=lambda image: abs(shares[image] - overall))
    return Path(image), pages[image]
