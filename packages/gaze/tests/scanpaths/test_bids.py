"""Eye-tracking BIDS: side-cars that are wrong, units, origins, empty tables."""

import gzip
import json

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.commands.inspect import inspect
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath


@pytest.fixture
def data_set(tmp_path):
    write_scanpaths(
        [make_scanpath("a.png", "01", eye="left"), make_scanpath("b.png", "01", 1, eye="left")], tmp_path / "bids"
    )
    return tmp_path / "bids"


def change(path, **values):
    content = json.loads(path.read_text())
    content |= values
    path.write_text(json.dumps(content))


def test_a_wrong_rate_is_said_and_the_timestamps_are_used(data_set):
    change(data_set / "task-search_physio.json", SamplingFrequency=1000)
    reading = read_scanpaths(data_set)
    assert any("its JSON says 1000 Hz" in note and "250 Hz" in note for note in reading.notes)
    np.testing.assert_allclose(reading.scanpaths[0].onset, make_scanpath().onset, atol=1e-6)


@pytest.mark.parametrize(
    ("origin", "back"),
    [(["bottom", "left"], lambda x, y: (x, 1050 - y)), (["center", "center"], lambda x, y: (x + 840, 525 - y))],
)
def test_origins(data_set, origin, back):
    change(
        data_set / "task-search_events.json",
        StimulusPresentation={"ScreenOrigin": origin, "ScreenResolution": [1680, 1050]},
    )
    reading = read_scanpaths(data_set)
    wrote = make_scanpath()
    np.testing.assert_allclose(reading.scanpaths[0].points, np.stack(back(wrote.x, wrote.y), 1), atol=1e-6)


def test_a_closer_json_wins(data_set):
    sidecar = data_set / "sub-01" / "beh" / "sub-01_task-search_recording-eye1_physio.json"
    change(sidecar, RecordedEye="right")
    assert {each.eye for each in read_scanpaths(data_set).scanpaths} == {"right"}


def test_one_file_of_a_data_set(data_set):
    whole = read_scanpaths(data_set)
    for name in ("physio", "physioevents"):
        reading = read_scanpaths(data_set / "sub-01" / "beh" / f"sub-01_task-search_recording-eye1_{name}.tsv.gz")
        assert [each.x.tolist() for each in reading.scanpaths] == [each.x.tolist() for each in whole.scanpaths]


def test_empty_tables_are_named(data_set):
    for path in (data_set / "sub-01" / "beh").glob("*.tsv.gz"):
        path.write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match=r"eye1_physioevents.tsv.gz is empty"):
        read_scanpaths(data_set)


def test_samples_alone_are_detected_where_the_geometry_is_known(data_set):
    (path,) = (data_set / "sub-01" / "beh").glob("*_physioevents.tsv.gz")
    path.unlink()
    reading = read_scanpaths(data_set)
    wrote = make_scanpath()
    (first, _) = reading.scanpaths
    assert first.provenance.startswith("detected: I-VT")
    assert first.stimulus == "a.png"
    assert len(first) == len(wrote)
    np.testing.assert_allclose(first.points, wrote.points, atol=3)
    with pytest.raises(UserError, match="no fixations"):
        read_scanpaths(data_set, ReadOptions(detect="never"))


def test_durations_in_ms_where_seconds_are_meant(data_set):
    change(data_set / "task-search_physioevents.json", duration={"Description": "no unit"})
    (path,) = (data_set / "sub-01" / "beh").glob("*_physioevents.tsv.gz")
    lines = []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        cells = line.split("\t")
        cells[1] = str(float(cells[1]) * 1000)
        lines.append("\t".join(cells))
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    reading = read_scanpaths(data_set)
    np.testing.assert_allclose(reading.scanpaths[0].duration, make_scanpath().duration, atol=1e-6)
    assert any("durations are taken as ms" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("task-search_physio.json", {"Columns": "x"}, "does not name the columns"),
        ("task-search_physio.json", {"Columns": ["timestamp", "a", "b"]}, "names no column x_coordinate"),
        ("task-search_physio.json", {"SampleCoordinateSystem": "eye-in-head"}, "eye-in-head"),
        ("task-search_physio.json", {"SamplingFrequency": "fast"}, "SamplingFrequency"),
        ("task-search_physio.json", {"x_coordinate": {"Units": "furlong"}}, "furlong"),
        ("task-search_events.json", {"StimulusPresentation": {"ScreenOrigin": ["north"]}}, "ScreenOrigin"),
        ("task-search_events.json", {"StimulusPresentation": {"ScreenSize": "big"}}, "ScreenSize"),
        ("task-search_events.json", {"StimulusPresentation": 3}, "StimulusPresentation"),
        ("sub-01/beh/sub-01_task-search_recording-eye1_physio.json", {"RecordedEye": "third"}, "third"),
    ],
)
def test_side_cars_that_are_wrong(data_set, file, values, said):
    change(data_set / file, **values)
    with pytest.raises(UserError) as error:
        read_scanpaths(data_set)
    assert said in error.value.message


def test_a_table_that_is_not_gzip(data_set):
    (path,) = (data_set / "sub-01" / "beh").glob("*_physio.tsv.gz")
    path.write_bytes(b"plain text")
    with pytest.raises(UserError, match="cannot be read"):
        read_scanpaths(data_set)


def test_a_table_that_was_cut(data_set):
    (path,) = (data_set / "sub-01" / "beh").glob("*_physio.tsv.gz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        read_scanpaths(data_set)


def test_several_displays_are_refused_when_writing(tmp_path):
    from gaze.scanpaths.scanpath import Display

    with pytest.raises(UserError, match="one display"):
        write_scanpaths([make_scanpath(), make_scanpath("b", display=Display(10, 10))], tmp_path / "bids")
    assert not (tmp_path / "bids").exists()


def two_eyes(folder, **right):
    """Left eye's and right eye's recording of one run; `right` changes the side-car of the latter."""
    left = make_scanpath("a.png", "01", eye="left")
    write_scanpaths([left, make_scanpath("a.png", "01", 1, eye="right")], folder)
    for kind in ("physio", "physioevents"):
        path = folder / "sub-01" / "beh" / f"sub-01_task-search_recording-eye2_{kind}.json"
        path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | right))
    return left


def test_an_eye_that_is_passed_over_does_not_change_the_units_of_the_other(tmp_path):
    left = two_eyes(tmp_path / "bids")
    change(
        tmp_path / "bids" / "task-search_events.json",
        StimulusPresentation={"ScreenOrigin": ["bottom", "left"], "ScreenResolution": [1680, 1050]},
    )
    (read,) = read_scanpaths(tmp_path / "bids", ReadOptions(eye="left")).scanpaths
    np.testing.assert_allclose(read.y, 1050 - left.y, atol=1e-6)


def test_recordings_in_different_units_are_not_mixed(tmp_path):
    mm = {"Units": "mm"}
    two_eyes(tmp_path / "bids", x_coordinate=mm, y_coordinate=mm)
    with pytest.raises(UserError, match="differ in units or origin"):
        read_scanpaths(tmp_path / "bids")
    assert len(read_scanpaths(tmp_path / "bids", ReadOptions(eye="left")).scanpaths) == 1
    change(tmp_path / "bids" / "task-search_physio.json", x_coordinate=mm)
    with pytest.raises(UserError, match="positions are in different units"):
        read_scanpaths(tmp_path / "bids", ReadOptions(eye="left"))


def test_timestamps_of_another_unit_are_no_samples_of_a_tracker(data_set):
    (path,) = (data_set / "sub-01" / "beh").glob("*_physioevents.tsv.gz")
    path.unlink()
    change(data_set / "task-search_physio.json", timestamp={"Units": "s"})
    with pytest.raises(UserError, match=r"0\.25 samples per second"):
        read_scanpaths(data_set)


def test_inspect_of_a_data_set_that_cannot_be_read_is_an_error(data_set):
    change(data_set / "task-search_physio.json", SampleCoordinateSystem="eye-in-head")
    with pytest.raises(UserError, match="not on the screen"):
        inspect(data_set)


@pytest.mark.parametrize("unit", ["furlong", 5, ["pixel"]])
def test_units_of_all_samples_that_are_not_known_are_refused(data_set, unit):
    sidecar = data_set / "task-search_physio.json"
    described = {name: {"Description": "gaze"} for name in ("x_coordinate", "y_coordinate")}
    change(sidecar, SampleCoordinateUnits=unit, **described)
    with pytest.raises(UserError, match="expected pixel, mm, ratio"):
        read_scanpaths(data_set)


def test_units_that_are_not_named_are_said(data_set):
    described = {name: {"Description": "gaze"} for name in ("x_coordinate", "y_coordinate")}
    change(data_set / "task-search_physio.json", **described)
    change(data_set / "task-search_physioevents.json", **described)
    assert any("does not name the unit" in note for note in read_scanpaths(data_set).notes)
    change(data_set / "task-search_physio.json", SampleCoordinateUnits="pixel", **described)
    assert not any("does not name the unit" in note for note in read_scanpaths(data_set).notes)


@pytest.mark.parametrize("unit", ["ns", "minutes", 3])
def test_units_of_times_that_are_not_known_are_refused(data_set, unit):
    change(data_set / "task-search_physio.json", timestamp={"Units": unit})
    with pytest.raises(UserError, match="says that timestamp is in"):
        read_scanpaths(data_set)


@pytest.mark.parametrize("unit", ["microseconds", "usec", "us"])
def test_spelled_out_units_of_times(data_set, unit):
    """Durations in µs as their JSON says: as 1000 times longer ones they would be refused."""
    change(data_set / "task-search_physioevents.json", duration={"Units": unit})
    with pytest.raises(UserError, match=r"if durations are in us, as its JSON says, half of the fixations last less"):
        read_scanpaths(data_set)


def test_positions_of_events_have_a_unit_of_their_own(data_set):
    change(data_set / "task-search_physioevents.json", x_coordinate={"Units": "mm"}, y_coordinate={"Units": "mm"})
    with pytest.raises(UserError, match="positions are in different units"):
        read_scanpaths(data_set)


def test_no_option_stands_against_the_format(data_set):
    with pytest.raises(UserError, match="--time-unit s, but the format counts in ms"):
        read_scanpaths(data_set, ReadOptions(time_unit="s"))


def test_fixations_of_trials_that_overlap_are_said(data_set):
    (path,) = (data_set / "sub-01" / "beh").glob("*_events.tsv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert any("12 fixations count in two of them" in note for note in read_scanpaths(data_set).notes)


def test_a_damaged_gzip_file_is_one_line_and_leaves_the_others(data_set):
    (path,) = (data_set / "sub-01" / "beh").glob("*_physioevents.tsv.gz")
    raw = path.read_bytes()
    path.write_bytes(raw[:40] + bytes(len(raw) - 60) + raw[-20:])
    with pytest.raises(UserError, match="cannot be read"):
        read_scanpaths(data_set)
