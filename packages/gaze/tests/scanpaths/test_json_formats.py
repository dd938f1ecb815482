"""COCO-Search18 and Amazon JSON, and our JSON lines: records that do not fit."""

import json

import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath, write_amazon


def record(**values):
    known = {"name": "1.jpg", "subject": 1, "task": "cup", "condition": "present", "bbox": [1, 2, 3, 4]}
    return known | {"X": [840.0, 100.0], "Y": [525.0, 90.0], "T": [200, 300], "length": 2, "split": "train"} | values


def read(tmp_path, *records, options=ReadOptions()):
    path = tmp_path / "all.json"
    path.write_text(json.dumps(list(records)))
    return read_scanpaths(path, options)


def test_a_record(tmp_path):
    reading = read(tmp_path, record(RT=512))
    (scanpath,) = reading.scanpaths
    assert (scanpath.subject, scanpath.task, scanpath.target_box, scanpath.split) == ("1", "cup", (1, 2, 3, 4), "train")
    assert scanpath.details == {"RT": 512}
    assert scanpath.display.size == (1680, 1050)
    assert any("1680 × 1050" in note for note in reading.notes)


def test_lengths_that_differ(tmp_path):
    """The published test file once lacked fixations while T was longer: it is not known which."""
    reading = read(tmp_path, record(), record(T=[1, 2, 3]), record(X=[1.0]), record(length=5))
    assert len(reading.scanpaths) == 1
    assert reading.left_out == {
        "trials whose X, Y and T have different lengths": 2,
        "trials whose length is not that of X": 1,
    }


def test_target_absent(tmp_path):
    (scanpath,) = read(tmp_path, record(condition="absent", bbox=[0, 0, 0, 0])).scanpaths
    assert scanpath.target_present is False
    assert scanpath.target_box is None


def test_no_one_and_two_fixations(tmp_path):
    reading = read(
        tmp_path, record(X=[], Y=[], T=[], length=0), record(X=[5.0], Y=[5.0], T=[9], length=1), record(name="2.jpg")
    )
    assert [len(each) for each in reading.scanpaths] == [1, 2]
    assert reading.left_out == {"trials without a fixation": 1}
    with pytest.raises(UserError, match="no fixations that can be used: 1 trials without a fixation"):
        read(tmp_path, record(X=[], Y=[], T=[], length=0))


def test_missing_values_and_off_screen(tmp_path):
    reading = read(tmp_path, record(X=[None, 5.0, -9.0], Y=[1.0, 5.0, 5.0], T=[1, 200, 300], length=3))
    assert reading.scanpaths[0].x.tolist() == [5.0, -9.0]
    assert reading.left_out == {"fixations without a position": 1}
    assert any("beside the screen were kept" in note for note in reading.notes)


def test_normalised_positions_are_not_taken_for_pixels(tmp_path):
    small = record(X=[0.5, 0.1], Y=[0.5, 0.9])
    with pytest.raises(UserError, match="they are not pixels"):
        read(tmp_path, small)
    (scanpath,) = read(tmp_path, small, options=ReadOptions(units="normalised")).scanpaths
    assert scanpath.x.tolist() == [840, 168]


def test_repeated_trials_are_named_apart(tmp_path):
    reading = read(tmp_path, record(), record(), record(subject=2))
    assert [each.trial for each in reading.scanpaths] == ["", "1.jpg (2)", ""]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"X": "far"}, "X, Y or T"),
        ({"T": [1, "x"]}, "X, Y or T"),
        ({"X": None}, "X, Y or T"),
        ({"Y": [True, 2]}, "X, Y or T"),
    ],
)
def test_records_of_other_types_are_counted(tmp_path, values, reason):
    reading = read(tmp_path, record(), record(**values), 3)
    assert len(reading.scanpaths) == 1
    assert any(reason in each for each in reading.left_out)
    assert reading.left_out["records that are not objects"] == 1


def test_not_json(tmp_path):
    path = tmp_path / "all.json"
    path.write_text('[{"X": [1], "Y": ')
    with pytest.raises(UserError, match="is not JSON"):
        read_scanpaths(path)


def test_detections_are_areas(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(UserError) as error:
        read_scanpaths(path)
    assert "--areas" in error.value.hint


def test_amazon_damaged(tmp_path):
    path = write_amazon(
        [make_scanpath("1.jpg"), make_scanpath("2.jpg"), make_scanpath("3.jpg")], tmp_path / "amazon.json"
    )
    content = json.loads(path.read_text())
    content["1.jpg"]["fixations"]["s1"][0] = [1]
    content["2.jpg"] = 5
    content["3.jpg"]["size"] = None
    content["3.jpg"]["ground_truth"] = []
    path.write_text(json.dumps(content))
    reading = read_scanpaths(path)
    assert [each.stimulus for each in reading.scanpaths] == ["3.jpg"]
    assert reading.scanpaths[0].target_box is None
    assert reading.scanpaths[0].display.size is None
    assert reading.left_out == {"trials whose fixations are not pairs of numbers": 1, "pictures without fixations": 1}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"x": [', '"x": ["a", ', "x is not a list"),
        ('"eye": "unknown"', '"eye": "third"', "eye"),
        ('"duration": [', '"duration": [-', "negative"),
    ],
)
def test_json_lines_that_do_not_fit(tmp_path, old, new, said):
    path = tmp_path / "all.jsonl"
    write_scanpaths([make_scanpath()], path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        read_scanpaths(path)


def test_parquet_that_was_cut(tmp_path):
    path = tmp_path / "all.parquet"
    write_scanpaths([make_scanpath()], path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + content[-(len(content) // 3) :])
    with pytest.raises(UserError):
        read_scanpaths(path)


def test_nothing_half_written(tmp_path):
    import numpy as np

    unknown = make_scanpath()
    unknown.duration[:] = np.nan
    for name in ("s1.asc", "bids"):
        with pytest.raises(UserError, match="needs the onset and duration"):
            write_scanpaths([unknown], tmp_path / name)
    with pytest.raises(UserError, match=r"not written as \.xlsx"):
        write_scanpaths([unknown], tmp_path / "a.xlsx")
    with pytest.raises(UserError, match="no scanpaths"):
        write_scanpaths([], tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_hold_is_said(tmp_path):
    known = make_scanpath(target_box=(1, 2, 3, 4))
    assert "CSV holds no target_box" in write_scanpaths([known], tmp_path / "a.csv")
    assert any("no onset" in line for line in write_scanpaths([known], tmp_path / "a.tsv"))
    assert write_scanpaths([known], tmp_path / "a.jsonl") == []


def test_options_count_for_our_own_files_too(tmp_path):
    wrote = [make_scanpath(eye="left"), make_scanpath(eye="right", seed=1)]
    for name in ("a.jsonl", "a.parquet"):
        write_scanpaths(wrote, tmp_path / name)
        (left,) = read_scanpaths(tmp_path / name, ReadOptions(eye="left", min_duration=250)).scanpaths
        assert left.eye == "left"
        assert left.duration.min() >= 250
        assert left.source == wrote[0].source  # whatever was left out
        with pytest.raises(UserError, match="the format counts in px"):
            read_scanpaths(tmp_path / name, ReadOptions(units="normalised"))
        with pytest.raises(UserError, match="no samples to detect"):
            read_scanpaths(tmp_path / name, ReadOptions(detect="ivt"))


def test_odd_lines_of_our_own_files(tmp_path):
    path = tmp_path / "a.jsonl"
    write_scanpaths([make_scanpath(stimulus="é.png")], path)
    whole = path.read_text("utf-8")
    path.write_text("\ufeff" + whole, "utf-8")  # an editor's mark
    assert len(read_scanpaths(path).scanpaths) == 1
    path.write_text(whole.replace("é.png", "\\ud800.png"), "utf-8")
    (read,) = read_scanpaths(path).scanpaths
    assert read.stimulus == "?.png"
    path.write_text(whole.replace('"width": 1680', '"width": 0'), "utf-8")
    with pytest.raises(UserError, match="display is not a screen's size"):
        read_scanpaths(path)
