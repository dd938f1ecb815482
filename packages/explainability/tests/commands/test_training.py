"""Recipes as files, schedules, the test part for choosing, and adapters without their backbone."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from explainability.commands.recipes import recipes
from explainability.commands.train import drop_paths, train
from explainability.models.loading import load_network
from explainability.models.network import Network, NetworkConfig
from explainability.training.data import split
from explainability.training.module import rate
from explainability.training.recipe import Recipe
from explainability.vit.backbone import build_backbone


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, low in (("dark", 0), ("bright", 150)):
            for number in range(4):
                place = folder / part / label / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(low, low + 100, (16, 16, 3), dtype=np.uint8)).save(place)
    return folder


SMALL = {"image_size": 16, "width": 16, "depth": 2, "heads": 2, "epochs": 1, "batch_size": 8, "prompts": 3, "taken": 2}


def test_every_recipe_is_a_recipe(tmp_path):
    listed = recipes().recipes
    assert {name.partition("-")[0] for name in listed} == {"promptcam", "tcpa", "sat"}
    for name in listed:
        content = yaml.safe_load(recipes(name, out=tmp_path / f"{name}.yaml").written.read_text())
        seed = content.pop("seed")
        assert seed in (6, 42, 3407)
        assert Recipe(**content).backbone
    with pytest.raises(UserError, match="no recipe 'x'"):
        recipes("x")
    with pytest.raises(UserError, match="already there"):
        recipes("sat-cub", out=tmp_path / "sat-cub.yaml")


def test_warm_up_and_cosine():
    recipe = Recipe(epochs=12, warmup=2, schedule="cosine", lr=0.1, lr_min=0.001)
    rates = [rate(recipe, epoch) for epoch in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx((1 + 0.01) / 2)
    assert rates[12] == pytest.approx(0.01)
    assert rate(Recipe(warmup=4), 9) == 1


def test_an_epoch_may_be_chosen_on_the_test_pictures(shapes, tmp_path):
    _, _, validation = split(shapes, 0)
    assert all("train" in file.parts for file in validation.files)
    _, _, chosen_on = split(shapes, 0, select="test")
    assert all("test" in file.parts for file in chosen_on.files)
    with pytest.raises(UserError, match="has no folder test"):
        split(shapes / "train", 0, select="test")


def test_stochastic_depth_grows_to_the_last_block():
    backbone = build_backbone({"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 3, "num_heads": 2})
    drop_paths(backbone, 0.2)
    assert [block.drop_path1.drop_prob for block in backbone.blocks] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("method", ["prompt-cam", "tcpa"])
def test_an_adapter_is_the_model_without_its_backbone(shapes, tmp_path, method):
    plain = train(shapes, recipe=Recipe(**SMALL), run=RunOptions(out=tmp_path / "plain")).model
    recipe = Recipe(
        method=method,
        start=str(plain),
        adapter=True,
        optimiser="sgd",
        warmup=1,
        random_epochs=1,
        drop_path=0.1,
        **SMALL,
    )
    whole = load_network(str(train(shapes, recipe=recipe, run=RunOptions(out=tmp_path / "run")).model))
    adapter = tmp_path / "run" / "adapter"
    assert not any("backbone." in name for name in json.loads((adapter / "adapter.json").read_text()))
    assert (
        sum(f.stat().st_size for f in adapter.iterdir())
        < (tmp_path / "run" / "model" / "model.safetensors").stat().st_size
    )
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_network(str(adapter)).eval()(x), whole.eval()(x))
    other = train(shapes, recipe=Recipe(**SMALL), run=RunOptions(out=tmp_path / "other", seed=5)).model
    described = json.loads((adapter / "adapter.json").read_text())
    (adapter / "adapter.json").write_text(json.dumps(described | {"base": str(other)}))
    with pytest.raises(UserError, match="not the one that it was trained with"):
        load_network(str(adapter))
    (adapter / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="damaged adapter"):
        load_network(str(adapter))
    shutil.rmtree(adapter)


def test_what_is_refused(shapes, tmp_path):
    for values, match in (
        ({"adapter": True}, "trains its backbone too"),
        ({"method": "tcpa", "prompts": 2, "taken": 3}, "--taken 3 of --prompts 2"),
        ({"method": "prompt-cam", "adapter": True}, "needs a backbone that can be loaded again"),
    ):
        with pytest.raises(UserError, match=match):
            train(shapes, recipe=Recipe(**{**SMALL, **values}), run=RunOptions(out=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_a_network_on_a_backbone_by_name():
    config = NetworkConfig(classes=("a", "b"), backbone="vit_tiny_patch16_224", image_size=32)
    assert Network(config)(torch.randn(1, 3, 32, 32)).shape == (1, 2)
