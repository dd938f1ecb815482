"""Grounding items: layouts, conventions, masks, and what is refused with a line that says where."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from vision_language.items.grounding import read_items
from vision_language.items.item import Item
from vision_language.items.mask_files import fill_polygons, read_mask, read_run_lengths
from vision_language.items.triplets import read_triplets


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    Image.new("RGB", (40, 20), "blue").save(tmp_path / "b.png")
    return tmp_path


def lines(folder, *entries, name="items.jsonl"):
    path = folder / name
    path.write_text("".join(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries))
    return path


A = {"id": "1", "image": "a.png", "sentence": "the left", "box": [0, 0, 10, 20], "box_convention": "pixels"}


@pytest.mark.parametrize(
    ("convention", "box"),
    [
        ("pixels", [4, 5, 24, 15]),
        ("pixels-xywh", [4, 5, 20, 10]),
        ("normalised", [0.1, 0.25, 0.6, 0.75]),
        ("thousandths", [100, 250, 600, 750]),
    ],
)
def test_one_box_in_every_convention(folder, convention, box):
    path = lines(folder, A | {"box": box, "box_convention": convention})
    item = read_items(path).items[0]
    assert item.box_in(40, 20) == pytest.approx((4, 5, 24, 15))
    mask = item.mask_in(40, 20)
    assert mask.sum() == 200
    assert mask[5, 4]
    assert not mask[15, 24]


def test_a_convention_is_never_guessed(folder):
    entry = {key: value for key, value in A.items() if key != "box_convention"}
    with pytest.raises(UserError, match="does not say how its boxes are counted"):
        read_items(lines(folder, entry))
    assert read_items(lines(folder, entry), boxes="pixels").items[0].convention == "pixels"
    with pytest.raises(UserError, match="in several ways"):
        read_items(lines(folder, A, A | {"id": "2", "box_convention": "normalised"}))
    with pytest.raises(UserError, match="--boxes says normalised"):
        read_items(lines(folder, A), boxes="normalised")
    item = read_items(lines(folder, entry), boxes="normalised").items[0]
    with pytest.raises(UserError, match="as normalised its box is 0,0 to 400,400"):
        item.box_in(40, 20)


def test_bad_lines_are_named(folder):
    with pytest.raises(UserError, match=r"line 2 is not JSON"):
        read_items(lines(folder, A, '{"id": 2, "image"\n'))
    with pytest.raises(UserError, match="1 ids occur again: 1"):
        read_items(lines(folder, A, A))
    with pytest.raises(UserError, match="is empty"):
        read_items(lines(folder))
    with pytest.raises(UserError, match=r"line 1 has no box, mask, polygons or rle"):
        read_items(lines(folder, {"id": "1", "image": "a.png", "sentence": "x"}))
    with pytest.raises(UserError, match="not four numbers"):
        read_items(lines(folder, A | {"box": [1, 2, 3]}))
    with pytest.raises(UserError, match="none of its 1 pictures"):
        read_items(lines(folder, A | {"image": "absent.png"}))


def test_missing_pictures_are_counted_and_never_judged(folder):
    found = read_items(lines(folder, A, A | {"id": "2", "image": "gone.png"}))
    assert len(found.items) == 1
    assert found.missing == ("gone.png",)
    assert "1 left out" in found.account()


def test_vizwiz_and_screenspot(folder):
    polygon = [{"x": 0, "y": 0}, {"x": 10, "y": 0}, {"x": 10, "y": 19}, {"x": 0, "y": 19}]
    content = {"a.png": {"question": "what is it?", "most_common_answer": "a cup", "answer_grounding": polygon}}
    (folder / "val_grounding.json").write_text(json.dumps(content))
    found = read_items(folder / "val_grounding.json")
    assert found.layout == "VizWiz grounding"
    assert found.items[0].sentence == "what is it? a cup"
    assert found.items[0].mask_in(40, 20).sum() == 11 * 20
    entries = [{"img_filename": "b.png", "bbox": [1, 2, 3, 4], "instruction": "click it", "id": "x"}]
    (folder / "screens.json").write_text(json.dumps(entries))
    assert read_items(folder / "screens.json", boxes="pixels").items[0].box_in(40, 20) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("truth", "line"),
    [
        ({}, "has no answer_grounding"),
        ({"answer_grounding": [{"x": 1}]}, "is no list of points"),
        ({"answer_grounding": 3}, "is no list of points"),
        ({"answer_grounding": [{"x": 1, "y": "low"}]}, "is no list of points"),
    ],
)
def test_vizwiz_truth_that_is_not_known_is_no_empty_mask(folder, truth, line):
    path = folder / "v.json"
    path.write_text(json.dumps({"a.png": {"question": "what?", "most_common_answer": "a cup"} | truth}))
    with pytest.raises(UserError, match=line):
        read_items(path)


@pytest.mark.parametrize("size", [5, "20, 40", None, [40, 20]])
def test_run_lengths_of_another_size(size):
    with pytest.raises(UserError, match=r"the picture is \[20, 40\]"):
        read_run_lengths("x", {"size": size, "counts": [800]}, (20, 40))


def test_refcoco_is_read_without_running_anything(folder):
    reference = {"ref_id": 1, "ann_id": 7, "image_id": 3, "sentences": [{"sent_id": 5, "sent": "left one"}]}
    (folder / "refs(unc).p").write_bytes(pickle.dumps([reference]))
    annotation = {"id": 7, "bbox": [2, 3, 10, 5], "segmentation": [[2, 3, 11, 3, 11, 7, 2, 7]]}
    content = {"annotations": [annotation], "images": [{"id": 3, "file_name": "a.png"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    item = read_items(folder / "refs(unc).p", images=folder).items[0]
    assert (item.name, item.sentence) == ("5", "left one")
    assert item.box_in(40, 20) == (2, 3, 12, 8)
    assert item.mask_in(40, 20).sum() == 50

    class Runs:
        def __reduce__(self):
            return (print, ("run!",))

    (folder / "refs(unc).p").write_bytes(pickle.dumps([Runs()]))
    with pytest.raises(UserError, match="would call"):
        read_items(folder / "refs(unc).p", images=folder)


def test_masks_in_every_form(folder):
    mask = np.zeros((20, 40), bool)
    mask[3:8, 2:12] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "m.png")
    np.testing.assert_array_equal(read_mask(folder / "m.png", (20, 40)), mask)
    np.testing.assert_array_equal(fill_polygons("x", [[2, 3, 11, 3, 11, 7, 2, 7]], (20, 40)), mask)
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    np.testing.assert_array_equal(read_run_lengths("x", {"size": [20, 40], "counts": counts}, (20, 40)), mask)
    assert not fill_polygons("x", [], (20, 40)).any()
    with pytest.raises(UserError, match="add up to 799"):
        read_run_lengths("x", {"size": [20, 40], "counts": [799]}, (20, 40))
    with pytest.raises(UserError, match="40 × 20, its picture 39 × 20"):
        read_mask(folder / "m.png", (20, 39))
    with pytest.raises(UserError, match="a polygon of 2 points"):
        fill_polygons("x", [[0, 0, 1, 1]], (20, 40))


def test_compressed_run_lengths_as_coco_writes_them():
    # 4 × 4: zeros but a 2 × 2 block at rows 1-2, columns 1-2, down the columns: runs 5 2 2 2 5
    mask = read_run_lengths("x", {"size": [4, 4], "counts": "5222N0"[:0] + _compress([5, 2, 2, 2, 5])}, (4, 4))
    assert mask[1:3, 1:3].all()
    assert mask.sum() == 4


def _compress(counts):
    """COCO's rule, written anew from its description."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text += chr(48 + (bits | 32 if more else bits))
    return text


def test_an_item_of_another_size_says_so():
    item = Item("7", None, "x", (0, 0, 50, 10), "pixels")
    with pytest.raises(UserError, match="of a picture of 40 × 20"):
        item.box_in(40, 20)


def test_llava_conversations(folder):
    turns = [
        {"from": "human", "value": "<image>\nwhich colour?"},
        {"from": "gpt", "value": "red"},
        {"from": "human", "value": "which shape?"},
        {"from": "gpt", "value": "First. " + "word " * 80},
    ]
    content = [
        {"id": "1", "image": "a.png", "conversations": turns},
        {"id": "2", "conversations": turns},
        {"id": "3", "image": "gone.png", "conversations": turns[:2]},
    ]
    (folder / "llava.json").write_text(json.dumps(content))
    found = read_triplets(folder / "llava.json")
    assert [(t.instruction, t.answer) for t in found.triplets] == [("which colour?", "red"), ("which shape?", "First")]
    assert (found.without_picture, found.missing) == (1, 1)
