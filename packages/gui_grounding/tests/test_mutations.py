"""Seeded mutations of annotations, training sets, pictures and model folders: an answer or one plain line."""

import json

import numpy as np
import pytest
from mutating import changed, mutate_json, mutated, try_changes, try_mutations
from PIL import Image

from gui_grounding.items.mixtures import read_training
from gui_grounding.items.reading import read_items
from gui_grounding.model.folder import Prepared, load_model, save_model
from gui_grounding.model.tiny import TinySizes, tiny_model
from gui_grounding.samples import make_samples
from gui_grounding.screens.formats import claim
from gui_grounding.screens.pictures import read_screenshot

OSWORLD = [
    {"id": "a", "box_type": "polygon", "box_coordinates": [0, 0, 200, 0, 0, 150]},
    {"id": "b", "box_type": "refusal", "box_coordinates": [-1, -1, -1, -1]},
    {"id": "c", "box_type": "bbox", "box_coordinates": [30, 20, 40, 30]},
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("pages"), pages=2)


@pytest.fixture
def annotations(samples):
    """Annotation files by convention, beside their screenshots."""
    for record in OSWORLD:
        record |= {"image_path": "page_000.png", "image_size": [224, 168], "instruction": "x", "GUI_types": ["Icon"]}
    records = {
        "screenspot": (json.loads(samples.annotations.read_text())[:3], read_items),
        "osworld": (OSWORLD, read_items),
        "training": (json.loads(samples.training.read_text())[:2], read_training),
    }

    def write(name):
        path = samples.folder / f"mutated_{name}.json"
        path.write_text(json.dumps(records[name][0]))
        read = records[name][1]
        return path, lambda: (claim(path), read(path))

    return write


@mutated(
    "mutations of annotations and training sets", "items, each used or left out for a reason; or one line", quick=150
)
@pytest.mark.parametrize("name", ["screenspot", "osworld", "training"])
def test_values_of_annotations(annotations, name, count):
    path, use = annotations(name)
    assert try_mutations(path, use, count, mutate=mutate_json) > 0


@mutated("mutations of the bytes of annotations", "items or one line", quick=150)
@pytest.mark.parametrize("name", ["screenspot", "osworld", "training"])
def test_bytes_of_annotations(annotations, name, count):
    path, use = annotations(name)
    assert try_mutations(path, use, count) > 0


@mutated("mutations of screenshots (PNG, JPEG, GIF, TIFF)", "a picture or one line", quick=100)
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "tiff"])
def test_screenshots(tmp_path, kind, count):
    picture = np.random.default_rng(2).integers(0, 255, (20, 30, 3), np.uint8)
    path = tmp_path / f"x.{kind}"
    Image.fromarray(picture).save(path)
    used = try_mutations(path, lambda: (claim(path), read_screenshot(path.read_bytes(), path.name)), count)
    assert used or kind == "png"  # whose checksums find every change


@pytest.fixture
def model(tmp_path):
    network, tokens = tiny_model(["x"], sizes=TinySizes(width=16, vision_width=16, layers=1, vision_layers=1))
    return save_model(network, tokens, tmp_path / "model", prepared=Prepared(), provenance={})


@mutated("config.json of a model with fields missing or of another type", "the model or one line", quick=60)
def test_configs_of_models(model, count):
    try_mutations(model / "config.json", lambda: load_model(str(model)), count, mutate=mutate_json)


@changed(100)
def test_no_change_of_a_model_goes_unsaid(model, capsys, changes):
    try_changes(model / "config.json", lambda: load_model(str(model)), capsys, changes)
