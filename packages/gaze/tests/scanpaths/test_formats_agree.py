"""Acceptance check 9: the same search, written in each format, gives the same scanpath."""

from dataclasses import replace

import numpy as np
import pytest

from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Scanpath
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath, write_amazon, write_tobii


def same(
    read: Scanpath, wrote: Scanpath, *, durations: bool = True, onsets: bool = True, names=("stimulus", "subject")
) -> None:
    np.testing.assert_allclose(read.points, wrote.points, atol=1e-6)
    if durations:
        np.testing.assert_allclose(read.duration, wrote.duration, atol=1e-6)
    else:
        assert np.isnan(read.duration).all()
    if onsets:
        np.testing.assert_allclose(read.onset, wrote.onset, atol=1e-6)
    else:
        assert np.isnan(read.onset).all()
    for name in names:
        assert getattr(read, name) == getattr(wrote, name)
    assert read.display.size == (1680, 1050)


@pytest.mark.parametrize("eye", ["left", "right"])
def test_asc(tmp_path, eye):
    wrote = [make_scanpath("a.png", eye=eye), make_scanpath("b.png", seed=1, eye=eye)]
    write_scanpaths(wrote, tmp_path / "s1.asc")
    reading = read_scanpaths(tmp_path / "s1.asc")
    assert reading.kind == "EyeLink ASC"
    assert not reading.left_out
    for read, written in zip(reading.scanpaths, wrote, strict=True):
        same(read, written, names=("stimulus", "subject", "eye", "trial", "task"))
        assert read.provenance == "tracker"


def test_asc_of_both_eyes(tmp_path):
    left = make_scanpath(eye="left")
    right = replace(left, eye="right", x=left.x + 3, onset=left.onset + 2)
    write_scanpaths([left, right], tmp_path / "s1.asc")
    reading = read_scanpaths(tmp_path / "s1.asc")
    for read, written in zip(reading.scanpaths, (left, right), strict=True):
        same(read, written, names=("stimulus", "subject", "eye"))
    only = read_scanpaths(tmp_path / "s1.asc", ReadOptions(eye="right"))
    assert [each.eye for each in only.scanpaths] == ["right"]
    assert only.left_out == {"fixations of the left eye": len(left)}


@pytest.mark.parametrize("version", ["studio", "v1", "v2"])
def test_tobii(tmp_path, version):
    wrote = [make_scanpath("a.png"), make_scanpath("b.png", "s2", seed=1)]
    path = write_tobii(wrote, tmp_path / "export.tsv", version)
    for read, written in zip(read_scanpaths(path).scanpaths, wrote, strict=True):
        same(read, written)


def test_coco_search18(tmp_path):
    wrote = [
        make_scanpath("a.png", "1", target_box=(1, 2, 3, 4), target_present=True, split="valid"),
        make_scanpath("b.png", "2", seed=1),
    ]
    write_scanpaths(wrote, tmp_path / "all.json")
    for read, written in zip(read_scanpaths(tmp_path / "all.json").scanpaths, wrote, strict=True):
        same(read, written, names=("stimulus", "subject", "trial", "task", "target_box", "target_present", "split"))


def test_bids(tmp_path):
    wrote = [
        make_scanpath("a.png", "01", eye="left"),
        make_scanpath("b.png", "01", 1, eye="left"),
        make_scanpath("a.png", "02", 2, eye="right"),
    ]
    write_scanpaths(wrote, tmp_path / "bids")
    reading = read_scanpaths(tmp_path / "bids")
    assert reading.kind == "eye-tracking BIDS"
    for read, written in zip(reading.scanpaths, wrote, strict=True):
        same(read, written, names=("stimulus", "subject", "trial", "eye", "task"))
        assert read.display == written.display


def test_bids_of_many_trials(tmp_path):
    """Trials begin at seconds with six digits, fixations at milliseconds: none falls between."""
    wrote = [make_scanpath(f"{n}.png", "01", n, count=3) for n in range(120)]
    write_scanpaths(wrote, tmp_path / "bids")
    reading = read_scanpaths(tmp_path / "bids")
    assert not reading.left_out
    for read, written in zip(reading.scanpaths, wrote, strict=True):
        same(read, written)


def test_bids_without_positions_of_fixations(tmp_path):
    """Converters write onset, duration and type alone: positions are then those of the samples."""
    wrote = make_scanpath("a.png", "01", eye="left")
    write_scanpaths([wrote], tmp_path / "bids")
    sidecar = tmp_path / "bids" / "task-search_physioevents.json"
    sidecar.write_text(
        sidecar.read_text().replace('"x_coordinate"', '"other_x"').replace('"y_coordinate"', '"other_y"')
    )
    (read,) = read_scanpaths(tmp_path / "bids").scanpaths
    np.testing.assert_allclose(read.points, wrote.points, atol=0.02)
    np.testing.assert_allclose(read.duration, wrote.duration, atol=1e-6)


def test_multimatch(tmp_path):
    wrote = make_scanpath("shelf", "01")
    write_scanpaths([wrote], tmp_path / "shelf_sub-01.tsv")
    (read,) = read_scanpaths(tmp_path / "shelf_sub-01.tsv", ReadOptions(screen=(1680, 1050))).scanpaths
    same(read, wrote, onsets=False)


def test_multimatch_of_several(tmp_path):
    wrote = [make_scanpath("a", "01"), make_scanpath("b", "01", 1), make_scanpath("b", "02", 2)]
    write_scanpaths(wrote, tmp_path / "vectors", "multimatch")
    reading = read_scanpaths(tmp_path / "vectors", ReadOptions(screen=(1680, 1050)))
    for read, written in zip(reading.scanpaths, wrote, strict=True):
        same(read, written, onsets=False)


def test_amazon(tmp_path):
    wrote = make_scanpath("1.jpg", "3")
    (read,) = read_scanpaths(write_amazon([wrote], tmp_path / "amazon.json")).scanpaths
    same(read, wrote, durations=False, onsets=False, names=("stimulus", "subject", "task"))
    assert read.target_box == (10, 20, 100, 200)


def test_csv(tmp_path):
    wrote = [make_scanpath("a.png", eye="left"), make_scanpath("b.png", seed=1, eye="left")]
    write_scanpaths(wrote, tmp_path / "fixations.csv")
    reading = read_scanpaths(tmp_path / "fixations.csv", ReadOptions(screen=(1680, 1050)))
    for read, written in zip(reading.scanpaths, wrote, strict=True):
        same(read, written, names=("stimulus", "subject", "trial", "eye", "task"))


@pytest.mark.parametrize("name", ["all.parquet", "all.jsonl"])
def test_our_own_hold_everything(tmp_path, name):
    wrote = [
        make_scanpath(
            "a.png",
            eye="left",
            target_box=(1, 2, 3.5, 4),
            target_present=False,
            split="test",
            details={"RT": 300, "ü": "µ"},
        ),
        Scanpath([1.0], [2.0], [np.nan], [np.nan], display=Display(None, None, 300.5), provenance="detected: I-VT"),
    ]
    write_scanpaths(wrote, tmp_path / name)
    read = read_scanpaths(tmp_path / name).scanpaths
    for one, other in zip(read, wrote, strict=True):
        for field, value in other.__dict__.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(one, field), value)
            else:
                assert getattr(one, field) == value, field


@pytest.mark.parametrize("name", ["all.json", "all.csv", "s1.asc", "bids", "all.parquet", "all.jsonl"])
def test_the_same_scanpaths_give_the_same_bytes(tmp_path, name):
    wrote = [make_scanpath("a.png", eye="left")]
    contents = []
    for place in ("one", "two"):
        write_scanpaths(wrote, tmp_path / place / name)
        contents.append([path.read_bytes() for path in sorted((tmp_path / place).rglob("*")) if path.is_file()])
    assert contents[0] == contents[1]
