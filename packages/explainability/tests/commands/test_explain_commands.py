import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from explainability.commands.evaluate import evaluate
from explainability.commands.explain import MapOptions, explain
from explainability.commands.inspect import inspect
from explainability.commands.locate import locate
from explainability.commands.models import check, convert
from explainability.commands.train import train
from explainability.commands.traits import traits
from explainability.commands.words import words
from explainability.models.network import Network, NetworkConfig
from explainability.training.recipe import Recipe


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Four small pictures of each of two classes, by part."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label, low in (("dark", 0), ("bright", 150)):
            for number in range(4):
                place = folder / part / label / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(low, low + 100, (20, 30, 3), dtype=np.uint8)).save(place)
    return folder


SMALL = {"image_size": 32, "width": 16, "depth": 2, "heads": 2, "epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """A trained model of every method; the frozen ones start from the plain one."""
    out = tmp_path_factory.mktemp("runs")
    made = {}
    for method in ("plain", "prompt-cam", "tcpa", "sat"):
        start = str(made["plain"]) if method in ("prompt-cam", "tcpa") else ""
        recipe = Recipe(method=method, start=start, **SMALL)
        made[method] = train(shapes, recipe=recipe, run=RunOptions(out=out / method)).model
    return made


@pytest.mark.parametrize("method", ["plain", "prompt-cam", "tcpa", "sat"])
def test_trained_models_are_explained(runs, shapes, tmp_path, method):
    picture = shapes / "val" / "dark" / "0.png"
    maps = MapOptions(method=("gradcam", "ig", "own"), steps=3, target="dark")
    result = explain(picture, model=str(runs[method]), maps=maps, out=tmp_path)
    assert result.code == 0, result.failed
    (made,) = result.explanations
    assert made["target_name"] == "dark"
    assert set(made["methods"]) | set(made["refused"]) == {"gradcam", "ig", "own", "random"}
    assert ("own" in made["methods"]) == (method != "plain"), made["refused"]
    folder = tmp_path / "0"
    assert {file.name for file in folder.iterdir()} == {"maps.npz", "maps.png", "report.html", "explanation.json"}
    assert np.load(folder / "maps.npz")["ig_upsampled"].shape == (32, 32)
    again = explain(picture, model=str(runs[method]), maps=maps, out=tmp_path)
    assert [attempt.status for attempt in again.attempts] == ["already done"]


def test_frozen_backbones_stay_those_they_started_from(runs):
    from core_attention.checkpoints.folders import load_model

    plain, prompts = (load_model(runs[name], Network) for name in ("plain", "prompt-cam"))
    for name, tensor in prompts.model.backbone.state_dict().items():
        assert torch.equal(tensor, plain.model.state_dict()[name]), name


def test_evaluation_with_masks(runs, shapes, tmp_path):
    for file in sorted((shapes / "val").rglob("*.png")):
        place = tmp_path / "masks" / file.relative_to(shapes / "val")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30), 255, np.uint8)).save(place)
    maps = MapOptions(method=("gradcam",), steps=2, randomisation=False)
    result = evaluate(
        shapes / "val", model=str(runs["plain"]), masks=tmp_path / "masks", maps=maps, out=tmp_path / "evaluation"
    )
    assert result.pictures == 8
    assert set(result.methods) == {"gradcam", "random"}
    assert result.methods["random"]["energy_in_mask"][0] == pytest.approx(1)
    with pytest.raises(UserError, match="already holds an evaluation"):
        evaluate(shapes / "val", model=str(runs["plain"]), out=tmp_path / "evaluation")
    with pytest.raises(UserError, match="8 pictures have no mask"):
        evaluate(shapes / "val", model=str(runs["plain"]), masks=tmp_path, maps=maps, out=tmp_path / "other")


def test_pictures_of_training_are_told_apart(runs, shapes, tmp_path, capsys):
    maps = MapOptions(method=("gradcam",), steps=2, randomisation=False)
    how = {"model": str(runs["plain"]), "maps": maps}
    known = evaluate(shapes / "train", out=tmp_path / "known", **how)
    assert (known.pictures, known.seen) == (8, 8)
    list(known.lines())
    assert "Not a test of the model" in capsys.readouterr().err
    shutil.copytree(shapes / "train", tmp_path / "mixed")
    for label, low in (("dark", 0), ("bright", 150)):
        Image.fromarray(np.full((20, 30, 3), low + 50, np.uint8)).save(tmp_path / "mixed" / label / "new.png")
    mixed = evaluate(tmp_path / "mixed", out=tmp_path / "evaluation", **how)
    assert (mixed.pictures, mixed.seen) == (2, 8)
    assert next(iter(mixed.lines())).startswith("left out: 8 pictures")


def test_results_among_the_pictures_are_not_explained_again(runs, shapes, tmp_path):
    shutil.copy(shapes / "val" / "dark" / "0.png", tmp_path / "a.png")
    how = {"model": str(runs["plain"]), "maps": MapOptions(method=("gradcam",), steps=2, randomisation=False)}
    explain(tmp_path, out=tmp_path, **how)
    again = explain(tmp_path, out=tmp_path, **how)
    assert [attempt.status for attempt in again.attempts] == ["already done"]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_pictures_of_every_kind(runs, tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 256)
    else:
        image = image.convert(mode)
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path)
    maps = MapOptions(method=("gradcam",), steps=1, randomisation=False)
    assert explain(path, model=str(runs["plain"]), maps=maps, out=tmp_path / "out").code == 0


def test_a_folder_with_one_damaged_picture(runs, shapes, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "good <b>.png").write_bytes((shapes / "val" / "dark" / "0.png").read_bytes())
    (folder / "bad.png").write_bytes(b"\x89PNG not a picture")
    maps = MapOptions(method=("gradcam",), steps=1, randomisation=False)
    result = explain(folder, model=str(runs["plain"]), maps=maps, out=tmp_path / "out")
    assert result.code == 1
    assert list(result.failed) == ["bad.png"]
    report = next((tmp_path / "out").rglob("report.html")).read_text()
    assert "good &lt;b&gt;.png" in report


def test_what_is_refused(runs, shapes, tmp_path):
    picture = shapes / "val" / "dark" / "0.png"
    with pytest.raises(UserError, match="no such method"):
        MapOptions(method=("magic",))
    for target, message in (("9", "no such class"), ("green", "no such class")):
        result = pytest.raises(UserError, match=message)
        with result:
            explain(picture, model=str(runs["plain"]), maps=MapOptions(target=target), out=tmp_path / "a")
    with pytest.raises(UserError, match="timm has no model"):
        explain(picture, model="timm:nosuchmodel", out=tmp_path / "b")
    with pytest.raises(UserError, match="torchvision has no model"):
        explain(picture, model="torchvision:nosuchmodel", out=tmp_path / "b")
    assert not list(tmp_path.rglob("report.html"))


def test_folders_of_classes(shapes, tmp_path):
    findings = inspect(shapes)
    assert findings.details["train"] == {"bright": 4, "dark": 4}
    one = tmp_path / "few"
    for part, source in (("train", "train"), ("test", "train")):
        for label in ("dark", "bright"):
            place = one / part / label
            place.mkdir(parents=True)
            (place / "0.png").write_bytes((shapes / source / label / "0.png").read_bytes())
    warnings = " ".join(inspect(one).warnings)
    assert "one picture only of bright, dark" in warnings
    assert "2 pictures are both in train and in test" in warnings
    (one / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in class empty"):
        train(one, recipe=Recipe(**SMALL), run=RunOptions(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_official_checkpoints_become_model_folders(tmp_path):
    sizes = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 3, "heads": 2}
    for method, names in (
        ("prompt-cam", {"prompts": "vpt.prompt_embeddings"}),
        ("sat", {"smoothing": "weight"}),
    ):
        torch.manual_seed(0)
        network = Network(NetworkConfig(classes=("0", "1", "2"), kind=method, **sizes)).eval()
        official = {}
        for name, tensor in network.model.state_dict().items():
            official["module." + names.get(name, name.removeprefix("backbone."))] = tensor
        path = tmp_path / f"{method}.pth"
        torch.save({"model": official} if method == "sat" else {"model_state_dict": official}, path)
        convert(path, method=method, heads=2, out=tmp_path / method)
        from explainability.models.loading import load_network

        x = torch.randn(1, 3, 16, 16)
        assert torch.equal(load_network(str(tmp_path / method))(x), network(x))
        assert check(str(tmp_path / method)).facts()["classes"] == 3
        with pytest.raises(UserError, match="does not divide into 5 heads"):
            convert(path, method=method, heads=5, out=tmp_path / "none")


def test_words_of_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    line = {
        "tokens": ["a", "very", "good", "film", "indeed", "now"],
        "attributions": [0, 0.5, 1, 0.4, 0.1, -0.2],
        "label": "positive",
    }
    path.write_text(json.dumps(line) + "\n\n" + json.dumps(line))
    result = words(path)
    assert len(result.texts) == 2
    assert "positive" in result.texts[0]["text"]
    path.write_text('{"tokens": ["a"]}')
    with pytest.raises(UserError, match="line 1: not usable"):
        words(path)


def test_pictures_whose_names_differ_by_a_dot(runs, shapes, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.b.png", "a_b.png", "a.b.jpg"):
        Image.open(shapes / "val" / "dark" / "0.png").save(folder / name)
    maps = MapOptions(method=("rollout",), steps=1, randomisation=False)
    result = explain(folder, model=str(runs["plain"]), maps=maps, out=tmp_path / "out")
    assert len(result.explanations) == 3


def test_traits_of_prompt_cam(runs, shapes, tmp_path):
    picture = shapes / "val" / "dark" / "0.png"
    result = traits(picture, model=str(runs["prompt-cam"]), heads=1, out=tmp_path)
    (made,) = result.pictures
    assert sorted(made["order"]) == [0, 1]
    assert made["most_important"] == [made["order"][-1]]
    assert made["kept"] == made["probabilities"][0]
    assert {file.name for file in (tmp_path / "0").iterdir()} == {"traits.json", "traits.npz", "traits.png"}
    with pytest.raises(UserError, match="has no class prompts"):
        traits(picture, model=str(runs["plain"]), out=tmp_path / "other")
    with pytest.raises(UserError, match="no such class"):
        traits(picture, model=str(runs["prompt-cam"]), target="zebra", out=tmp_path / "other")


def test_locate_with_masks_and_boxes(runs, shapes, tmp_path):
    folder = tmp_path / "pictures"
    images, annotations = [], []
    for number in range(2):
        place = folder / "dark" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((shapes / "val" / "dark" / f"{number}.png").read_bytes())
        mask = np.zeros((20, 30), np.uint8)
        mask[5:15, 4:20] = 255
        drawn = tmp_path / "masks" / "dark" / f"{number}.png"
        drawn.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(drawn)
        images.append({"id": number, "file_name": f"dark/{number}.png", "width": 30, "height": 20})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [4, 5, 16, 10]})
    result = locate(folder, model=str(runs["sat"]), masks=tmp_path / "masks", out=tmp_path / "a")
    assert result.method == "own"
    assert result.judged == 2
    assert 0 <= result.measures.pxap <= 1
    coco = tmp_path / "boxes.json"
    described = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    coco.write_text(json.dumps(described))
    same = locate(folder, model=str(runs["sat"]), boxes=coco, out=tmp_path / "b")
    assert same.measures.pxap is None
    assert same.measures.max_box_acc == result.measures.max_box_acc
    assert same.measures.gt_known == result.measures.gt_known
    assert len(list((tmp_path / "b" / "pictures").iterdir())) == 2
    with pytest.raises(UserError, match="already there"):
        locate(folder, model=str(runs["sat"]), out=tmp_path / "b")
    with pytest.raises(UserError, match="no map of its own"):
        locate(folder, model=str(runs["plain"]), method="own", out=tmp_path / "c")
    assert not (tmp_path / "c").exists()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "masks" / "dark" / "1.png")
    with pytest.raises(UserError, match="all black"):
        locate(folder, model=str(runs["sat"]), masks=tmp_path / "masks", out=tmp_path / "c")
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "masks" / "dark" / "1.png")
    with pytest.raises(UserError, match="is 9 × 9 pixels, its picture 30 × 20"):
        locate(folder, model=str(runs["sat"]), masks=tmp_path / "masks", out=tmp_path / "c")
