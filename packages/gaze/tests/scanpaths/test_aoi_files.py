"""Areas of interest: files, which fixation belongs where, dwell times."""

import json

import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from gaze.scanpaths.aoi_files import assign, dwell, in_polygon, look_at_boxes, object_of_box, read_areas
from gaze.scanpaths.aois import Areas
from gaze.scanpaths.scanpath import Scanpath


def boxes(*sides) -> Areas:
    return Areas([str(n) for n in range(len(sides))], np.array(sides, float).reshape(-1, 4))


def test_inside_beside_and_nearest():
    areas = boxes((0, 0, 100, 100), (100, 0, 100, 100))
    points = np.array([[50, 50], [100, 0], [99.9, 99.9], [199, 50], [200, 50], [-1, 5]])
    assert assign(areas, points).tolist() == [0, 1, 0, 1, -1, -1]
    assert assign(areas, points, nearest=True).tolist() == [0, 1, 0, 1, 1, 0]


def test_of_overlapping_objects_the_smallest():
    areas = boxes((0, 0, 100, 100), (40, 40, 20, 20), (0, 0, 100, 100))
    assert assign(areas, np.array([[50, 50], [10, 10]])).tolist() == [1, 0]


def test_polygons_and_their_own_size():
    triangle = np.array([[0, 0], [100, 0], [0, 100]], float)
    areas = Areas(["triangle", "box"], np.array([[0, 0, 100, 100], [0, 0, 80, 80]], float), {0: triangle})
    # The triangle covers 5,000 px², the box 6,400: the triangle wins where it is.
    assert assign(areas, np.array([[10, 10], [70, 70], [90, 5], [95, 95]])).tolist() == [0, 1, 0, -1]


def test_in_polygon_of_a_hollow_shape():
    shape = np.array([[0, 0], [10, 0], [10, 10], [5, 3], [0, 10]], float)
    points = np.array([[5, 1], [5, 8], [1, 5], [9, 5], [11, 5]])
    assert in_polygon(shape, points).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("count", [1, 2000])
def test_one_and_two_thousand_objects(count):
    rng = np.random.default_rng(0)
    areas = boxes(*np.column_stack([rng.uniform(0, 2000, (count, 2)), rng.uniform(10, 60, (count, 2))]))
    points = rng.uniform(0, 2000, (10_000, 2))
    assigned = assign(areas, points)
    for place in range(0, 10_000, 501):
        left, top, width, height = areas.boxes.T
        x, y = points[place]
        inside = np.flatnonzero((x >= left) & (y >= top) & (x < left + width) & (y < top + height))
        expected = min(inside, key=lambda each: width[each] * height[each], default=-1)
        assert assigned[place] == expected
    assert (assign(areas, points, nearest=True) >= 0).all()


def test_no_objects_and_no_fixations():
    assert assign(boxes(), np.zeros((3, 2))).tolist() == [-1, -1, -1]
    assert assign(boxes((0, 0, 1, 1)), np.zeros((0, 2)), nearest=True).tolist() == []


def test_dwell():
    path = Scanpath([5, 5, 50, 5, 500], [5] * 5, [100, 200, 300, 400, 500], [0, 110, 320, 630, 1100], "a.png")
    areas = boxes((0, 0, 10, 10), (40, 0, 20, 10), (900, 0, 5, 5))
    rows = dwell(assign(areas, path.points), path, areas.names)
    assert rows == [
        {
            "area": "0",
            "fixations": 3,
            "entries": 2,
            "revisits": 1,
            "dwell_ms": 700.0,
            "first_fixation": 1,
            "first_at_ms": 0.0,
        },
        {
            "area": "1",
            "fixations": 1,
            "entries": 1,
            "revisits": 0,
            "dwell_ms": 300.0,
            "first_fixation": 3,
            "first_at_ms": 320.0,
        },
    ]


def test_dwell_where_times_are_not_known():
    path = Scanpath([5], [5], [np.nan], [np.nan])
    (row,) = dwell([0], path, ["cup"])
    assert row["dwell_ms"] is None
    assert row["first_at_ms"] is None


def test_object_of_a_targets_box():
    areas = boxes((0, 0, 100, 100), (100, 0, 100, 100))
    assert object_of_box(areas, (90, 0, 50, 50)) == 1
    assert object_of_box(areas, (900, 900, 5, 5)) == -1


JSONS = {
    "boxes": [{"name": "cup", "box": [10, 20, 30, 40]}, [0, 0, 5, 5]],
    "sides": [
        {"name": "cup", "xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60},
        {"left": 0, "top": 0, "width": 5, "height": 5},
    ],
    "polygon": [
        {"label": "cup", "polygon": [[10, 20], [40, 20], [40, 60], [10, 60]]},
        {"points": [0, 0, 5, 0, 5, 5, 0, 5]},
    ],
}


@pytest.mark.parametrize("kind", JSONS)
def test_json(tmp_path, kind):
    path = tmp_path / "areas.json"
    path.write_text(json.dumps(JSONS[kind]))
    areas = read_areas(path)[""]
    assert list(areas.names) == ["cup", "2"]
    assert areas.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 5, 5]]
    path.write_text(json.dumps({"a.png": JSONS[kind], "b.png": JSONS[kind][:1]}))
    assert {name: len(each) for name, each in read_areas(path).items()} == {"a.png": 2, "b.png": 1}


def test_coco_json(tmp_path):
    path = tmp_path / "coco.json"
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": []},
            {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]},
        ],
    }
    path.write_text(json.dumps(content))
    areas = read_areas(path)["a.png"]
    assert list(areas.names) == ["cup", "cup (2)"]
    assert list(areas.polygons) == [1]
    assert any("box of another" in note for note in areas.notes)
    path.write_text(json.dumps([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.9}]))
    assert list(read_areas(path)) == ["7"]


def test_csv(tmp_path):
    path = tmp_path / "areas.csv"
    path.write_text("image;name;xmin;ymin;xmax;ymax\na.png;cup;1,5;2;3;4\nb.png;;0;0;1;1\n")
    areas = read_areas(path)
    assert areas["a.png"].boxes.tolist() == [[1.5, 2, 1.5, 2]]
    assert list(areas["b.png"].names) == ["1"]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_label_image(tmp_path, suffix):
    labels = np.zeros((40, 60), np.uint16)
    labels[5:10, 20:30] = 7
    labels[8:20, 28:40] = 300
    path = tmp_path / f"labels{suffix}"
    Image.fromarray(labels).save(path)
    areas = read_areas(path)[""]
    assert list(areas.names) == ["7", "300"]
    assert areas.boxes.tolist() == [[20, 5, 10, 5], [28, 8, 12, 12]]
    points = np.array([[25.9, 6], [29, 9], [21, 12], [-1, 3], [60, 3]])
    assert assign(areas, points).tolist() == [0, 1, -1, -1, -1]


def test_objects_outside_and_over_each_other_are_noted(tmp_path):
    path = tmp_path / "areas.json"
    path.write_text(
        json.dumps([{"name": "out", "box": [900, 0, 5, 5]}, [0, 0, 50, 50], [10, 10, 50, 50], [60, 0, 5, 5]])
    )
    notes = read_areas(path, size=(800, 600))[""].notes
    assert any("outside of the picture: out" in note for note in notes)
    assert any(note.startswith("2 objects overlap") for note in notes)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[]", "no objects"),
        ("a.json", "[[1, 2, 0, 4]]", "no extent"),
        ("a.json", '[{"box": [1, 2]}]', "neither a box nor a polygon"),
        ("a.json", '[{"polygon": [[1, 2], [3, 4]]}]', "three corners"),
        ("a.json", '{"a.png": 3}', "not a list"),
        ("a.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 2, "bbox": [1, 1, 1, 1]}]}', "does not list"),
        ("a.json", '{"annotations": [{"image_id": 2}]}', "no bbox"),
        ("a.csv", "a,b\n1,2\n", "no columns of boxes"),
        ("a.csv", "left,top,width,height\n1,2,3,\n", "lacks a side"),
        ("a.png", "no picture", "cannot be read as a picture"),
        ("a.doc", "x", "not read from"),
    ],
)
def test_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        read_areas(tmp_path / name)
    assert said in error.value.message


def test_a_photograph_is_not_a_label_image(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a label image"):
        read_areas(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="every pixel is 0"):
        read_areas(tmp_path / "a.png")


def test_fractions_and_sides_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "areas.json"
    path.write_text(json.dumps({"a.png": [[0.1, 0.1, 0.5, 0.4], [0.5, 0.5, 0.5, 0.5]]}))
    with pytest.raises(UserError, match="fractions of the picture"):
        read_areas(path)
    for side in range(4):
        box: list[float] = [10, 10, 50, 40]
        box[side] = float("nan")
        path.write_text(json.dumps({"a.png": [{"name": "cup", "box": box}]}))
        with pytest.raises(UserError, match="'cup' has a side that is not a number"):
            read_areas(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 5}, "images is not a list"),
        ({"categories": [3]}, "categories is not a list of objects"),
        ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]}, "the id 1 for 'a.png' and"),
    ],
)
def test_coco_lists_that_are_none(tmp_path, change, words):
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 30, 40]}]}
    (tmp_path / "a.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=words):
        read_areas(tmp_path / "a.json")


def test_areas_in_percent_are_asked_about():
    boxes = np.array([[10, 10, 50, 40], [60, 60, 40, 40]], float)
    assert any("percent" in note for note in look_at_boxes(boxes, ["a", "b"], (1680, 1050)))
    assert not any("percent" in note for note in look_at_boxes(boxes, ["a", "b"], (120, 110)))
