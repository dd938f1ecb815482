"""Seeded mutations of annotations, training sets, pictures and model folders: an answer or one plain line."""

import copy
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from gui_grounding.items.mixtures import read_training
from gui_grounding.items.reading import read_items
from gui_grounding.model.folder import Prepared, load_model, save_model
from gui_grounding.model.tiny import TinySizes, tiny_model
from gui_grounding.samples import make_samples
from gui_grounding.screens.formats import claim
from gui_grounding.screens.pictures import read_screenshot

ODD = [
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    "",
    "x",
    [],
    {},
    [[]],
    [1, 2, 3, 4],
    ["a"] * 4,
    {"a": 1},
    10**30,
    "\0",
    "../../x.png",
]


def holders(value, into):
    """Every list and object inside a value."""
    if isinstance(value, (list, dict)) and value:
        into.append(value)
        for inner in value.values() if isinstance(value, dict) else value:
            holders(inner, into)
    return into


def mutated(value, rng):
    """One to three entries replaced or removed, anywhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.integers(1, 4)):
        places = holders(value, [])
        if not places:
            return value
        place = places[rng.integers(len(places))]
        key = list(place)[rng.integers(len(place))] if isinstance(place, dict) else int(rng.integers(len(place)))
        if rng.integers(4) == 0:
            del place[key]
        else:
            place[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return value


def bytes_mutated(raw, rng):
    """One to three changed bytes, a piece cut out, or an end cut off."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(raw) + 1))
        kind = rng.integers(3)
        if kind == 0:
            raw = raw[:at] + bytes([rng.integers(256)]) + raw[at + 1 :]
        elif kind == 1:
            raw = raw[:at] + raw[at + int(rng.integers(1, 30)) :]
        elif rng.integers(3) == 0:
            raw = raw[: max(1, at)]
    return raw


def answered_or_one_line(act):
    """Runs it; a `UserError` must be one line."""
    message = ""
    try:
        act()
    except UserError as error:
        message = error.message
    assert "\n" not in message
    assert len(message) < 700


OSWORLD = [
    {"id": "a", "box_type": "polygon", "box_coordinates": [0, 0, 200, 0, 0, 150]},
    {"id": "b", "box_type": "refusal", "box_coordinates": [-1, -1, -1, -1]},
    {"id": "c", "box_type": "bbox", "box_coordinates": [30, 20, 40, 30]},
]
CASES = 400


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("pages"), pages=2)


@pytest.mark.reliability(
    "mutations of annotations and training sets",
    "items, each used or left out for a reason; or one line",
    cases=2 * CASES,
)
def test_annotations(samples):
    rng = np.random.default_rng(0)
    screens = json.loads(samples.annotations.read_text())[:3]
    for record in OSWORLD:
        record |= {"image_path": "page_000.png", "image_size": [224, 168], "instruction": "x", "GUI_types": ["Icon"]}
    training = json.loads(samples.training.read_text())[:2]
    path = samples.folder / "mutated.json"
    for number in range(CASES):
        path.write_text(json.dumps(mutated((screens, OSWORLD)[number % 2], rng)))
        answered_or_one_line(lambda: read_items(path))
        claim(path)
        path.write_text(json.dumps(mutated(training, rng)))
        answered_or_one_line(lambda: read_training(path))


@pytest.mark.reliability("mutations of the bytes of annotations", "items or one line", cases=CASES)
def test_bytes_of_annotations(samples):
    rng = np.random.default_rng(1)
    raw = samples.annotations.read_bytes()
    path = samples.folder / "mutated.json"
    for _ in range(CASES):
        path.write_bytes(bytes_mutated(raw, rng))
        claim(path)
        answered_or_one_line(lambda: read_items(path))


@pytest.mark.reliability("mutations of screenshots (PNG, JPEG, GIF, TIFF)", "a picture or one line", cases=CASES)
def test_screenshots(tmp_path):
    rng = np.random.default_rng(2)
    image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
    raw = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF"):
        out = io.BytesIO()
        image.save(out, kind)
        raw.append(out.getvalue())
    path = tmp_path / "x.png"
    for number in range(CASES):
        content = bytes_mutated(raw[number % 4], rng)
        answered_or_one_line(lambda content=content: read_screenshot(content, "x.png"))
        path.write_bytes(content)
        claim(path)


@pytest.mark.reliability(
    "config.json of a model with fields missing or of another type", "the model or one line", cases=120
)
def test_model_folders(tmp_path):
    rng = np.random.default_rng(3)
    network, tokens = tiny_model(["x"], sizes=TinySizes(width=16, vision_width=16, layers=1, vision_layers=1))
    folder = save_model(network, tokens, tmp_path / "model", prepared=Prepared(), provenance={})
    config = json.loads((folder / "config.json").read_text())
    other = tmp_path / "other"
    for number in range(120):
        shutil.copytree(folder, other, dirs_exist_ok=True)
        part = mutated(config if number % 2 else config["preprocessing"], rng)
        changed = part if number % 2 else config | {"preprocessing": part}
        (other / "config.json").write_text(json.dumps(changed))
        answered_or_one_line(lambda: load_model(str(other)))
