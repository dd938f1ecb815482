"""The shared recordings: each is read, or refused with its reason."""

import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.formats import find_recordings
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions


def test_amazon(real):
    reading = read_scanpaths(real / "amazon_bookcover" / "Amazon.json")
    lengths = [len(scanpath) for scanpath in reading.scanpaths]
    assert len(lengths) == 600
    assert (min(lengths), max(lengths), sum(lengths)) == (2, 91, 8683)
    assert len({scanpath.stimulus for scanpath in reading.scanpaths}) == 100
    assert len({scanpath.subject for scanpath in reading.scanpaths}) == 6
    assert all(scanpath.on_screen().all() for scanpath in reading.scanpaths)
    assert all(scanpath.target_box is not None for scanpath in reading.scanpaths)
    assert not reading.left_out


def test_the_five_asc_files(real):
    files = sorted((real / "pymovements").glob("*.asc"))
    readings = {path.name: read_scanpaths(path) for path in files}
    assert len(readings) == 5
    assert sum(len(scanpath) for reading in readings.values() for scanpath in reading.scanpaths) == 11
    binocular = readings["eyelink_binocular_example.asc"]
    assert "DISPLAY_COORDS" not in (real / "pymovements" / "eyelink_binocular_example.asc").read_text("latin-1")
    assert binocular.scanpaths[0].display.size == (1920, 1080)
    assert [scanpath.eye for scanpath in binocular.scanpaths].count("right") == 2
    assert readings["eyelink_monocular_2khz_example.asc"].facts["sampling rate (Hz)"] == 2000
    assert readings["eyelink_monocular_no_dummy_example.asc"].scanpaths[0].stimulus == "text.png"


def test_the_fixation_report(real):
    reading = read_scanpaths(real / "pymovements" / "18sat_fixfinal.csv")
    assert reading.kind == "EyeLink fixation report"
    assert sum(map(len, reading.scanpaths)) == 112
    assert reading.scanpaths[0].subject == "msd001"


@pytest.mark.parametrize("name", ["potec_example.tsv", "sbsat_example.csv", "didec_example.txt"])
def test_raw_samples_need_the_geometry(real, name):
    path = real / "pymovements" / name
    with pytest.raises(UserError, match="raw samples") as error:
        read_scanpaths(path)
    assert "--screen-mm" in error.value.hint
    geometry = ReadOptions(screen=(1680, 1050), screen_mm=(474, 296), distance_mm=600, min_duration=5)
    with pytest.raises(UserError, match="no fixations"):  # a few samples are too short for one
        read_scanpaths(path, geometry)


def test_samples_in_degrees(real):
    with pytest.raises(UserError, match="degrees of visual angle"):
        read_scanpaths(real / "pymovements" / "gazebase_example.csv")


def test_the_bids_tables_are_empty(real):
    with pytest.raises(UserError, match="are empty: the tables hold not one row"):
        read_scanpaths(real / "bids_eyetracking" / "eyetracking_binocular")


def test_fixation_vectors(real):
    files = sorted((real / "multimatch_fixvectors").iterdir())
    readings = [read_scanpaths(path) for path in files]
    assert len(readings) == 25
    assert readings[0].scanpaths[0].subject == "01"
    assert all(20 < reading.scanpaths[0].duration.max() < 20_000 for reading in readings)


def test_all_in_one_folder(real):
    assert len(find_recordings(real)) == 37
    reading = read_scanpaths(real)
    assert reading.left_out["recordings that cannot be read"] == 5
