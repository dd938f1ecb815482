"""Fixations out of raw samples."""

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.synthetic_samples import sampled
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath

GEOMETRY = {"screen": (1680, 1050), "screen_mm": (474, 296), "distance_mm": 600}


def write_samples(path, scanpath, step: float = 2.0, scale: float = 1.0):
    end = scanpath.onset[-1] + scanpath.duration[-1]
    times = np.arange(0, end, step)
    points = sampled(scanpath, times)
    noise = np.random.default_rng(0).normal(0, 0.2, points.shape)
    lines = [f"{time:g},{x:.3f},{y:.3f}" for time, (x, y) in zip(times, (points + noise) * scale, strict=True)]
    path.write_text("time,x,y\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def steps():
    """Fixations far enough apart for every threshold."""
    wrote = make_scanpath(count=6)
    far = np.array([[200, 200], [1200, 300], [400, 900], [1500, 800], [300, 500], [900, 150]], float)
    return type(wrote)(**{**wrote.__dict__, "x": far[:, 0], "y": far[:, 1]})


@pytest.mark.parametrize("method", ["auto", "ivt", "idt"])
def test_fixations_are_found(tmp_path, steps, method):
    reading = read_scanpaths(write_samples(tmp_path / "s.csv", steps), ReadOptions(**GEOMETRY, detect=method))
    (found,) = reading.scanpaths
    assert len(found) == len(steps)
    np.testing.assert_allclose(found.points, steps.points, atol=25 if method == "idt" else 5)
    np.testing.assert_allclose(found.onset, steps.onset, atol=20)
    np.testing.assert_allclose(found.duration, steps.duration, atol=40)
    assert found.provenance.startswith("detected: I-DT" if method == "idt" else "detected: I-VT")
    assert any("pixels per degree" in note for note in reading.notes)


def test_no_fixation_spans_a_gap(tmp_path, steps):
    path = write_samples(tmp_path / "s.csv", steps)
    lines = path.read_text().splitlines()
    middle = steps.onset[2] + steps.duration[2] / 2
    kept = [line for line in lines[1:] if abs(float(line.split(",")[0]) - middle) > 8]
    path.write_text("\n".join([lines[0], *kept]) + "\n")
    (found,) = read_scanpaths(path, ReadOptions(**GEOMETRY)).scanpaths
    ends = found.onset + found.duration
    assert not ((found.onset < middle) & (ends > middle)).any()


def test_detection_instead_of_the_trackers_own(tmp_path, steps):
    wrote = type(steps)(**{**steps.__dict__, "eye": "left"})
    write_scanpaths([wrote], tmp_path / "s1.asc")
    (found,) = read_scanpaths(tmp_path / "s1.asc", ReadOptions(**GEOMETRY, detect="ivt")).scanpaths
    assert found.provenance.startswith("detected")
    assert found.eye == "left"
    np.testing.assert_allclose(found.points, wrote.points, atol=2)


def test_detected_fixations_belong_to_the_trials_of_the_file(tmp_path, steps):
    wrote = [
        type(steps)(**{**steps.__dict__, "eye": "left", "stimulus": name, "trial": name}) for name in ("a.png", "b.png")
    ]
    write_scanpaths(wrote, tmp_path / "s1.asc")
    text = (tmp_path / "s1.asc").read_text()
    bare = "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith(("EFIX", "SFIX", "ESACC", "SSACC"))
    )
    (tmp_path / "s1.asc").write_text(bare)
    reading = read_scanpaths(tmp_path / "s1.asc", ReadOptions(**GEOMETRY))
    assert [(each.stimulus, each.trial, len(each)) for each in reading.scanpaths] == [
        ("a.png", "a.png", 6),
        ("b.png", "b.png", 6),
    ]
    assert reading.kind == "EyeLink ASC, raw samples"
    for found in reading.scanpaths:
        np.testing.assert_allclose(found.onset, steps.onset, atol=20)
        assert found.provenance.startswith("detected")


def test_subjects_and_pictures_of_a_table_of_samples(tmp_path, steps):
    lines = write_samples(tmp_path / "s.csv", steps).read_text().splitlines()
    both = ["subject,image," + lines[0]]
    for subject in ("a", "b"):
        both += [f"{subject},1.png,{line}" for line in lines[1:]]
    (tmp_path / "s.csv").write_text("\n".join(both))
    reading = read_scanpaths(tmp_path / "s.csv", ReadOptions(**GEOMETRY))
    assert [(each.subject, each.stimulus, len(each)) for each in reading.scanpaths] == [
        ("a", "1.png", 6),
        ("b", "1.png", 6),
    ]


def test_geometry_is_needed(tmp_path, steps):
    path = write_samples(tmp_path / "s.csv", steps)
    for given in ({}, {"screen": (1680, 1050)}, {**GEOMETRY, "distance_mm": None}):
        with pytest.raises(UserError, match="needs the geometry"):
            read_scanpaths(path, ReadOptions(**given))
    with pytest.raises(UserError, match="raw samples and no fixations"):
        read_scanpaths(path, ReadOptions(**GEOMETRY, detect="never"))


def test_samples_that_are_not_pixels(tmp_path, steps):
    with pytest.raises(UserError, match="not pixels"):
        read_scanpaths(write_samples(tmp_path / "s.csv", steps, scale=1 / 1680), ReadOptions(**GEOMETRY))
    with pytest.raises(UserError, match="beside the screen"):
        read_scanpaths(write_samples(tmp_path / "s.csv", steps, scale=-1), ReadOptions(**GEOMETRY))


def test_times_in_other_units(tmp_path, steps):
    path = write_samples(tmp_path / "s.csv", steps)
    lines = [line.split(",", 1) for line in path.read_text().splitlines()[1:]]
    path.write_text("time,x,y\n" + "\n".join(f"{float(time) / 1000:.6f},{rest}" for time, rest in lines))
    with pytest.raises(UserError, match="samples per second"):
        read_scanpaths(path, ReadOptions(**GEOMETRY))
    (found,) = read_scanpaths(path, ReadOptions(**GEOMETRY, time_unit="s")).scanpaths
    assert len(found) == len(steps)


def test_one_eye_of_two(tmp_path, steps):
    path = write_samples(tmp_path / "s.csv", steps)
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    path.write_text("time,x_left,y_left,x_right,y_right\n" + "\n".join(f"{t},{x},{y},.,." for t, x, y in lines))
    (found,) = read_scanpaths(path, ReadOptions(**GEOMETRY)).scanpaths
    assert found.eye == "left"
    with pytest.raises(UserError, match="right eye was not recorded"):
        read_scanpaths(path, ReadOptions(**GEOMETRY, eye="right"))
