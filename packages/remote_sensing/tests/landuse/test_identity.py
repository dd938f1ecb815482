"""What a run, a model and an evaluation were made from: options, tiles, epochs."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file as save_weights

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from remote_sensing.landuse.cohort import Split, classes_in_words, copies_in_words
from remote_sensing.landuse.commands.evaluate import EvaluationOptions, evaluate
from remote_sensing.landuse.commands.predict import Work, _scene_item, _tiles_item
from remote_sensing.landuse.commands.train import train
from remote_sensing.landuse.model.folder import load_model
from remote_sensing.landuse.model.networks import build_network
from remote_sensing.landuse.model.sizes import NetworkOptions
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.scenes.layouts import TileOptions
from remote_sensing.landuse.scenes.store import decode
from remote_sensing.landuse.training.module import LandUseTraining
from remote_sensing.landuse.training.recipe import Recipe

SMALL = NetworkOptions(width=8, depths=(1,))


def test_the_models_own_test_tiles_are_judged_whatever_the_seed(samples, trained, tmp_path):
    split = trained.values["split"]
    judged = evaluate(samples, model=str(trained.model), out=tmp_path / "a", seed=7)
    assert judged.metrics.tiles == split["test"]
    assert judged.metrics.accuracy == pytest.approx(trained.values["test"]["accuracy"])
    assert "None of these" in judged.origin
    validation = evaluate(samples, model=str(trained.model), out=tmp_path / "b", options=EvaluationOptions(part="val"))
    assert "selected the model's epoch" in validation.origin


@pytest.mark.reliability("a model judged on its training material", "refused, or told apart", cases=3)
def test_training_tiles_are_refused_as_test_tiles_under_any_name(samples, trained, tmp_path):
    """Tiles are known by their pixels: another folder, other file names and another split do not hide them."""
    copy = tmp_path / "copy"
    shutil.copytree(samples / "EuroSAT_RGB", copy)
    for file in sorted(copy.rglob("*.jpg")):
        file.rename(file.with_name(f"other_{file.name}"))
    for listing in copy.glob("*.csv"):
        listing.unlink()
    options = TileOptions(split="stratified")
    with pytest.raises(UserError, match="the model was trained on"):
        evaluate(copy, model=str(trained.model), out=tmp_path / "a", tiles=options)
    assert not (tmp_path / "a").exists()
    own = evaluate(copy, model=str(trained.model), out=tmp_path / "b")
    assert own.metrics.tiles == trained.values["split"]["test"]
    on_training = evaluate(copy, model=str(trained.model), out=tmp_path / "c", options=EvaluationOptions(part="train"))
    assert "too good" in on_training.origin
    assert on_training.facts()["origin"] == on_training.origin


OTHER_VALUES = {
    "network": "cbam",
    "width": 16,
    "depths": (2,),
    "drop": 0.5,
    "epochs": 3,
    "lr": 0.01,
    "weight_decay": 0.5,
    "batch": 8,
    "schedule": "cosine",
    "patience": 3,
    "class_weights": "none",
    "augment": False,
    "kind": "rgb",
    "split": "stratified",
    "bands": ("B02", "B03"),
    "precision": "64-true",
    "seed": 3,
    "workers": 1,
}


@pytest.fixture(scope="module")
def run_folder(samples, tmp_path_factory):
    """A run of one epoch on 13-band tiles."""
    out = tmp_path_factory.mktemp("resumed") / "run"
    train(samples, run=RunOptions(out=out), **arguments())
    return out


def arguments(**changed):
    """The options of the run, some changed by name."""
    groups = {
        "network": SMALL,
        "recipe": Recipe(epochs=1, batch=16, patience=0),
        "tiles": TileOptions(split="100", kind="ms"),
    }
    for name, group in groups.items():
        own = {field.name: changed.pop(field.name) for field in dataclasses.fields(group) if field.name in changed}
        groups[name] = dataclasses.replace(group, **own)
    return {**groups, "bands": changed.pop("bands", ("B04", "B08")), **changed}


@pytest.mark.reliability("a run resumed with another option", "refused, the option named")
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_run_is_resumed_only_with_its_own_options(samples, run_folder, name):
    value = OTHER_VALUES[name]
    run = {"out": run_folder, "resume": True}
    if name in ("precision", "seed", "workers"):
        run[name] = value
        changed = arguments()
    elif name == "kind":  # RGB tiles have no bands to choose from
        changed = arguments(kind=value, bands=None)
    else:
        changed = arguments(**{name: value})
    with pytest.raises(UserError, match=rf"other values of .*\b{name}\b"):
        train(samples, run=RunOptions(**run), **changed)


def test_a_run_is_not_resumed_from_other_weights_of_the_same_name(samples, stop_at_training, tmp_path):
    weights, out = tmp_path / "resnet18.safetensors", tmp_path / "run"
    network = build_network("resnet18", classes=10, bands=3, tile_size=64)

    def begin(**options):
        train(samples, network=NetworkOptions(network="resnet18"), weights=weights, run=RunOptions(out=out, **options))

    save_weights(network.net.state_dict(), weights)
    with pytest.raises(UserError, match="would begin here"):
        begin()
    with pytest.raises(UserError, match="would begin here"):
        begin(resume=True)
    with pytest.raises(UserError, match=r"other values of .*\bweights\b"):
        train(samples, network=NetworkOptions(network="resnet18"), run=RunOptions(out=out, resume=True))
    torch.nn.init.zeros_(network.net.conv1.weight)
    save_weights(network.net.state_dict(), weights)
    with pytest.raises(UserError, match="the data have changed since the run began"):
        begin(resume=True)


def test_a_run_is_not_resumed_with_another_split_of_the_same_name(samples, stop_at_training, tmp_path):
    tiles, out = tmp_path / "tiles", tmp_path / "run"
    shutil.copytree(samples / "EuroSAT_RGB", tiles)
    names = {part: (tiles / f"{part}.csv").read_text().splitlines() for part in ("train", "validation", "test")}

    def begin(**options):
        train(tiles, network=SMALL, tiles=TileOptions(split="csv"), run=RunOptions(out=out, **options))

    with pytest.raises(UserError, match="would begin here"):
        begin()
    names["validation"][1], names["test"][1] = names["test"][1], names["validation"][1]
    for part, rows in names.items():
        (tiles / f"{part}.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match="the data have changed since the run began"):
        begin(resume=True)


OTHER_WAYS = {"bands": ("B02", "B03"), "stride": 8, "tta": True, "quantification": 200.0}
NOT_OF = {_scene_item: "tta", _tiles_item: "stride"}  # what changes nothing there
NEVER = {"batch", "any_resolution"}


@pytest.mark.parametrize("item_of", NOT_OF)
def test_every_option_of_a_prediction_is_in_its_key(tmp_path, item_of):
    assert {field.name for field in dataclasses.fields(PredictionOptions)} == OTHER_WAYS.keys() | NEVER
    file = tmp_path / "scene.tif"
    file.write_bytes(b"a scene")

    def key_of(made_by=None, **options):
        work = Work([file], tmp_path, "model", "cpu", PredictionOptions(**options))
        return item_of(work, made_by or {}, tmp_path / "out").key

    plain = key_of()
    for name, value in OTHER_WAYS.items():
        assert (key_of(**{name: value}) == plain) == (name == NOT_OF[item_of]), name
    assert key_of(made_by={"sha256": 1}) != plain
    file.write_bytes(b"another scene")
    assert key_of() != plain


def test_every_option_that_results_depend_on_is_recorded(run_folder):
    recorded = yaml.safe_load((run_folder / "config.yaml").read_text())["arguments"]
    assert {*OTHER_VALUES, "data", "weights"} <= set(recorded)
    assert None not in [recorded[field.name] for field in dataclasses.fields(Recipe)], "as published is spelled out"


def test_changed_pixels_are_other_data(samples, tmp_path):
    from PIL import Image

    data = tmp_path / "data"
    shutil.copytree(samples / "EuroSAT_RGB", data)
    options = {"network": SMALL, "recipe": Recipe(epochs=1, batch=16, patience=0)}
    train(data, run=RunOptions(out=tmp_path / "run"), **options)
    file = next(data.rglob("*.jpg"))
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    with pytest.raises(UserError, match="data have changed"):
        train(data, run=RunOptions(out=tmp_path / "run", resume=True), **options)


def test_augmentation_and_dropout_differ_between_epochs_and_repeat_under_a_seed(samples, tmp_path, monkeypatch):
    step = LandUseTraining.training_step
    sums = []

    def remember(self, batch, index):
        # the first convolution sees augmented tiles, the last layer features after dropout; sums do not depend on the order
        inputs = []
        stem, last = self.model.stem[0], self.model.fc
        hooks = [layer.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for layer in (stem, last)]
        loss = step(self, batch, index)
        for hook in hooks:
            hook.remove()
        sums.append((inputs[0].double().sum().item(), (inputs[1] == 0).sum().item()))
        return loss

    monkeypatch.setattr(LandUseTraining, "training_step", remember)
    options = {"network": SMALL, "recipe": Recipe(epochs=2, batch=512, patience=0), "tiles": TileOptions(split="100")}
    for name in ("a", "b"):
        train(samples, run=RunOptions(out=tmp_path / name), **options)
    first, second = sums[:2]
    assert first[0] != pytest.approx(second[0], rel=1e-6), "the augmentation is another one"
    assert first[1] != second[1], "the dropout is another one"
    assert sums[2:] == sums[:2], "the same seed draws the same"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preprocessing.classes", None),
        ("preprocessing.classes", ["a"]),
        ("preprocessing.classes", "abc"),
        ("preprocessing.tile_size", "64"),
        ("preprocessing.tile_size", -1),
        ("preprocessing.pixel_size", "ten"),
        ("preprocessing.input.scale", None),
        ("preprocessing.input.bands", ["R", "G"]),
        ("preprocessing.input.bands", ["B01", "B77", "B03"]),
        ("preprocessing.input.mean", [1, 2]),
        ("preprocessing.input.std", [0, 1, 1]),
        ("preprocessing.input", 3),
        ("provenance", []),
        ("provenance.tiles", {"train": "abc", "val": "", "test": ""}),
        ("class", 5),
        ("config", None),
    ],
)
@pytest.mark.reliability("config.json with a field missing or of another type", "one line that names the field")
def test_fields_of_a_model_folder_are_checked(trained, samples, tmp_path, field, value):
    folder = tmp_path / "model"
    shutil.copytree(trained.model, folder)
    described = json.loads((folder / "config.json").read_text())
    *outer, last = field.split(".")
    place = described
    for part in outer:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"config\.json|config|describes no model") as error:
        evaluate(samples, model=str(folder), out=tmp_path / "evaluation")
    assert len(str(error.value).splitlines()) == 1


def test_digests_of_tiles_are_of_their_pixels(trained):
    provenance = load_model(trained.model).provenance
    lengths = {part: len(text) // 16 for part, text in provenance["tiles"].items()}
    assert lengths == {part: trained.values["split"][part] for part in ("train", "val", "test")}
    assert torch.is_tensor(load_model(trained.model)(torch.zeros(1, 3, 64, 64)))


@pytest.mark.reliability("copies of a tile in two parts or classes; classes spelled in two ways", "said", cases=3)
def test_copies_of_tiles_are_said():
    split = Split("drawn", (0, 1, 2), (3,), (4, 5))
    words = list(copies_in_words(["a", "b", "c", "a", "d", "e"], [0, 0, 1, 1, 0, 1], split))
    assert words[0].startswith("1 tiles are there under two classes")
    assert words[1].startswith("1 of 1 validation tiles have the same pixels as a training tile")
    assert len(words) == 2
    assert not list(copies_in_words("abcdef", [0] * 6, split))
    assert "'Forest' and 'forest ' count as 2 classes" in next(classes_in_words(("Forest", "River", "forest ")))


@pytest.mark.reliability("pictures of 16 bits as tiles", "refused", cases=1)
def test_tiles_of_16_bits_are_refused():
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64), 3000, np.uint16)).save(file, "PNG")
    with pytest.raises(UserError, match="more than 8 bits"):
        decode("a.png", file.getvalue())


@pytest.mark.reliability("tiles with transparent pixels or pixels without data", "refused, with their share")
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_tiles_without_data_in_some_pixels_are_refused(tmp_path, ending):
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:16] = 0  # black, but transparent
    path = tmp_path / f"cut{ending}"
    Image.fromarray(pixels, "RGBA").save(path)
    with pytest.raises(UserError, match=r"cut.*25\.00% of its pixels hold no data"):
        decode(path.name, path.read_bytes())
    pixels[..., 3] = 255
    Image.fromarray(pixels, "RGBA").save(path)
    assert decode(path.name, path.read_bytes()).shape[1:] == (64, 64)
