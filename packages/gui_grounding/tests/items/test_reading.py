"""Benchmarks as they are published: how boxes are counted is told from whole files; every item is used or left out for a reason."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from core_runtime.errors import UserError
from gui_grounding.items.item import Item, Target
from gui_grounding.items.mixtures import read_training, sample
from gui_grounding.items.reading import read_annotations, read_items

SHARED = next(
    (parent / "shared" for parent in Path(__file__).parents if (parent / "shared" / "data" / "v2p").is_dir()), None
)
needs_shared = pytest.mark.skipif(SHARED is None, reason="needs shared/data/v2p beside the repository")
SIZE = (400, 300)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", SIZE, "white").save(tmp_path / "images" / "a.png")
    return tmp_path


def write(folder, boxes, **more):
    items = []
    for number, box in enumerate(boxes):
        item = {
            "id": f"i{number}",
            "img_filename": "a.png",
            "bbox": box,
            "instruction": "click",
            "img_size": list(SIZE),
        }
        items.append(item | more)
    path = folder / "items.json"
    path.write_text(json.dumps(items))
    return path


@pytest.mark.parametrize(
    ("boxes", "convention", "first"),
    [
        ([[10, 20, 50, 60], [300, 200, 390, 290]], "xyxy", (10, 20, 50, 60)),
        ([[10, 20, 50, 60], [300, 200, 40, 30]], "xywh", (10, 20, 60, 80)),
        ([[0.1, 0.2, 0.5, 0.6], [0.7, 0.7, 0.9, 0.8]], "xyxy-normalised", (40, 60, 200, 180)),
        ([[0.1, 0.2, 0.5, 0.6], [0.7, 0.7, 0.2, 0.1]], "xywh-normalised", (40, 60, 240, 240)),
    ],
)
def test_the_whole_file_tells_its_convention(folder, boxes, convention, first):
    found = read_items(write(folder, boxes))
    assert found.conventions == {"items.json": convention}
    assert convention in found.notes[0]
    corners = found.items[0].targets[0].box
    scaled = [share * SIZE[axis % 2] for axis, share in enumerate(corners)]
    assert scaled == pytest.approx(first)


def test_what_can_be_read_in_two_ways_must_be_said(folder):
    path = write(folder, [[10, 20, 50, 60]])
    with pytest.raises(UserError, match="can be read as xyxy and as xywh") as error:
        read_items(path)
    assert "--boxes" in error.value.hint
    assert read_items(path, boxes="xywh").items[0].targets[0].points[1] == (60 / 400, 80 / 300)


def test_mixed_conventions_are_refused(folder):
    with pytest.raises(UserError, match="no reading fits all"):
        read_items(write(folder, [[10, 20, 50, 60], [300, 200, 390, 290], [300, 200, 40, 30]]))


def test_shares_among_pixels_are_refused_with_their_numbers(folder):
    path = write(folder, [[0.1, 0.2, 0.5, 0.6]] * 2 + [[10, 20, 50, 60], [300, 200, 390, 290], [350, 20, 390, 60]])
    with pytest.raises(UserError, match=r"2 as shares .*i0, i1.*, 3 in pixels"):
        read_items(path)
    for boxes, used in (("xyxy", 3), ("xyxy-normalised", 2)):
        found = read_items(path, boxes=boxes)
        assert len(found.items) == used
        assert "numbers are" in found.account()


def test_sizes_are_those_of_the_upright_picture(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", SIZE, "white").save(folder / "images" / "a.jpg", exif=exif)
    path = write(folder, [[10, 20, 50, 60], [200, 300, 290, 390]], img_filename="a.jpg", img_size=None)
    found = read_items(path)
    assert {item.size for item in found.items} == {SIZE[::-1]}
    assert found.items[0].targets[0].box == (10 / 300, 20 / 400, 50 / 300, 60 / 400)


def test_an_img_size_that_is_not_the_pictures_is_said(folder):
    path = write(folder, [[10, 20, 50, 60], [600, 400, 790, 590]], img_size=[800, 600])
    found = read_items(path)
    assert any("img_size of 2 items is not the size of the picture" in note for note in found.notes)
    items = json.loads(path.read_text())
    items[0]["img_size"] = [600, 800]
    path.write_text(json.dumps(items))
    assert "1 whose img_size has another shape" in read_items(path, boxes="xyxy").account()


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ([300, 200, 900, 200, 900, 290], "beyond the screenshot"),
        ([10, 10, 60, 60, 200, 200], "no area"),
        ([10, 10, 60, 10, 200, 10], "no area"),
    ],
)
def test_polygons_that_are_none_are_left_out(folder, corners, reason):
    records = [
        {"id": "a", "box_type": "polygon", "box_coordinates": corners},
        {"id": "b", "box_type": "refusal", "box_coordinates": []},
    ]
    for record in records:
        record |= {"image_path": "a.png", "image_size": list(SIZE), "instruction": "x"}
    (folder / "items.json").write_text(json.dumps(records))
    found = read_items(folder / "items.json")
    assert [item.name for item in found.items] == ["b"]
    assert reason in found.account()


def test_training_files_are_not_taken_for_annotations(folder):
    answer = {"from": "gpt", "value": "pyautogui.click(x=0.2, y=0.2)", "bbox_gt": [0.1, 0.1, 0.3, 0.3]}
    turns = [{"from": "human", "value": "<image>click"}, answer]
    (folder / "training.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    for path in (folder, folder / "training.json"):
        with pytest.raises(UserError, match="is a training file"):
            read_items(path)
    (folder / "annotations").mkdir()
    write(folder, [[10, 20, 50, 60], [300, 200, 390, 290]]).rename(folder / "annotations" / "items.json")
    assert len(read_items(folder).items) == 2
    with pytest.raises(UserError) as error:
        read_items(folder / "training.json")
    assert str(folder / "annotations" / "items.json") in error.value.hint


def test_a_line_separator_inside_a_text_ends_no_line(folder):
    path = folder / "items.jsonl"
    items = json.loads(write(folder, [[10, 20, 50, 60], [300, 200, 390, 290]]).read_text())
    items[0]["instruction"] = "save\u2028open"
    path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items), encoding="utf-8")
    assert [item.instruction for item in read_items(path).items] == ["save\u2028open", "click"]


def test_what_cannot_be_used_is_left_out_and_counted(folder):
    path = write(folder, [[10, 20, 50, 60]] * 4)
    items = json.loads(path.read_text())
    items[0]["bbox"] = [10, 20, 10, 60]
    items[1]["instruction"] = " "
    items[2]["img_filename"] = "absent.png"
    path.write_text(json.dumps(items))
    found = read_items(path, boxes="xyxy")
    assert found.account().startswith("4 items = 1 used + 3 left out")
    assert set(found.left_out.values()) == {
        "whose box cannot be used: it has no area",
        "without an instruction",
        "whose screenshot is missing",
    }


def test_several_boxes_and_polygons_and_refusals(folder):
    found = read_items(write(folder, [[[10, 20, 50, 60], [300, 200, 390, 290]]]))
    assert [target.holds(0.9, 0.9) for target in found.items[0].targets] == [False, True]
    records = [
        {"id": "a", "box_type": "polygon", "box_coordinates": [0, 0, 200, 0, 0, 150]},
        {"id": "b", "box_type": "refusal", "box_coordinates": []},
        {"id": "c", "box_type": "bbox", "box_coordinates": [300, 200, 40, 30]},
        {"id": "d", "box_type": "circle", "box_coordinates": [1]},
    ]
    for record in records:
        record |= {"image_path": "a.png", "image_size": list(SIZE), "instruction": "x", "GUI_types": ["Icon"]}
    (folder / "items.json").write_text(json.dumps(records))
    polygon, refusal, box = read_items(folder / "items.json").items
    assert polygon.targets[0].holds(0.1, 0.1)
    assert not polygon.targets[0].holds(0.45, 0.45)
    assert refusal.refuses
    assert refusal.bucket == "refusal"
    assert box.targets[0].points == ((0.75, 200 / 300), (0.85, 230 / 300))
    assert box.ui_type == "Icon"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"instruction": "x"', "is damaged"),
        ('{"instruction": "x", "bbox": [1, 2, 3, 4], "img_filename": "a.png"}\n{broken\n', "line 2"),
        ("[1, 2]", "not a list of objects"),
        ('{"instruction": "x"}\n' + '{"a":' * 100_000, "line 2: nested too deeply"),
        ('[{"instruction": "x"}, ' + "[" * 100_000, "nested too deeply"),
        ('[{"instruction": "x", "bbox": [1, 2], "img_filename": "a.png"}]', "four numbers"),
        ('[{"instruction": "x", "bbox": [0, 0, 9, 9], "img_filename": "a.png", "img_size": 3}]', "img_size"),
    ],
)
def test_damaged_files_are_one_line(folder, text, match):
    path = folder / "items.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=match) as error:
        read_items(path)
    assert "\n" not in error.value.message


def test_duplicate_ids_are_refused(folder):
    path = write(folder, [[10, 20, 50, 60], [300, 200, 390, 290]], id="same")
    with pytest.raises(UserError, match="1 ids stand more than once: same"):
        read_items(path)
    path = write(folder, [[10, 20, 50, 60], [300, 200, 390, 290]], id="same", img_filename="absent.png")
    with pytest.raises(UserError, match="1 ids stand more than once: same"):
        read_annotations(path)


def test_edges_of_a_box_are_in_it():
    box = Target("box", ((0.1, 0.1), (0.3, 0.3)))
    assert box.holds(0.1, 0.3)
    assert not box.holds(0.30001, 0.2)
    item = Item("x", Path("x.png"), "x", [box])
    assert item.bucket == "1 to 5 %"


@needs_shared
def test_screenspot_v2_is_read_right(monkeypatch):
    """All 1,272 items: corners in pixels; "shop" is in the group of its file. Its screenshots are not at hand, so all are left out."""
    groups = Counter()
    sources = Counter()
    for file in sorted((SHARED / "data" / "v2p" / "screenspot_v2_annotations").iterdir()):
        monkeypatch.setattr(Path, "is_file", lambda path: True)
        found = read_annotations(file, images=file.parent)
        monkeypatch.undo()
        assert found.conventions == {file.name: "xyxy"}
        assert "impossible as xywh" in found.notes[0]
        groups.update(item.group for item in found.items)
        sources.update((item.platform, item.group) for item in found.items)
        for item, record in zip(found.items, json.loads(file.read_text()), strict=True):
            width, height = record["img_size"]
            expected = [min(max(v, 0), s) for v, s in zip(record["bbox"], (width, height) * 2, strict=True)]
            ours = [share * side for share, side in zip(item.targets[0].box, (width, height) * 2, strict=True)]
            assert ours == pytest.approx(expected)
    assert groups == {"mobile": 501, "desktop": 334, "web": 437}
    assert sources["shop", "mobile"] == 52
    assert sources["shop", "desktop"] == 28


@needs_shared
@pytest.mark.parametrize(("name", "items"), [("miniwob", 64), ("chromium_ui", 71)])
def test_real_pages_are_read_whole(name, items):
    found = read_items(SHARED / "data" / "v2p" / name)
    assert len(found.items) == items
    assert not found.left_out
    assert set(found.conventions.values()) == {"xyxy"}


def test_mixtures_take_what_their_strategy_says(tmp_path, folder):
    answer = {"from": "gpt", "value": "pyautogui.click(x=0.2, y=0.2)", "bbox_gt": [0.1, 0.1, 0.3, 0.3]}
    turns = [{"from": "human", "value": "<image>click the button"}, answer]
    (folder / "set.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}] * 10))
    mixture = folder / "mixture.yaml"
    entry = "- {json_path: set.json, images_folder: images, sampling_strategy: 'STRATEGY'}\n"
    parts = [entry.replace("STRATEGY", strategy) for strategy in ("random:30%", "first:2")]
    mixture.write_text("datasets:\n" + "".join(parts))
    data = read_training(mixture)
    assert len(data.examples) == 5
    (question,) = data.examples[0].questions
    assert question.instruction == "click the button"
    assert question.answer == "pyautogui.click(<|pointer_start|><|pointer_pad|><|pointer_end|>)"
    assert sample(range(10), "end:2", 0, "") == [8, 9]
    for strategy in ("some:3", "first", "first:x", "random:0"):
        with pytest.raises(UserError, match="sampling_strategy"):
            sample(range(10), strategy, 0, "here")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bbox_gt": [0.3, 0.1, 0.1, 0.3]}, "x1 < x2"),
        ({"bbox_gt": [10, 10, 30, 30]}, "shares"),
        ({"bbox_gt": None}, "0 boxes"),
        ({"value": 3}, "no text"),
    ],
)
def test_wrong_conversations_are_named(folder, change, match):
    answer = {"from": "gpt", "value": "pyautogui.click(x=0.2, y=0.2)", "bbox_gt": [0.1, 0.1, 0.3, 0.3]} | change
    turns = [{"from": "human", "value": "<image>click"}, answer, {"from": "gpt", "value": "x", "bbox_gt": 1}]
    (folder / "set.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    with pytest.raises(UserError, match=match):
        read_training(folder / "set.json")
