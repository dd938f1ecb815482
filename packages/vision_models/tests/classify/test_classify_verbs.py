import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.image_sets import ImageSetOptions, open_images
from core_runtime.options import RunOptions
from vision_models.classify.cohort import SplitOptions, split_images
from vision_models.classify.commands.compare import compare
from vision_models.classify.commands.evaluate import EvaluationOptions, choose_images, evaluate, in_classes_of
from vision_models.classify.commands.inspect import examine
from vision_models.classify.commands.models import check, convert
from vision_models.classify.commands.predict import predict
from vision_models.classify.commands.profile import profile
from vision_models.classify.commands.train import train
from vision_models.classify.metrics import measure
from vision_models.classify.model.attention_maps import attention_maps
from vision_models.classify.model.folder import load_model
from vision_models.classify.samples import CLASSES
from vision_models.classify.training.recipe import Recipe
from vision_models.membership import KnownImages, copies_between_parts, record

from .classify_nets import QUICK, TINY, vit


def test_evaluate_writes_measures_pictures_and_a_page(trained, samples, tmp_path):
    judged = evaluate(samples["folders"], model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert judged.metrics.images == 12
    assert judged.metrics.accuracy == pytest.approx(trained.values["test"]["accuracy"])
    assert judged.origin == "None of these 12 images trained the model or selected its epoch."
    assert "Confusion" in judged.files["report"].read_text()
    with pytest.raises(UserError, match="already holds an evaluation"):
        evaluate(samples["folders"], model=str(trained.model), out=tmp_path / "out", device="cpu")


def test_the_same_images_in_another_container_are_known_by_content(trained, samples, tmp_path):
    how = ImageSetOptions(class_names=CLASSES)
    with pytest.raises(UserError, match=r"its classes \(0, 1, 2, 3, 4, 5\) are not the model's"):
        evaluate(samples["npz"], model=str(trained.model), out=tmp_path / "a", device="cpu")
    judged = evaluate(samples["npz"], model=str(trained.model), out=tmp_path / "b", images=how, device="cpu")
    assert judged.origin == "None of these 12 images trained the model or selected its epoch."
    assert judged.metrics.accuracy == pytest.approx(trained.values["test"]["accuracy"])
    learned = np.load(samples["npz"])
    np.savez(tmp_path / "learned.npz", test_images=learned["train_images"], test_labels=learned["train_labels"])
    with pytest.raises(UserError, match=r"no test images of the model are here|was trained on 48"):
        evaluate(tmp_path / "learned.npz", model=str(trained.model), out=tmp_path / "c", images=how, device="cpu")


def test_a_folder_and_an_npz_of_the_same_images_give_the_same_model_and_predictions(trained, samples, tmp_path):
    how = ImageSetOptions(class_names=CLASSES)
    run = RunOptions(out=tmp_path / "run", device="cpu")
    other = train(samples["npz"], network=TINY, recipe=Recipe(**QUICK), images=how, run=run)
    weights = [load_model(str(folder)).network.state_dict() for folder in (trained.model, other.model)]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    rows = []
    for name in ("folders", "npz"):
        found = predict(samples[name], model=str(trained.model), out=tmp_path / name, images=how, device="cpu")
        digests = open_images(samples[name], how).digests
        rows.append({digest: {**row, "image": ""} for digest, row in zip(digests, found.rows, strict=True)})
    assert rows[0] == rows[1]


def test_training_images_are_not_judged_as_others(trained, samples, tmp_path):
    shutil.copytree(samples["folders"] / "train", tmp_path / "test-copy" / "test")
    with pytest.raises(UserError, match=r"no test images of the model are here|was trained on 48"):
        evaluate(tmp_path / "test-copy", model=str(trained.model), out=tmp_path / "out", device="cpu")
    every = EvaluationOptions(part="all")
    judged = evaluate(
        tmp_path / "test-copy", model=str(trained.model), out=tmp_path / "out", options=every, device="cpu"
    )
    assert "trained on 48 of these 48 images" in judged.origin


def test_classes_of_a_set_get_the_numbers_of_the_model(samples):
    opened = open_images(samples["folders"])
    turned = in_classes_of(opened, tuple(reversed(opened.classes)))
    assert turned.classes == tuple(reversed(opened.classes))
    names = [opened.classes[label] for label in opened.labels]
    assert [turned.classes[label] for label in turned.labels] == names
    with pytest.raises(UserError, match="are not the model's"):
        in_classes_of(opened, opened.classes[:-1])


@pytest.fixture
def mixed(tmp_path, samples):
    """Pictures of every kind, usable and not."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    colour = Image.fromarray(values)
    colour.save(folder / "a colour.png")
    colour.convert("L").save(folder / "b grey.png")
    colour.convert("CMYK").save(folder / "c cmyk.jpg")
    Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(folder / "d deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "e turned.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "f dot.png")
    (folder / "g cut.png").write_bytes((folder / "a colour.png").read_bytes()[:500])
    return folder


def test_predict_names_what_it_cannot_use_and_goes_on(trained, mixed, tmp_path):
    out = tmp_path / "out"
    found = predict(mixed, model=str(trained.model), out=out, device="cpu")
    assert found.code == 1
    assert set(found.failed) == {"f dot.png", "g cut.png"}
    assert [row["image"] for row in found.rows] == [
        "a colour.png",
        "b grey.png",
        "c cmyk.jpg",
        "d deep.png",
        "e turned.jpg",
    ]
    assert all(sum(row[name] for name in CLASSES) == pytest.approx(1, abs=1e-3) for row in found.rows)
    with found.files["table"].open(encoding="utf-8", newline="") as file:
        problems = {row["image"]: row["problem"] for row in csv.DictReader(file)}
    assert "1 × 1 pixels" in problems["f dot.png"]
    again = predict(mixed, model=str(trained.model), out=out, device="cpu")
    assert again.rows == found.rows
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(log) == 1  # the second call found it done
    Image.new("RGB", (30, 40), "red").save(mixed / "a colour.png")
    with pytest.raises(UserError, match="was made with another content"):
        predict(mixed, model=str(trained.model), out=out, device="cpu")


@pytest.mark.parametrize("name", ["f dot.png", "g cut.png"])
def test_a_single_picture_that_cannot_be_used_is_one_line(trained, mixed, tmp_path, name):
    with pytest.raises(UserError, match=r"1 × 1 pixels|damaged"):
        predict(mixed / name, model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").glob("*.csv"))


def test_a_damaged_training_image_is_one_line(samples, tmp_path):
    shutil.copytree(samples["folders"], tmp_path / "data")
    file = next((tmp_path / "data" / "train" / "ring").iterdir())
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{file.name} is damaged"):
        train(
            tmp_path / "data", network=TINY, recipe=Recipe(**QUICK), run=RunOptions(out=tmp_path / "run", device="cpu")
        )
    assert not (tmp_path / "run").exists()
    found = examine(tmp_path / "data")
    assert any("1 of 72 images cannot be used" in warning for warning in found.warnings)


def test_inspect_tells_classes_parts_and_the_next_command(samples):
    found = examine(samples["sprite"], ImageSetOptions(tile=16, rows_per_class=1), pictures=True)
    assert found.details["parts"] == {"train": 48, "val": 12, "test": 12}
    assert "--tile 16 --rows-per-class 1" in found.next_commands[0]
    assert found.pictures


def test_splits_keep_copies_together_and_are_the_same_for_every_seed(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 6, 6), np.uint8)
    images[10:15] = images[0]  # copies
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(60) // 30)
    opened = open_images(tmp_path / "set.npz")
    for seed in range(5):
        split = split_images(opened, SplitOptions(split_seed=seed))
        parts = [set(split.train), set(split.val), set(split.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 60
        assert sum(bool(part & {0, 10, 11, 12, 13, 14}) for part in parts) == 1
    known = KnownImages.of({"images": record(opened, split)}, "here")
    assert known.numbers("test", opened) == list(split.test)
    few = split_images(opened, SplitOptions(per_class=5))
    assert len(few.train) == 10


def test_classes_too_small_to_be_split_are_counted_whole(tmp_path):
    images = np.zeros((6, 4, 4), np.uint8)
    images[3:] = np.arange(1, 4)[:, None, None]
    images[4] = images[3]
    np.savez(tmp_path / "set.npz", images=images, labels=[0, 0, 0, 1, 1, 1])
    with pytest.raises(UserError, match=r"the class '0' has too few images to be split: 3 \(1 without copies\)"):
        split_images(open_images(tmp_path / "set.npz"), SplitOptions())


def test_images_that_train_and_test_are_named(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (8, 6, 6), np.uint8)
    labels = np.arange(8) % 2
    np.savez(
        tmp_path / "set.npz", train_images=images, train_labels=labels, test_images=images[:2], test_labels=labels[:2]
    )
    opened = open_images(tmp_path / "set.npz")
    split = split_images(opened)
    words = copies_between_parts(opened, split)
    assert "2 of 2 test images are also training images: test_images[0], test_images[1]" in words
    known = KnownImages.of({"images": record(opened, split)}, "here")
    chosen, origin = choose_images(opened, known, "test")
    assert chosen == list(split.test)
    assert "have a copy among its training images" in origin


@pytest.fixture(scope="session")
def second(samples, tmp_path_factory):
    """The same network under another seed."""
    run = RunOptions(out=tmp_path_factory.mktemp("second") / "run", seed=1, device="cpu")
    return train(samples["folders"], network=TINY, recipe=Recipe(**(QUICK | {"epochs": 1})), run=run)


def test_compare_takes_seeds_together_and_tests_networks_by_image(trained, second, samples, tmp_path):
    first, other = trained.model.parent, second.model.parent
    alone = compare([first, other], out=tmp_path / "seeds", resamples=100)
    assert len(alone.rows) == 1
    assert alone.rows[0]["seeds"] == 2
    assert alone.tests is None
    values = json.loads((other / "metrics.json").read_text())
    shutil.copytree(other, tmp_path / "renamed")
    (tmp_path / "renamed" / "metrics.json").write_text(json.dumps(values | {"network": "other"}))
    both = compare([first, tmp_path / "renamed"], out=tmp_path / "both", resamples=100)
    assert {row["name"] for row in both.rows} == {"resnet10t", "other"}
    (test,) = both.tests.rows
    by_name = {row["name"]: row["accuracy"] for row in both.rows}
    assert test["difference"] == pytest.approx(by_name[test["first"]] - by_name[test["second"]])
    assert test["items"] == 12
    (tmp_path / "renamed" / "predictions" / "test.csv").unlink()
    with pytest.raises(UserError, match="holds no evaluation"):
        compare([first, tmp_path / "renamed"], out=tmp_path / "none")


def test_profile_tells_what_an_attention_adds():
    found = profile(["resnet10t"], size=32, classes=10, settings=("channels=32/32/64/64",), insert=("se", "ela"))
    bare, with_se, with_ela = found.rows
    assert bare["insert"] is None
    assert with_se["parameters"] > bare["parameters"]
    assert with_ela["macs"] > bare["macs"]


def test_measures_are_those_of_the_definitions():
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    found = measure(shares, [0, 1, 1, 2], ["a", "b", "c"], resamples=50)
    assert found.accuracy == 0.75
    assert found.balanced == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found.nll == pytest.approx(-np.log([0.7, 0.5, 0.3, 0.8]).mean(), rel=1e-6)
    assert found.confused(["a", "b", "c"]) == [("b", "a", 1)]
    low, high = found.intervals["accuracy"]
    assert low < 0.75 < high


def test_the_first_five_are_five():
    shares = torch.tensor([0.3, 0.25, 0.2, 0.12, 0.08, 0.05]).expand(6, 6)
    found = measure(shares, list(range(6)), list("abcdef"), resamples=5)
    assert found.top5 == pytest.approx(5 / 6)


def test_attention_maps_are_the_class_tokens_row():
    torch.manual_seed(0)
    model = vit().eval()
    x = torch.randn(2, 3, 16, 16)
    maps, layer = attention_maps(model, x)
    assert layer == "network.blocks.1.attn"
    assert maps.shape == (2, 4, 4)
    kept = {}
    hook = model.network.blocks[1].attn.register_forward_pre_hook(lambda module, inputs: kept.update(x=inputs[0]))
    with torch.no_grad():
        model(x)
        attention = model.network.blocks[1].attn
        q, k, _ = attention.qkv(kept["x"]).reshape(2, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
        row = (q[:, :, :1] @ k.transpose(2, 3) * 8**-0.5).softmax(-1).mean((1, 2))[:, 1:]
    hook.remove()
    torch.testing.assert_close(maps.flatten(1), row / row.mean(1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_a_network_without_attention_has_no_maps(trained):
    model = load_model(trained.model)
    assert attention_maps(model.network, torch.randn(1, 3, 16, 16)) == (None, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preprocessing": {"classes": ["a"]}}, "the field preprocessing.input is missing"),
        ({"class": "Other"}, "holds a Other|holds an? Other"),
    ],
)
def test_model_folders_that_were_changed_are_refused(trained, tmp_path, change, words):
    shutil.copytree(trained.model, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=words):
        load_model(str(tmp_path / "model"))


def test_a_published_checkpoint_becomes_a_model_folder(tmp_path):
    model = vit(5)
    torch.save({"model": model.network.state_dict()}, tmp_path / "vit.pth")
    settings = ("patch_size=4", "embed_dim=16", "depth=2", "num_heads=2", "img_size=16")
    made = convert(
        tmp_path / "vit.pth", network="vit_tiny_patch16_224", out=tmp_path / "model", size=16, settings=settings
    )
    assert made.values["classes"] == 5
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(load_model(str(tmp_path / "model")).network(x), model.eval()(x))
    assert check(str(tmp_path / "model")).values["input"] == "3 × 16 × 16"
    (tmp_path / "noise.pth").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"noise\.pth"):
        convert(tmp_path / "noise.pth", network="vit_tiny_patch16_224", out=tmp_path / "other")


def test_predict_passes_over_an_empty_folder_and_says_so(trained, samples, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(samples["folders"], photos)
    inside = open_images(photos)
    (photos / Path(inside.names[0]).parts[0] / "unsorted").mkdir()
    found = predict(photos, model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert len(found.rows) == len(inside)
    assert "unsorted holds no image and is passed over" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="unsorted"):
        open_images(photos)


@pytest.mark.parametrize("inside", [".", "found"])
def test_no_verb_writes_among_its_inputs(trained, samples, tmp_path, inside):
    photos = shutil.copytree(samples["folders"], tmp_path / "photos")
    before = sorted(photos.rglob("*"))
    if inside == ".":
        with pytest.raises(UserError, match="is that of the inputs"):
            predict(photos, model=str(trained.model), out=photos, device="cpu")
    refusal = "is that of the inputs" if inside == "." else "lies in the inputs"
    with pytest.raises(UserError, match=refusal):
        evaluate(photos, model=str(trained.model), out=photos / inside, device="cpu")
    with pytest.raises(UserError, match=refusal):
        train(photos, network=TINY, recipe=Recipe(**QUICK), run=RunOptions(out=photos / inside, device="cpu"))
    assert sorted(photos.rglob("*")) == before


def test_results_in_a_folder_below_the_pictures_are_no_pictures_of_the_next_run(trained, samples, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, file in enumerate(sorted(file for file in samples["folders"].rglob("*") if file.is_file())[:3]):
        shutil.copy(file, photos / f"{number}{file.suffix}")
    for _ in range(2):
        assert len(predict(photos, model=str(trained.model), out=photos / "found", device="cpu").rows) == 3
