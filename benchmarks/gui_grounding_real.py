"""Rows of benchmarks/gui_grounding.py: a small model with random weights on real pages, and what tells its hits from its misses."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.options import RunOptions
from gui_grounding.commands.demo import demo
from gui_grounding.commands.evaluate import evaluate
from gui_grounding.commands.train import train
from gui_grounding.items.reading import read_items
from gui_grounding.model.folder import load_model
from gui_grounding.model.inference import Grounder
from gui_grounding.predictors import by_screenshot
from gui_grounding.results import Grounding
from gui_grounding.samples import make_samples
from gui_grounding.screens.elements import COLOURS
from gui_grounding.screens.pictures import open_screenshot
from gui_grounding.training.recipe import Recipe, Start

CELLS = 500  # at most: the largest pages have 7,296


def split(data: Path, out: Path) -> None:
    """Every fourth page of both sets is held out, with all of its items."""
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for folder in ("miniwob", "chromium_ui"):
        items = json.loads((data / folder / "annotations.json").read_text())
        pages = sorted({item["img_filename"] for item in items})
        held_out = set(pages[::4])
        for item in items:
            part = "test" if item["img_filename"] in held_out else "train"
            name = f"{folder}/images/{item['img_filename']}"
            parts[part].append(item | {"img_filename": name, "id": f"{folder}/{item['id']}", "application": folder})
    for part, items in parts.items():
        (out / f"{part}.json").write_text(json.dumps(items))


def real(args: Namespace) -> list[dict[str, str]]:
    if args.data is None:
        return [{"what": "needs --data DIR with miniwob/ and chromium_ui/"}]
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        split(args.data, out)
        recipe = Recipe(epochs=60, batch=2, questions=6, lr=3e-3, learns="all", share=0)
        start = Start(width=64, layers=1, vision_layers=2, max_pixels=CELLS * 784)
        run = RunOptions(out=out / "run", threads=args.threads)
        model = str(train(out / "train.json", images=args.data, recipe=recipe, start=start, run=run).model)
        rows = []
        for part in ("train", "test"):
            judged = evaluate(out / f"{part}.json", images=args.data, model=model, blind=True, out=out / part)
            for name, slices in judged.table.items():
                entry = slices["all"]
                hit = entry["hit@1"]
                rows.append(
                    {
                        "pages": f"{part}, {entry['screenshots']} pages, {entry['items']} items",
                        "predictor": name,
                        "hit@1": f"{hit['value']:.3f} ({hit['low']:.3f} to {hit['high']:.3f})",
                        "attention in the target": f"{entry['mass']['value']:.3f}",
                        "best cell meets it": f"{entry['overlap']['value']:.3f}",
                    }
                )
    return rows


def confidence(args: Namespace) -> list[dict[str, str]]:
    """What tells a hit from a miss, and a target that is there from one that is not: the demo's model on forty new drawn pages."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        demo(out / "demo")
        grounder = Grounder(load_model(str(out / "demo" / "run" / "model")))
        samples = make_samples(out / "pages", pages=40, seed=77)
        there: list[tuple[Grounding, bool]] = []
        absent: list[Grounding] = []
        for image, items in by_screenshot(read_items(samples.annotations).items).items():
            words = " ".join(item.instruction for item in items)
            others = [f"click the {colour} circle" for colour in COLOURS if colour not in words]
            questions = [item.instruction for item in items]
            groundings = grounder.ground(open_screenshot(Path(image)).image, questions + others)
            for item, grounding in zip(items, groundings, strict=False):
                there.append((grounding, item.targets[0].holds(*grounding.positions[0].normalised)))
            absent += groundings[len(items) :]
    hits = [grounding for grounding, hit in there if hit]
    misses = [grounding for grounding, hit in there if not hit]
    rows = []
    signals = {
        "1 − entropy, which is calibrated": lambda g: 1 - g.entropy,
        "attention in the best region": lambda g: g.confidence,
    }
    for name, signal in signals.items():
        rows.append(
            {
                "by": name,
                f"{len(hits)} hits above {len(misses)} misses": f"{area(hits, misses, signal):.2f}",
                f"{len(there)} there above {len(absent)} absent": f"{area([g for g, _ in there], absent, signal):.2f}",
            }
        )
    return rows


def area(first: list[Grounding], second: list[Grounding], signal: Callable[[Grounding], float]) -> float:
    """Area under the ROC curve: how often one of the first has more of the signal than one of the second."""
    ours, theirs = np.array([signal(g) for g in first]), np.array([signal(g) for g in second])
    return float((ours[:, None] > theirs[None]).mean())


ROWS = {
    "confidence": (confidence, "areas under the ROC curve; 0.5 is chance"),
    "real": (real, "hit@1, attention mass and cell overlap on pages that were held out"),
}
