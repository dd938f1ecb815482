"""Tobii exports: units in headers, decimal signs, encodings."""

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions

from .conftest import make_scanpath, write_tobii


@pytest.mark.parametrize(
    ("decimal", "separator", "encoding"),
    [
        (",", "\t", "utf-8"),
        (",", ";", "utf-8-sig"),
        (".", "\t", "utf-16"),
        (".", ",", "utf-8"),
        (",", "\t", "utf-16-le"),
        (".", "\t", "utf-16-be"),
    ],
)
def test_spelling_does_not_matter(tmp_path, decimal, separator, encoding):
    wrote = make_scanpath()
    path = write_tobii([wrote], tmp_path / "export.tsv", decimal=decimal, separator=separator, encoding=encoding)
    (read,) = read_scanpaths(path).scanpaths
    np.testing.assert_array_equal(read.points, wrote.points)
    np.testing.assert_array_equal(read.duration, wrote.duration)


def test_timestamps_without_a_unit(tmp_path):
    """Studio's are ms, Pro Lab's µs: the fixations' durations tell them apart, and it is said."""
    for version, unit in (("studio", "ms"), ("v1", "µs")):
        reading = read_scanpaths(write_tobii([make_scanpath()], tmp_path / f"{version}.tsv", version))
        assert any(f"timestamps are taken as {unit}" in note for note in reading.notes)


@pytest.mark.parametrize("spelled", ["[μs]", "[µs]", "[us]"])
def test_micro_has_three_spellings(tmp_path, spelled):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    path.write_text(path.read_text("utf-8").replace("[μs]", spelled), "utf-8")
    np.testing.assert_array_equal(read_scanpaths(path).scanpaths[0].onset, make_scanpath().onset)


def test_normalised_positions_need_the_screen(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    lines = path.read_text("utf-8").replace("[MCS px]", "[MCS norm]").splitlines()
    small = [lines[0]]
    for line in lines[1:]:
        cells = line.split("\t")
        if cells[7]:
            cells[7], cells[8] = str(float(cells[7]) / 1680), str(float(cells[8]) / 1050)
        small.append("\t".join(cells))
    path.write_text("\n".join(small), "utf-8")
    reading = read_scanpaths(path)
    np.testing.assert_allclose(reading.scanpaths[0].points, make_scanpath().points, atol=1e-6)
    assert any("positions were normalised" in note for note in reading.notes)


def test_pixels_are_taken_of_several_units(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    lines = path.read_text("utf-8").splitlines()
    wide = [
        lines[0] + "\tFixation point X [MCS norm]\tFixation point Y [MCS norm]",
        *(line + "\t0.5\t0.5" for line in lines[1:]),
    ]
    path.write_text("\n".join(wide), "utf-8")
    np.testing.assert_array_equal(read_scanpaths(path).scanpaths[0].points, make_scanpath().points)


def test_rows_of_other_sensors_and_events(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    lines = path.read_text("utf-8").splitlines()
    wide = [lines[0] + "\tSensor"]
    for line in lines[1:]:
        gyroscope = line.split("\t")
        gyroscope[7] = "1.0"
        event = line.split("\t")
        event[4:9] = [""] * 5
        wide += ["\t".join(gyroscope) + "\tGyroscope", line + "\tEye Tracker", "\t".join(event) + "\t"]
    path.write_text("\n".join(wide), "utf-8")
    (read,) = read_scanpaths(path).scanpaths
    np.testing.assert_array_equal(read.points, make_scanpath().points)


def test_no_fixations_among_the_rows(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    path.write_text(path.read_text("utf-8").replace("Fixation\t", "Unclassified\t"), "utf-8")
    with pytest.raises(UserError, match="holds no fixations"):
        read_scanpaths(path)


def test_rows_of_another_width_are_counted(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    path.write_text(path.read_text("utf-8") + "5\ts1\n" + "\t".join("1" * 20) + "\n", "utf-8")
    assert read_scanpaths(path).left_out == {"rows with too few cells": 1, "rows with too many cells": 1}


def test_participants_are_kept_apart(tmp_path):
    wrote = [make_scanpath(subject="a"), make_scanpath(subject="b", seed=1)]
    reading = read_scanpaths(write_tobii(wrote, tmp_path / "export.tsv"), ReadOptions(min_duration=200))
    assert [each.subject for each in reading.scanpaths] == ["a", "b"]
    short = sum(int((each.duration < 200).sum()) for each in wrote)
    assert reading.left_out == {"fixations shorter than 200 ms": short}


@pytest.mark.parametrize(("version", "named", "wrong"), [("v2", "[μs]", "[ms]"), ("v2", "[μs]", "[s]")])
def test_a_unit_that_the_durations_contradict_is_refused(tmp_path, version, named, wrong):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv", version)
    path.write_text(path.read_text("utf-8").replace(f"timestamp {named}", f"timestamp {wrong}"), "utf-8")
    with pytest.raises(UserError, match="times its duration"):
        read_scanpaths(path)
    np.testing.assert_array_equal(
        read_scanpaths(path, ReadOptions(time_unit="us")).scanpaths[0].onset, make_scanpath().onset
    )


def test_recordings_on_two_screens_keep_their_own(tmp_path):
    path = write_tobii([make_scanpath(subject="a"), make_scanpath(subject="b", seed=1)], tmp_path / "export.tsv")
    lines = path.read_text("utf-8").splitlines()
    changed = [line.replace("\t1680\t1050", "\t800\t600") if "\tb\t" in line else line for line in lines]
    path.write_text("\n".join(changed), "utf-8")
    reading = read_scanpaths(path)
    assert [scanpath.display.size for scanpath in reading.scanpaths] == [(1680, 1050), (800, 600)]
    assert any("screens of 2 sizes" in note for note in reading.notes)


def test_an_option_that_the_durations_contradict_is_refused(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    with pytest.raises(UserError, match="times its duration"):
        read_scanpaths(path, ReadOptions(time_unit="s"))


def test_detection_has_no_samples_here(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    with pytest.raises(UserError, match="--detect ivt has no samples"):
        read_scanpaths(path, ReadOptions(detect="ivt"))


def test_an_eye_that_is_not_told_is_kept_and_said(tmp_path):
    path = write_tobii([make_scanpath()], tmp_path / "export.tsv")
    notes = read_scanpaths(path, ReadOptions(eye="left")).notes
    assert any("1 path(s) do not say which eye it was" in note for note in notes)
