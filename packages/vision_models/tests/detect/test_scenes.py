import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from core_runtime.boxes import CUT, LEFT_OUT, read_coco
from core_runtime.errors import UserError
from vision_models.detect.cohort import SplitOptions, split_boxes
from vision_models.detect.commands.convert import convert
from vision_models.detect.commands.inspect import examine
from vision_models.detect.scenes.exdark import CLASSES, read_list
from vision_models.detect.scenes.formats import TOOL_HEADER, claim, kind_of
from vision_models.detect.scenes.opening import open_boxes

# beside the repository; elsewhere CORE_ATTENTION_SHARED names the folder
SHARED = Path(os.environ.get("CORE_ATTENTION_SHARED", Path(__file__).parents[5] / "shared"))


def test_the_real_list_has_the_published_counts():
    file = SHARED / "data" / "featenhancer" / "exdark_imageclasslist.txt"
    if not file.is_file():
        pytest.skip(
            "needs shared/data/featenhancer with ExDark's list (beside the repository, or CORE_ATTENTION_SHARED)"
        )
    parts = [entry.part for entry in read_list(file).values()]
    assert (parts.count("train"), parts.count("val"), parts.count("test")) == (3000, 1800, 2563)
    assert "3,000 train, 1,800 validate, 2,563 test" in examine(file).summary
    assert kind_of(file) == "ExDark list"


def test_samples_are_exdark_and_their_coco_file_says_the_same(scenes, tmp_path):
    native = open_boxes(scenes)
    assert native.kind == "ExDark"
    assert native.classes == CLASSES
    assert [image.part for image in native.images].count("test") == 2
    done = convert(scenes, out=tmp_path / "coco")
    assert set(done.files) == {"all", "train", "val", "test"}
    back = read_coco(done.files["all"], scenes / "ExDark")
    assert [image.boxes for image in back.images] == [image.boxes for image in native.images]
    assert [image.labels for image in back.images] == [image.labels for image in native.images]
    assert len(read_coco(done.files["test"]).images) == 2
    alone = shutil.copy(done.files["all"], tmp_path / "alone.json")
    assert not examine(alone).usable
    beside = examine(alone, scenes / "ExDark")
    assert beside.usable
    assert f"--images {scenes / 'ExDark'}" in beside.next_commands[0]
    with pytest.raises(UserError, match="lies in the inputs"):
        convert(scenes, out=scenes / "coco")
    with pytest.raises(UserError, match="already there"):
        convert(scenes, out=tmp_path / "coco")


def test_drawn_boxes_hold_what_was_drawn(scenes):
    for image in open_boxes(scenes).images:
        for left, top, right, bottom in image.boxes:
            assert 0 <= left < right <= image.size[0]
            assert 0 <= top < bottom <= image.size[1]
            assert (left, top) == (int(left), int(top))


@pytest.fixture
def exdark(tmp_path, scenes):
    shutil.copytree(scenes, tmp_path / "exdark")
    return tmp_path / "exdark"


def annotation(exdark):
    return sorted((exdark / "ExDark_Annno").rglob("*.txt"))[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Bottle 1 1 5 5\n", "does not begin with"),
        (f"{TOOL_HEADER}\nLamp 1 1 5 5 0 0 0 0 0 0 0\n", "line 2: 'Lamp' is not a class of ExDark"),
        (f"{TOOL_HEADER}\nCar 1 1 five 5 0 0 0 0 0 0 0\n", "line 2: .* is not understood"),
        (f"{TOOL_HEADER}\nCar 1 1\n", "line 2: .* is not understood"),
    ],
)
def test_annotations_that_are_not_understood_are_named(exdark, text, words):
    annotation(exdark).write_text(text)
    with pytest.raises(UserError, match=words):
        open_boxes(exdark)


def test_boxes_outside_and_without_area_are_counted(exdark):
    annotation(exdark).write_text(f"{TOOL_HEADER}\nCar 60 2 20 5\nCar 200 2 5 5\nCar 3 3 0 5\nCup 1 1 64 48\n")
    scenes = open_boxes(exdark)
    name = annotation(exdark).name.removesuffix(".txt")
    (image,) = (image for image in scenes.images if image.file.name == name)
    assert image.boxes == ((59, 1, 64, 6), (0, 0, 64, 48))
    assert scenes.notes == {CUT: [name], LEFT_OUT: [name, name]}


def test_pictures_without_annotation_and_of_no_part_are_named(exdark):
    annotation(exdark).unlink()
    Image.new("RGB", (64, 48)).save(exdark / "ExDark" / "Car" / "new.png")
    (exdark / "ExDark_Annno" / "Car" / "new.png.txt").write_text(f"{TOOL_HEADER}\n")
    words = " ".join(open_boxes(exdark).warnings())
    assert "pictures without annotations, left out: 1" in words
    assert "pictures that the list does not name, in no part: 1 (new.png)" in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\n", "is not of ExDark's list"),
        ("x.png 13 1 1 1\n", "is not of"),
        ("x.png 1 1 1 1\nx.png 1 1 1 1\n", "listed twice"),
    ],
)
def test_lists_that_are_not_understood_are_named(tmp_path, text, words):
    (tmp_path / "list.txt").write_text("Name | Class | Light | In/Out | Train/Val/Test\n" + text)
    with pytest.raises(UserError, match=words):
        read_list(tmp_path / "list.txt")


def faces(folder, text="2\n3 4 10 12\n-2 0 5 5\n"):
    (folder / "image").mkdir(parents=True)
    (folder / "label").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "image" / "1.png")
    (folder / "label" / "1.txt").write_text(text)
    return folder


def test_dark_face(tmp_path):
    scenes = open_boxes(faces(tmp_path / "faces"))
    assert scenes.kind == "DARK FACE"
    assert scenes.images[0].boxes == ((3, 4, 10, 12), (0, 0, 5, 5))
    assert scenes.notes == {CUT: ["1.png"]}
    assert claim(tmp_path / "faces").certainty == 1


@pytest.mark.parametrize("text", ["", "2\n1 2 3 4\n", "1\n1 2 3\n", "1 2 3 4\n", "one\n1 2 3 4\n"])
def test_label_files_of_faces_that_are_not_understood(tmp_path, text):
    with pytest.raises(UserError, match=r"label file of DARK FACE|are announced"):
        open_boxes(faces(tmp_path / "faces", text))


def test_a_picture_turned_by_exif_has_the_size_that_is_shown(tmp_path):
    folder = faces(tmp_path / "faces", "1\n3 4 29 39\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "image" / "1.jpg", exif=exif)
    (folder / "image" / "1.png").unlink()
    scenes = open_boxes(folder)
    assert scenes.images[0].size == (30, 40)
    assert scenes.images[0].boxes == ((3, 4, 29, 39),)
    assert "pictures turned upright by their EXIF" in scenes.notes


def test_random_splits_keep_copies_together(exdark):
    files = sorted((exdark / "ExDark").rglob("*.png"))
    for copy in files[1:4]:
        copy.write_bytes(files[0].read_bytes())
    copies = {file.name for file in files[:4]}
    for seed in range(6):
        split = split_boxes(open_boxes(exdark), SplitOptions(split="random", split_seed=seed))
        parts = [{image.name.split("/")[-1] for image in split.part(part)} for part in ("train", "val", "test")]
        assert sum(bool(part & copies) for part in parts) == 1
        assert sum(map(len, parts)) == 10


def test_pictures_of_another_size_than_their_boxes_are_refused(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    described = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 30, 20, 20]}],
    }
    (tmp_path / "set.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"a.png is 40 × 30 pixels, but .*set.json describes it as 80 × 60"):
        split_boxes(open_boxes(tmp_path / "set.json"))
    found = examine(tmp_path / "set.json")
    assert "1 picture of another size than was stated: a.png" in found.warnings
    assert not found.usable


def test_splits_need_pictures_of_a_size_with_boxes(exdark, tmp_path):
    split = split_boxes(open_boxes(exdark))
    assert [len(split.part(part)) for part in ("train", "val", "test")] == [6, 2, 2]
    drawn = split_boxes(open_boxes(exdark), SplitOptions(split="random", split_seed=1))
    assert len({image.name for part in ("train", "val", "test") for image in drawn.part(part)}) == 10
    with pytest.raises(UserError, match="states no training part"):
        split_boxes(open_boxes(faces(tmp_path / "faces")), SplitOptions(split="given"))
    small = tmp_path / "small.json"
    described = {
        "images": [{"id": 1, "file_name": "a.png", "width": 14, "height": 30}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    small.write_text(json.dumps(described))
    with pytest.raises(UserError, match="1 picture missing"):
        split_boxes(open_boxes(small))
    Image.new("RGB", (14, 30)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="14 × 30 pixels, at least 15 × 15"):
        split_boxes(open_boxes(small))
