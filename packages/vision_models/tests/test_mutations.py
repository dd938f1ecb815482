"""Seeded mutations of sets of pictures, boxes, annotations, features and model folders: an answer or one plain line."""

import json

import numpy as np
import pytest
import torch
from mutating import changed, mutate, mutate_header, mutate_json, mutated, try_changes, try_mutations
from PIL import Image

from core_runtime.boxes import read_coco
from core_runtime.errors import UserError
from core_runtime.image_sets import open_images
from vision_models.actions.annotations import read_annotations
from vision_models.actions.features import find_features, read_features
from vision_models.classify.model import folder as classifiers
from vision_models.classify.model.classifier import Classifier, ClassifierConfig
from vision_models.classify.model.preparing import preprocessing_for
from vision_models.detect.model import folder as detectors
from vision_models.detect.model.detectors import Detector, DetectorConfig
from vision_models.detect.samples import SampleOptions, make_samples
from vision_models.detect.scenes.opening import open_boxes
from vision_models.networks import create
from vision_models.networks.converting import load_checkpoint

CHANNELS = json.dumps({"channels": [8, 8, 8, 8], "stem_width": 8})


@pytest.fixture
def images(tmp_path):
    """A set of six pictures in two containers: the file to mutate, and what is opened."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(6) % 2)
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    (tmp_path / "set.csv").write_text("file,label,part\n" + "".join(f"{i}.png,{'ab'[i % 2]},train\n" for i in range(6)))
    return tmp_path


@mutated("mutations of labelled images (.npz, a table of files)", "images with their labels, or one line", quick=40)
@pytest.mark.parametrize(("name", "how"), [("set.npz", mutate_header(300)), ("set.npz", mutate), ("set.csv", mutate)])
def test_sets_of_images(images, name, how, count):
    path = images / name
    try_mutations(path, lambda: open_images(path).digests, count, mutate=how)


@mutated(
    "mutations of boxes (COCO's JSON)", "pictures with boxes, each used or left out by name; or one line", quick=60
)
def test_boxes_of_coco(tmp_path, count):
    described = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 12], "iscrowd": 0}],
    }
    path = tmp_path / "set.json"
    path.write_text(json.dumps(described))
    assert try_mutations(path, lambda: read_coco(path), count, mutate=mutate_json) > 0


@mutated(
    "mutations of ExDark's annotations and list",
    "pictures with boxes, each used or left out by name; or one line",
    quick=30,
)
@pytest.mark.parametrize("kind", ["annotation", "list"])
def test_files_of_exdark(tmp_path, kind, count):
    root = make_samples(tmp_path / "scenes", SampleOptions(scenes=10, width=64))["exdark"]
    path = root / "imageclasslist.txt"
    if kind == "annotation":
        path = sorted((root / "ExDark_Annno").rglob("*.txt"))[0]
    try_mutations(path, lambda: open_boxes(root), count)


@mutated(
    "mutations of actions and features", "what was read, each used or left out for a reason; or one line", quick=40
)
@pytest.mark.parametrize("name", ["a.json", "a.csv", "f.csv", "f.npy"])
def test_actions_and_features(tmp_path, name, count):
    entry = {"duration": 10.0, "subset": "training", "annotations": [{"segment": [1.0, 4.0], "label": "run"}]}
    (tmp_path / "a.json").write_text(json.dumps({"database": {"v_a": entry, "v_b": entry}}))
    (tmp_path / "a.csv").write_text("video,start,end,label,duration\na,1,4,run,10\nb,2,5,jump,9\n")
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savetxt(tmp_path / "f.csv", values, delimiter=",")
    np.save(tmp_path / "f.npy", values)
    path = tmp_path / name

    def read():
        if name.startswith("a"):
            return read_annotations(path)
        return [read_features(video, source) for video, source in find_features(path).items()]

    try_mutations(path, read, count, mutate=mutate_json if name == "a.json" else mutate)


@mutated("mutations of published checkpoints (.pth)", "the network, loaded strictly; or one line", quick=10)
def test_checkpoints(tmp_path, count):
    sizes = {"depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4)}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": create("suite_mambaout_femto", num_classes=2, **sizes).state_dict()}, path)

    def load():
        try:
            return load_checkpoint("suite_mambaout_femto", path, **sizes)
        except (OSError, ValueError) as error:  # what the verbs turn into a line
            raise UserError(str(error)) from None

    try_mutations(path, load, count)


@pytest.fixture
def classifier(tmp_path):
    config = ClassifierConfig("resnet10t", num_classes=2, in_chans=3, size=16, settings=CHANNELS)
    described = {"preprocessing": preprocessing_for(16, 3), "classes": ("a", "b"), "provenance": {}}
    return classifiers.save_model(Classifier(config), tmp_path / "model", **described)


@pytest.fixture
def detector(tmp_path):
    config = DetectorConfig(
        detector="fcos", num_classes=2, backbone="resnet10t", settings=CHANNELS, channels=32, size=32, enhancer_width=4
    )
    return detectors.save_model(Detector(config), tmp_path / "model", classes=("a", "b"), provenance={})


@mutated("config.json of a model with fields missing or of another type", "the model or one line", quick=8)
def test_configs_of_classifiers(classifier, count):
    try_mutations(
        classifier / "config.json", lambda: classifiers.load_model(str(classifier)), count, mutate=mutate_json
    )


@changed(100, step=20)
def test_no_change_of_a_classifier_goes_unsaid(classifier, capsys, changes):
    try_changes(classifier / "config.json", lambda: classifiers.load_model(str(classifier)), capsys, changes)


@changed(100, step=20)
def test_no_change_of_a_detector_goes_unsaid(detector, capsys, changes):
    try_changes(detector / "config.json", lambda: detectors.load_model(str(detector)), capsys, changes)
