"""`maps train`: what a run was made from, what differs between its epochs, and which epoch it keeps."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from core_runtime.errors import UserError
from remote_sensing.maps.commands.train import train
from remote_sensing.maps.model.folder import load
from remote_sensing.maps.sheets.options import LabelOptions, SheetOptions
from remote_sensing.maps.training.module import MapTraining
from remote_sensing.maps.training.recipe import MapRunOptions, NetworkOptions, Recipe, TrainingData

GROUPS = {
    "examples": TrainingData(),
    "labels": LabelOptions(),
    "sheet": SheetOptions(),
    "network": NetworkOptions(variant="tiny", image_size=32),
    "recipe": Recipe(epochs=1, batch=4),
}
OTHER_VALUES = {
    "side": 100,
    "shots": 3,
    "class_column": "kind",
    "line_width": "9px",
    "labels_crs": "EPSG:4326",
    "stretch": "dtype",
    "crs": "EPSG:4326",
    "image_size": 48,
    "rank": 2,
    "masked_attention": "standard",
    "channel_order": "bgr",
    "normalise": True,
    "init_mask_token": "sam0",
    "epochs": 2,
    "lr": 0.1,
    "weight_decay": 0.5,
    "batch": 2,
    "warmup": 7,
    "augment": False,
    "legacy": True,
}
OTHER_RUN_VALUES = {"seed": 5, "precision": "64-true", "workers": 1}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Four tiles of 32 pixels to train on and four to validate, with a dark bar as the feature."""
    root = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for folder in (root / part, root / "annotation" / part):
            folder.mkdir(parents=True)
        for number in range(4):
            image = rng.integers(150, 250, (32, 32, 3)).astype(np.uint8)
            label = np.zeros((32, 32), np.uint8)
            label[6 * number : 6 * number + 5] = 255
            image[label > 0] //= 4
            Image.fromarray(image).save(root / part / f"{number}.png")
            Image.fromarray(label).save(root / "annotation" / part / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run_folder(tiles, tmp_path_factory):
    """A run of one epoch."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(tiles, run=MapRunOptions(out=out), **GROUPS)
    return out


@pytest.mark.reliability("a run of maps resumed with another option", "refused, the option named")
@pytest.mark.parametrize("name", [*OTHER_VALUES, *OTHER_RUN_VALUES])
def test_a_run_is_resumed_only_with_its_own_options(tiles, run_folder, name):
    groups = dict(GROUPS)
    for group, values in GROUPS.items():
        if name in OTHER_VALUES and hasattr(values, name):
            groups[group] = dataclasses.replace(values, **{name: OTHER_VALUES[name]})
    changed = {name: OTHER_RUN_VALUES[name]} if name in OTHER_RUN_VALUES else {}
    with pytest.raises(UserError, match=rf"other values of .*\b{name}\b"):
        train(tiles, run=MapRunOptions(out=run_folder, resume=True, **changed), **groups)


def test_every_option_is_recorded(run_folder):
    recorded = yaml.safe_load((run_folder / "config.yaml").read_text())["arguments"]
    declared = {field.name for group in GROUPS.values() for field in dataclasses.fields(group)}
    assert declared | {"data", "seed", "precision", "workers"} <= set(recorded)


def test_a_changed_label_is_other_data(tiles, run_folder):
    file = tiles / "annotation" / "train" / "0.png"
    before = file.read_bytes()
    label = np.asarray(Image.open(file)).copy()
    label[-1] = 255
    Image.fromarray(label).save(file)
    try:
        with pytest.raises(UserError, match="data have changed"):
            train(tiles, run=MapRunOptions(out=run_folder, resume=True), **GROUPS)
    finally:
        file.write_bytes(before)


def test_tiles_are_augmented_anew_in_every_epoch_and_alike_under_a_seed(tiles, tmp_path, monkeypatch):
    step = MapTraining.training_step
    pictures = []

    def remember(self, batch, index):
        pictures.append(batch["image"].clone())
        return step(self, batch, index)

    monkeypatch.setattr(MapTraining, "training_step", remember)
    groups = GROUPS | {"recipe": Recipe(epochs=3, batch=4)}
    for name in ("a", "b"):
        train(tiles, run=MapRunOptions(out=tmp_path / name), **groups)
    epochs, again = pictures[:3], pictures[3:]
    contents = [sorted(tile.numpy().tobytes() for tile in batch) for batch in epochs]
    assert contents[0] != contents[1] or contents[1] != contents[2], "the augmentation is another one"
    orders = [[tile.sum().item() for tile in batch] for batch in epochs]
    assert orders[0] != orders[1] or orders[1] != orders[2], "the order is another one"
    assert all(torch.equal(a, b) for a, b in zip(epochs, again, strict=True)), "the same seed draws the same"


class Killed(Exception):
    """What a test ends a run with."""


def test_the_best_epoch_outlives_a_kill(tiles, tmp_path, monkeypatch):
    """Of three epochs the first is the best; the run is killed in the third and goes on."""
    scores = {0: 0.9, 1: 0.2, 2: 0.5}
    begin_epoch = MapTraining.on_train_epoch_start

    def score(self):
        self.count(val_iou=scores[self.current_epoch])

    def die_in_the_third_epoch(self):
        if self.current_epoch == 2:
            raise Killed
        begin_epoch(self)

    monkeypatch.setattr(MapTraining, "on_validation_epoch_end", score)
    groups = GROUPS | {"recipe": Recipe(epochs=3, batch=4)}
    with monkeypatch.context() as patched:
        patched.setattr(MapTraining, "on_train_epoch_start", die_in_the_third_epoch)
        with pytest.raises(Killed):
            train(tiles, run=MapRunOptions(out=tmp_path / "killed"), **groups)
    resumed = train(tiles, run=MapRunOptions(out=tmp_path / "killed", resume=True), **groups)
    whole = train(tiles, run=MapRunOptions(out=tmp_path / "whole"), **groups)
    assert resumed.figures["epoch"] == whole.figures["epoch"] == 0
    assert resumed.figures["val_iou"] == 0.9
    assert load(resumed.model).provenance["epoch"] == 0
    losses = [[row["train_loss"] for row in each.history] for each in (resumed, whole)]
    assert losses[0] == pytest.approx(losses[1])
    weights = [load(each.model).network.state_dict() for each in (resumed, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
