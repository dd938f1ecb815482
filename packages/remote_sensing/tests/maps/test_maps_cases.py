"""Each row of the shared cases of sheets, masks and labels gives what it should."""

import json
import shutil

import numpy as np
import pytest
import rasterio

from remote_sensing.maps.sheets.grid import Grid
from remote_sensing.maps.sheets.labels import rasterised, read_label
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.sheet import Sheet


@pytest.fixture
def case(shared, tmp_path):
    """Copies cases into a folder of the test; returns the first."""
    source = shared / "cases" / "remote_sensing"
    if not source.is_dir():
        pytest.skip("the shared cases are not here")
    (tmp_path / "in").mkdir()

    def copy(*names):
        for name in names:
            shutil.copy(source / name, tmp_path / "in")
        return tmp_path / "in" / names[0]

    return copy


def pixels_of(path):
    with Sheet(path) as sheet:
        return sheet.read(slice(0, sheet.grid.height), slice(0, sheet.grid.width))[0]


def grid_of(path) -> Grid:
    with Sheet(path) as sheet:
        return sheet.grid


def test_a_scan_is_not_replaced_by_its_overlay(case, predict):
    scan = case("scan.png", "scan.pgw")
    before = scan.read_bytes()
    assert predict(scan, scan.parent)[0] == 0
    assert scan.read_bytes() == before


def test_own_results_are_no_inputs_and_done_means_all_that_was_asked_for(case, predict):
    folder = case("sheet.tif").parent
    assert predict(folder, folder)[0] == 0
    code, said, error = predict(folder, folder)
    assert code == 0, error
    assert [row["status"] for row in said["sheets"]] == ["already done"]
    code, _, error = predict(folder, folder, "--vector", "gpkg")
    assert code == 0, error
    assert (folder / "sheet.gpkg").exists()


def test_control_points_are_used(case, predict, cli, tmp_path):
    path = case("gcp_with_crs.vrt", "scan.png")
    code, _, error = predict(path, tmp_path / "out", "--vector", "geojson", "--threshold", "0.001")
    assert code == 0, error
    outline, *_ = json.loads((tmp_path / "out/gcp_with_crs.geojson").read_text())["features"]
    x, y = np.array(outline["geometry"]["coordinates"][0][0]).ravel()[:2]
    assert (x, y) == (pytest.approx(7.44, abs=0.05), pytest.approx(46.95, abs=0.05))
    code, said, error = cli("maps", "inspect", case("gcp_only.tif"))
    assert code == 0, error
    assert "4 control points" in said


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("local_cs.tif",), "system"),
        (("wf_degenerate.png", "wf_degenerate.pgw"), "degenerate"),
        (("wf_nan.png", "wf_nan.pgw"), "number"),
    ],
)
def test_places_that_are_none_are_refused_in_one_line(case, predict, tmp_path, names, words):
    code, _, error = predict(case(*names), tmp_path / "out", "--vector", "geojson")
    assert code == 2
    assert words in error
    assert len(error.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_mask_of_the_whole_globe_is_cut_at_the_poles(case, cli, tmp_path):
    code, said, error = cli("maps", "vectorize", case("mask_globe_halfpixel.tif"), "--out", tmp_path / "x.geojson")
    assert code == 0, error
    assert "poles" in said


def test_bits_and_negatives_are_seen_as_the_eye_sees_them(case):
    assert set(np.unique(pixels_of(case("bit1_gray.png")))) == {0, 255}
    path = case("gray_miniswhite.tif")
    with rasterio.open(path) as file:
        raw = file.read(1)
    assert np.array_equal(pixels_of(path)[0], 255 - raw)


def test_labels_are_what_they_say(case, capsys):
    label = read_label(case("label_gray_alpha.png"), 1)
    assert label.mean() == pytest.approx(0.024, abs=0.001)
    options = LabelOptions(classes=("railway", "vineyard"), class_column="class", labels_crs="EPSG:2056")
    drawn = rasterised(case("label_class_typos.geojson"), grid_of(case("mask_here.tif")), options)
    assert set(np.unique(drawn)) <= {0, 1}
    assert "1 of 4 geometries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("truth", "words"), [("label_no_crs_projected.geojson", "--labels-crs"), ("truth_elsewhere.tif", "pixels away")]
)
def test_a_truth_elsewhere_or_in_unknown_units_is_refused(case, cli, tmp_path, truth, words):
    mask = case("mask_here.tif")
    code, _, error = cli("maps", "evaluate", mask, "--truth", case(truth), "--out", tmp_path / "e")
    assert code == 2
    assert words in error
    assert len(error.splitlines()) <= 2
