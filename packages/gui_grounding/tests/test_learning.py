"""Small models with random weights learn what they should: eight real items by heart, and drawn pages that they have not seen."""

import json
from pathlib import Path

import pytest
import torch

from core_runtime.options import RunOptions
from gui_grounding.commands.demo import demo
from gui_grounding.commands.train import train
from gui_grounding.items.mixtures import read_training
from gui_grounding.model.folder import load_model
from gui_grounding.model.inference import Grounder
from gui_grounding.screens.pictures import open_screenshot
from gui_grounding.training.recipe import Recipe, Start

SHARED = next(
    (parent / "shared" for parent in Path(__file__).parents if (parent / "shared" / "data" / "v2p").is_dir()), None
)
pytestmark = pytest.mark.slow


@pytest.mark.skipif(SHARED is None, reason="needs shared/data/v2p beside the repository")
def test_eight_real_items_are_learned_by_heart(tmp_path):
    """The cell of the highest attention meets the box of all eight MiniWoB++ items, each of another page."""
    folder = SHARED / "data" / "v2p" / "miniwob"
    first = {}
    for item in json.loads((folder / "annotations.json").read_text()):
        first.setdefault(item["img_filename"], item)
    items = [first[name] for name in sorted(first)][::2]
    assert len(items) == 8
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items))
    recipe = Recipe(epochs=50, batch=1, lr=7e-4, learns="all", share=0, labels="all", warm_up=0.05)
    start = Start(width=64, layers=2, vision_layers=2, max_pixels=180 * 784)
    torch.set_num_threads(1)
    trained = train(path, images=folder / "images", recipe=recipe, start=start, run=RunOptions(out=tmp_path / "run"))
    grounder = Grounder(load_model(str(trained.model)))
    hits = 0
    for example in read_training(path, images=folder / "images").examples:
        image = open_screenshot(example.image).image
        for question in example.questions:
            scores = grounder.ground(image, [question.instruction])[0].scores[0]
            row, column = divmod(int(scores.argmax()), scores.shape[1])
            (x1, y1, x2, y2), (rows, columns) = question.boxes[0][0], scores.shape
            across = column / columns < x2 and (column + 1) / columns > x1
            hits += across and row / rows < y2 and (row + 1) / rows > y1
    assert hits == 8


def test_drawn_pages_that_it_has_not_seen_are_grounded_by_their_words(tmp_path):
    metrics = demo(tmp_path / "demo").metrics
    assert metrics["hit"] > 2 * metrics["hit_text_blind"]
    assert metrics["hit"] > metrics["hit_centre"] + 0.3
