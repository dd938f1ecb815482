"""A folder that holds the same trials several times counts them once, and says so."""

from dataclasses import replace

import numpy as np
import pytest

from gaze.commands.inspect import inspect
from gaze.samples import make_samples
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.repeats import find_repeats
from gaze.scanpaths.scanpath import Reading
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    return make_samples(out, layouts=2, searches=2).scanpaths


def test_the_same_trials_in_three_formats_count_once(samples):
    alone = read_scanpaths(samples)
    folder = read_scanpaths(samples.parent)
    assert len(folder.scanpaths) == len(alone.scanpaths) == 12
    assert folder.left_out["paths that another file holds, too"] == 24
    assert {path.task for path in folder.scanpaths} == {path.task for path in alone.scanpaths}, "the richest counts"
    assert any("12 of 12 paths are in fixations.json, too, and count once" in note for note in folder.notes)


def test_inspect_says_which_files_hold_the_same(samples):
    findings = {each.title: each for each in inspect(samples.parent).findings}
    assert not any("too, and count once" in warning for warning in findings["fixations.json"].warnings)
    for name in ("bids", "observer_1_raster.asc"):
        assert any("fixations.json, too, and count once" in warning for warning in findings[name].warnings)


def test_different_trials_and_those_of_one_file_are_kept(tmp_path):
    first = [make_scanpath("a.png"), make_scanpath("a.png", trial="again")]  # alike, in one file
    moved = [replace(first[0], x=first[0].x + 1.0)]
    slower = [replace(first[0], duration=first[0].duration + np.eye(len(first[0]))[0] * 3)]
    new = [make_scanpath("b.png", seed=5)]
    for number, scanpaths in enumerate([first, moved, slower, new]):
        write_scanpaths(scanpaths, tmp_path / f"{number}.jsonl")
    reading = read_scanpaths(tmp_path)
    assert len(reading.scanpaths) == 5
    assert not reading.left_out


def test_short_paths_are_repeated_only_with_the_rest_of_their_file():
    def short(count):
        scanpath = make_scanpath("a.png", count=5)
        return scanpath.select(np.arange(5) < count)

    whole, two = make_scanpath("b.png", seed=3), short(2)
    original = Reading([whole, two], "one")
    assert find_repeats([original, Reading([whole, two], "copy")])[1] == {0: 0, 1: 0}
    assert find_repeats([original, Reading([make_scanpath("c.png", seed=9), two], "other")])[1] == {}
    assert find_repeats([original, Reading([two], "short alone")])[1] == {}
    unknown = replace(whole, duration=np.full(len(whole), np.nan))
    assert find_repeats([original, Reading([unknown], "no durations")])[1] == {0: 0}
