import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core_runtime.boxes import BoxedImage
from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from core_runtime.training import RunFiles
from vision_models.detect.commands.ab import ab
from vision_models.detect.commands.evaluate import EvaluationOptions, evaluate, in_classes_of
from vision_models.detect.commands.models import check
from vision_models.detect.commands.predict import PredictionOptions, predict
from vision_models.detect.commands.train import config_of, train
from vision_models.detect.metrics import Judge, differences
from vision_models.detect.model.detectors import Detector, DetectorConfig
from vision_models.detect.model.inference import before_and_after
from vision_models.detect.model.options import DetectorOptions
from vision_models.detect.results import FoundBox
from vision_models.detect.scenes.opening import open_boxes
from vision_models.detect.training.data import BoxedPictures
from vision_models.detect.training.recipe import Recipe, learning_rate_factor

from .detect_nets import BACKBONE, TINY


def boxed(name, *boxes, size=(100, 80)):
    labels = tuple(label for _, label in boxes)
    return BoxedImage(name, name, size, tuple(box for box, _ in boxes), labels, (False,) * len(boxes))


IMAGES = [
    boxed("a", ((0, 0, 10, 10), 0), ((20, 20, 60, 60), 1)),
    boxed("b", ((5, 5, 25, 45), 0)),
    boxed("c", ((50, 10, 90, 30), 1)),
]


def exact(image, score=0.9):
    return [FoundBox(box, label, score) for box, label in zip(image.boxes, image.labels, strict=True)]


def test_perfect_boxes_have_an_average_precision_of_1_and_none_of_0():
    perfect = Judge(IMAGES, [exact(image) for image in IMAGES], ["x", "y"]).metrics(resamples=20)
    assert perfect.ap == perfect.ap50 == perfect.recall == 1
    assert perfect.by_class == {"x": 1, "y": 1}
    nothing = Judge(IMAGES, [[], [], []], ["x", "y"]).metrics(resamples=20)
    assert nothing.ap == 0
    assert nothing.without == 3


def test_half_of_the_boxes_of_a_class():
    found = [exact(IMAGES[0]), [], exact(IMAGES[2])]
    metrics = Judge(IMAGES, found, ["x", "y", "absent"]).metrics(resamples=50)
    # one of two boxes of x: precision 1 up to a recall of one half, of which 51 of 101 points are below
    assert metrics.by_class == {"x": pytest.approx(51 / 101), "y": 1}
    assert metrics.recall == pytest.approx(0.75)
    low, high = metrics.intervals["ap50"]
    assert low <= metrics.ap50 <= high


def test_a_shifted_box_counts_at_a_low_iou_alone():
    image = boxed("a", ((0, 0, 10, 10), 0))
    found = [[FoundBox((0, 0, 10, 6.6), 0, 0.9)]]  # IoU 0.66: four of ten thresholds
    metrics = Judge([image], found, ["x"]).metrics(resamples=5)
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.ap75 == 0
    assert metrics.ap == pytest.approx(0.4)


def test_three_quarters_are_not_four_fifths():
    image = boxed("a", ((0, 0, 10, 10), 0))
    metrics = Judge([image], [[FoundBox((0, 0, 10, 7.7), 0, 0.9)]], ["x"]).metrics(resamples=5)  # IoU 0.77
    assert metrics.ap75 == pytest.approx(1)
    assert metrics.ap == pytest.approx(0.6)


def test_mirrored_pictures_have_mirrored_boxes(tmp_path):
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 255, 255), (4, 5, 14, 15))
    picture.save(tmp_path / "a.png")
    image = BoxedImage("a.png", tmp_path / "a.png", (40, 20), ((4, 5, 14, 15),), (0,), (False,))
    pictures = BoxedPictures([image], flip=True)
    boxes = []
    for epoch in range(8):
        tensor, target = pictures[(epoch, 0)]
        (box,) = target["boxes"].int().tolist()
        boxes.append(box)
        assert tensor[:, box[1] : box[3], box[0] : box[2]].min() == 1  # white is in the box
    assert {tuple(box) for box in boxes} == {(4, 5, 14, 15), (26, 5, 36, 15)}


def test_classes_of_a_set_get_the_numbers_of_the_detector(scenes):
    opened = open_boxes(scenes)
    turned = in_classes_of(opened, tuple(reversed(opened.classes)))
    for one, other in zip(opened.images, turned.images, strict=True):
        assert [opened.classes[label] for label in one.labels] == [turned.classes[label] for label in other.labels]
    with pytest.raises(UserError, match="the model knows Lamp"):
        in_classes_of(opened, ("Lamp",))


def test_differences_are_paired_and_turn_round():
    one = Judge(IMAGES, [exact(image) for image in IMAGES], ["x", "y"])
    other = Judge(IMAGES, [exact(IMAGES[0]), [], []], ["x", "y"])
    there, back = differences(one, other, resamples=50), differences(other, one, resamples=50)
    assert there["ap50"][0] == pytest.approx(-back["ap50"][0])
    assert there["ap50"][1].low == pytest.approx(-back["ap50"][1].high)
    # a detector that finds some pictures' boxes alone is no better than itself on any selection of them
    same = differences(other, other, resamples=50)["ap50"]
    assert (same[0], same[1].low, same[1].high) == (0, 0, 0)


@pytest.mark.parametrize("head", ["fcos", "retinanet", "fasterrcnn"])
def test_boxes_are_those_of_the_picture_and_a_silent_enhancer_changes_nothing(head):
    torch.manual_seed(0)
    bare = Detector(DetectorConfig(head, 3, size=64, **BACKBONE)).eval()
    enhanced = Detector(DetectorConfig(head, 3, size=64, enhancer=True, enhancer_width=4, **BACKBONE)).eval()
    enhanced.bare.load_state_dict(bare.bare.state_dict())
    torch.nn.init.zeros_(enhanced.enhancer.ue_conv9.weight)
    torch.nn.init.zeros_(enhanced.enhancer.ue_conv9.bias)
    images = [torch.rand(3, 70, 130), torch.rand(3, 90, 60)]
    with torch.inference_mode():
        for one, other, image in zip(bare(images), enhanced(images), images, strict=True):
            for key, value in one.items():
                torch.testing.assert_close(other[key], value)
            if len(one["boxes"]):
                assert one["boxes"][:, 2].max() <= image.shape[2]
                assert one["boxes"][:, 3].max() <= image.shape[1]


def test_the_enhancer_learns_from_the_detectors_losses():
    torch.manual_seed(0)
    detector = Detector(DetectorConfig("fcos", 3, size=64, enhancer=True, enhancer_width=4, **BACKBONE)).train()
    target = {"boxes": torch.tensor([[10.0, 10.0, 50.0, 40.0]]), "labels": torch.tensor([2])}
    sum(detector([torch.rand(3, 64, 96)], [target]).values()).backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in detector.enhancer.parameters()
    )
    before, after = before_and_after(detector.eval(), torch.rand(3, 64, 96))
    assert before.shape == after.shape == (3, 64, 96)


@pytest.fixture(scope="session")
def yolos(tmp_path_factory):
    """A small transformers detector, as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[48, 64],
        patch_size=16,
        num_detection_tokens=5,
        num_labels=12,
    )
    folder = tmp_path_factory.mktemp("yolos") / "yolos"
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    return folder


def test_detectors_of_transformers_train_and_find_boxes_of_the_picture(yolos):
    config, weights = config_of(DetectorOptions(detector=str(yolos), enhancer_width=4, size=48, largest=64), 12)
    detector = Detector(config)
    assert weights == yolos / "model.safetensors"
    target = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 40.0]]), "labels": torch.tensor([3])}
    images = [torch.rand(3, 96, 128), torch.rand(3, 60, 60)]
    loss = detector.train()(images, [target, target])["loss"]
    loss.backward()
    assert detector.enhancer.ue_conv9.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        together = detector.eval()(images)
        alone = [detector([image])[0] for image in images]
    for one, other, image in zip(together, alone, images, strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-3)
        assert one["boxes"][:, [0, 2]].max() <= image.shape[2]
        assert set(one["labels"].tolist()) <= set(range(1, 13))


def test_a_run_and_its_evaluation(trained, scenes, tmp_path):
    assert trained.values["split"] == {"name": "given", "train": 6, "val": 2, "test": 2}
    judged = evaluate(scenes, model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert judged.metrics.ap50 == pytest.approx(trained.values["test"]["ap50"])
    assert judged.origin.startswith("None of these 2 pictures")
    assert judged.files["picture"].is_file()
    every = EvaluationOptions(part="all")
    judged = evaluate(scenes, model=str(trained.model), out=tmp_path / "all", options=every, device="cpu")
    assert "trained on 6 of these 10" in judged.origin
    assert check(str(trained.model)).values["enhancer"] is True


@pytest.mark.slow
def test_a_killed_training_ends_like_one_that_was_not(scenes, tmp_path, monkeypatch):
    save = RunFiles.on_train_epoch_end

    def killed(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == 0:
            raise KeyboardInterrupt

    options = {"detector": TINY, "recipe": Recipe(epochs=2, batch=2, lr=1e-3)}
    whole = train(scenes, **options, run=RunOptions(out=tmp_path / "whole", device="cpu"))
    monkeypatch.setattr(RunFiles, "on_train_epoch_end", killed)
    with pytest.raises(KeyboardInterrupt):
        train(scenes, **options, run=RunOptions(out=tmp_path / "run", device="cpu"))
    monkeypatch.undo()
    assert not (tmp_path / "run" / "model").exists()
    again = train(scenes, **options, run=RunOptions(out=tmp_path / "run", device="cpu", resume=True))
    weights = [load_file(trained.model / "model.safetensors") for trained in (whole, again)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_training_pictures_are_known_by_content_under_any_name(trained, scenes, tmp_path):
    known = open_boxes(scenes)
    described = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": name} for name in ["Bottle"]],
    }
    folder = tmp_path / "renamed"
    folder.mkdir()
    for number, image in enumerate(picture for picture in known.images if picture.part == "train"):
        shutil.copy(image.file, folder / f"other{number}.png")
        width, height = image.size
        described["images"].append({"id": number, "file_name": f"other{number}.png", "width": width, "height": height})
        described["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]})
    (folder / "boxes.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="no test pictures of the model are here"):
        evaluate(folder / "boxes.json", model=str(trained.model), out=tmp_path / "out", device="cpu")
    every = EvaluationOptions(part="all")
    judged = evaluate(
        folder / "boxes.json", model=str(trained.model), out=tmp_path / "out", options=every, device="cpu"
    )
    assert "trained on 6 of these 6 pictures" in judged.origin
    # other pictures under the names of the training pictures are strangers
    rng = np.random.default_rng(0)
    for file in folder.glob("*.png"):
        Image.fromarray(rng.integers(0, 40, (48, 64, 3), np.uint8)).save(file)
    judged = evaluate(
        folder / "boxes.json", model=str(trained.model), out=tmp_path / "new", options=every, device="cpu"
    )
    assert judged.origin.startswith("None of these 6 pictures")


def test_predict_names_what_it_cannot_use_and_goes_on(trained, tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 30, (48, 64, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 30, (48, 64), np.uint8)).save(folder / "b grey.png")
    Image.new("RGB", (14, 40)).save(folder / "c small.png")
    (folder / "d cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    out = tmp_path / "out"
    how = PredictionOptions(threshold=0.0, most=3)
    with pytest.raises(UserError, match="is that of the inputs"):
        predict(folder, model=str(trained.model), out=folder, device="cpu")
    found = predict(folder, model=str(trained.model), out=out, options=how, device="cpu")
    assert found.code == 1
    assert set(found.failed) == {"c small.png", "d cut.png"}
    assert "at least 15 × 15" in found.failed["c small.png"]
    assert set(found.boxes) == {"a.png", "b grey.png"}
    assert all(len(boxes) <= 3 for boxes in found.boxes.values())
    (folder / "c small.png").unlink()
    (folder / "d cut.png").unlink()
    again = predict(folder, model=str(trained.model), out=out, options=how, device="cpu")
    assert [attempt.status for attempt in again.attempts] == ["already done", "already done"]
    with pytest.raises(UserError, match=r"made with another options\.threshold|made with another"):
        predict(folder, model=str(trained.model), out=out, options=PredictionOptions(threshold=0.9), device="cpu")


def test_a_detector_that_finds_nothing_is_no_error(trained, scenes, tmp_path):
    file = next((scenes / "ExDark").rglob("*.png"))
    found = predict(
        file, model=str(trained.model), out=tmp_path / "out", options=PredictionOptions(threshold=1.0), device="cpu"
    )
    assert found.code == 0
    assert found.boxes == {file.name: []}
    assert "nothing found" in next(iter(found.lines()))
    assert json.loads(found.files["boxes"].read_text()) == []


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (DetectorOptions(detector="fcos2"), "no detector is called 'fcos2'"),
        (DetectorOptions(detector="maskrcnn_resnet50_fpn"), "finds more than boxes"),
        (DetectorOptions(channels=40), "--channels 40"),
        (DetectorOptions(backbone="no_such_net"), "--backbone no_such_net"),
    ],
)
def test_detectors_that_cannot_be_built_are_one_line(scenes, tmp_path, detector, words):
    with pytest.raises(UserError, match=words):
        train(scenes, detector=detector, run=RunOptions(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_a_b_run_differs_in_the_enhancer_alone(scenes, tmp_path):
    run = RunOptions(out=tmp_path / "ab", device="cpu")
    trial = ab(scenes, detector=TINY, recipe=Recipe(epochs=1, batch=2, lr=1e-3), run=run)
    assert [row["arm"] for row in trial.rows] == ["with FeatEnHancer", "without"]
    with_it, without = (trial.runs[arm] for arm in ("featenhancer", "none"))
    assert with_it.values["parameters"] - without.values["parameters"] == with_it.values["enhancer_parameters"] > 0
    assert with_it.values["split"] == without.values["split"]
    (gap,) = (row for row in trial.differences if row["measure"] == "ap50")
    assert gap["difference"] == pytest.approx(trial.rows[0]["ap50"] - trial.rows[1]["ap50"])
    assert trial.report.is_file()


def test_the_learning_rate_falls_in_steps():
    assert learning_rate_factor(0.01, 0.02) == pytest.approx(0.5)
    assert learning_rate_factor(0.5, 0.02) == 1
    assert learning_rate_factor(0.9, 0.02) == pytest.approx(0.1)
    assert learning_rate_factor(0.99, 0.02) == pytest.approx(0.01)
