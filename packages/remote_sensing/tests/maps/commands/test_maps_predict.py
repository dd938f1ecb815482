"""`maps predict`: done means this, from this, in this way; no output replaces an input; pictures say what they are."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from core_runtime.bulk import bulk
from remote_sensing.maps.commands.predict import predict
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.predictions.keys import made_from
from remote_sensing.maps.reports.pictures import overlay
from remote_sensing.maps.sheets.formats import find_sheets
from remote_sensing.maps.sheets.options import PartOptions, SheetOptions


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture(autouse=True)
def on_the_processor(predict):
    return predict


@pytest.mark.reliability("a scan with a world file, results beside it", "the scan stays as it was")
def test_no_output_replaces_an_input(paper, on_the_processor, tmp_path):
    scan = tmp_path / "scan.png"
    Image.fromarray(paper.transpose(1, 2, 0)).save(scan)
    (tmp_path / "scan.pgw").write_text("1.25\n0\n0\n-1.25\n2600000.625\n1199999.375\n")
    before = scan.read_bytes()
    code, said, error = on_the_processor(scan, tmp_path)
    assert code == 0, error
    assert scan.read_bytes() == before
    assert Path(said["sheets"][0]["overlay"]).name == "scan_overlay.png"
    # a sheet whose name another's result would have
    shutil.copy(scan, tmp_path / "other_overlay.png")
    shutil.copy(scan, tmp_path / "other.png")
    code, _, error = on_the_processor(tmp_path, tmp_path)
    assert code == 2
    assert "would replace an input" in error
    assert not (tmp_path / "other_mask.tif").exists()


@pytest.mark.reliability("results in the folder of the sheets, a second run", "own results are not taken for sheets")
def test_own_outputs_are_no_inputs(sheet, on_the_processor):
    folder = sheet.parent
    assert on_the_processor(folder, folder, "--vector", "gpkg")[0] == 0
    files = names(folder)
    assert files == [
        "predict.jsonl",
        "sheet.gpkg",
        "sheet.tif",
        "sheet_mask.tif",
        "sheet_overlay.png",
        "sheet_prob.tif",
    ]
    assert find_sheets(folder) == [sheet]
    code, said, _ = on_the_processor(folder, folder, "--vector", "gpkg")
    assert code == 0
    assert said["sheets"][0]["status"] == "already done"
    assert names(folder) == files


@pytest.mark.reliability(
    "vectors asked for later, files of a result removed", "made from the mask that is there; the rest is made anew"
)
def test_done_means_all_that_was_asked_for(sheet, on_the_processor, tmp_path):
    out = tmp_path / "out"
    assert on_the_processor(sheet, out)[0] == 0
    made = (out / "sheet_mask.tif").stat().st_mtime_ns
    code, _, error = on_the_processor(sheet, out, "--vector", "geojson", "--centrelines")
    assert code == 0, error
    assert (out / "sheet_mask.tif").stat().st_mtime_ns == made, "the mask stays"
    assert (out / "sheet.geojson").exists()
    (out / "sheet_centrelines.geojson").unlink()
    assert on_the_processor(sheet, out, "--vector", "geojson", "--centrelines")[0] == 0
    assert (out / "sheet_centrelines.geojson").exists()
    (out / "sheet_overlay.png").unlink()
    assert on_the_processor(sheet, out)[0] == 0
    assert (out / "sheet_overlay.png").exists()


@pytest.mark.reliability("another option, model or sheet under the same name", "refused, with what changed")
def test_another_way_is_refused(sheet, on_the_processor, tmp_path, paper):
    out = tmp_path / "out"
    assert on_the_processor(sheet, out, "--vector", "gpkg")[0] == 0
    for options, word in (
        (("--stretch", "dtype"), "stretch"),
        (("--threshold", "0.6"), "threshold"),
        (("--overlap", "0.5"), "overlap"),
        (("--abstain", "0.6"), "abstain"),
        (("--bbox=2600010,1199950,2600050,1199990",), "bbox"),
        (("--vector", "gpkg", "--min-area", "7px"), "min_area"),
        (("--crs", "EPSG:21781"), "crs"),
    ):
        code, _, error = on_the_processor(sheet, out, *options)
        assert code == 2, options
        assert word in error
    assert on_the_processor(sheet, out, "--batch", "1")[0] == 0, "how many tiles at once changes nothing"
    with rasterio.open(sheet, "r+") as file:
        file.write(255 - paper)
    assert on_the_processor(sheet, out)[0] == 2
    assert on_the_processor(sheet, out, "--overwrite")[0] == 0


def test_the_sheet_shows_through_its_classes():
    ink, paper = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    mask = np.ones((9, 9), np.uint8)
    over_ink, over_paper = overlay(ink, mask)[4, 4], overlay(paper, mask)[4, 4]
    assert (over_paper.astype(int) - over_ink >= 255 // 2).all(), "more than half of the sheet's contrast is left"
    assert over_ink.max() > 60, "the class is seen"


def test_every_option_of_a_mask_is_in_its_key(model_folder):
    parts = made_from(model_folder, SheetOptions(), PartOptions(), SegmentOptions(), "32-true")
    declared = {
        field.name for kind in (SheetOptions, PartOptions, SegmentOptions) for field in dataclasses.fields(kind)
    }
    assert declared - {"batch"} <= parts.keys()
    assert {"model", "precision"} <= parts.keys()


def test_the_key_of_a_mask_holds_the_content_of_its_regions(model_folder, tmp_path):
    roi = tmp_path / "town.geojson"

    def key(text):
        roi.write_text(text)
        return made_from(model_folder, SheetOptions(), PartOptions(roi=str(roi)), SegmentOptions(), "32-true")

    town = '{"type": "FeatureCollection", "features": []}'
    assert key(town)["regions"] != key(town + " ")["regions"]


def test_a_killed_run_with_another_stretch_mixes_nothing(sheet, model_folder, tmp_path, monkeypatch):
    """What a killed run left is used by the same run alone."""
    from remote_sensing.maps.model import inference
    from remote_sensing.maps.model.folder import SheetModel

    calls = {"n": 0}
    whole = SheetModel.logits

    def dies(self, rgb):
        calls["n"] += 1
        if calls["n"] == 12:
            raise KeyboardInterrupt
        return whole(self, rgb)

    options = {"model": str(model_folder), "device": "cpu", "options": SegmentOptions(batch=1)}
    with monkeypatch.context() as patch:
        patch.setattr(SheetModel, "logits", dies)
        with pytest.raises(KeyboardInterrupt):
            predict(sheet, out=tmp_path / "out", **options)
    assert list((tmp_path / "out/.sheet.work").glob("*.npy"))
    read = []
    strips = inference._strips
    monkeypatch.setattr(inference, "_strips", lambda *a: (read.append(len(a[-1])), strips(*a))[1])
    predict(sheet, out=tmp_path / "out", sheet=SheetOptions(stretch="dtype"), **options)
    assert sum(read) == 3, "all strips were made anew"


def test_one_bad_sheet_costs_the_others_nothing(sheet, on_the_processor, tmp_path):
    (sheet.parent / "broken.tif").write_bytes(b"II*\0nothing")
    code, said, error = on_the_processor(sheet.parent, tmp_path / "out", "--vector", "gpkg")
    assert code == 1
    assert "broken.tif" in error
    assert "broken.tif" in said["failed"]
    assert (tmp_path / "out/sheet.gpkg").exists()


def test_work_sent_to_another_process_gives_the_same(sheet, on_the_processor, tmp_path, monkeypatch):
    """What `--workers` does to an item: it is pickled."""

    def send(work, items, run, **settings):
        return bulk(pickle.loads(pickle.dumps(work)), pickle.loads(pickle.dumps(items)), run, **settings)

    assert on_the_processor(sheet, tmp_path / "here", "--vector", "gpkg")[0] == 0
    monkeypatch.setattr("remote_sensing.maps.commands.predict.bulk", send)
    code, _, error = on_the_processor(sheet, tmp_path / "sent", "--vector", "gpkg")
    assert code == 0, error
    assert names(tmp_path / "sent") == names(tmp_path / "here")
    with (
        rasterio.open(tmp_path / "here" / "sheet_mask.tif") as a,
        rasterio.open(tmp_path / "sent" / "sheet_mask.tif") as b,
    ):
        assert np.array_equal(a.read(1), b.read(1))


@pytest.mark.slow  # each process loads torch anew
def test_workers_give_the_same(sheet, on_the_processor, tmp_path):
    shutil.copy(sheet, sheet.with_name("second.tif"))
    for out, workers in (("one", 1), ("two", 2)):
        code, _, error = on_the_processor(sheet.parent, tmp_path / out, "--workers", workers, "--threads", 1)
        assert code == 0, error
    for name in ("sheet_mask.tif", "second_mask.tif"):
        with rasterio.open(tmp_path / "one" / name) as a, rasterio.open(tmp_path / "two" / name) as b:
            assert np.array_equal(a.read(1), b.read(1))


def test_pictures_say_what_they_are(sheet, on_the_processor, tmp_path):
    """The overlay is translucent, with a legend and what must be said of the model; its files say it, too."""
    code, said, _ = on_the_processor(sheet, tmp_path / "out", "--threshold", "0.01")
    assert code == 0
    picture = np.asarray(Image.open(said["sheets"][0]["overlay"]).convert("RGB"))
    assert picture.shape[0] >= 96 + 2 * 19, "two lines below the sheet"
    with rasterio.open(sheet) as file:
        paper = file.read().transpose(1, 2, 0)
    inside = picture[40:60, 40:60].astype(float)
    assert np.corrcoef(inside.mean(2).ravel(), paper[40:60, 40:60].mean(2).ravel())[0, 1] > 0.9, "the sheet shows"
    legend = picture[96:]
    assert (legend == (220, 40, 40)).all(2).any()
    with rasterio.open(said["sheets"][0]["mask"]) as file:
        assert file.tags()["NOTICE"] == "trained on nothing"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", None),
        ("side", "48"),
        ("side", -3),
        ("temperature", "warm"),
        ("temperature", None),
        ("classes", "railway"),
        ("classes", ["a", "b"]),
        ("channel_order", "gbr"),
    ],
)
@pytest.mark.reliability("fields of config.json missing or of another kind", "one line names the field")
def test_fields_of_a_model_folder(cli, sheet, model_folder, tmp_path, field, value):
    spoiled = shutil.copytree(model_folder, tmp_path / "spoiled")
    config = json.loads((spoiled / "config.json").read_text())
    if value is None:
        del config["preprocessing"][field]
    else:
        config["preprocessing"][field] = value
    (spoiled / "config.json").write_text(json.dumps(config))
    code, _, error = cli("maps", "predict", sheet, "--model", spoiled, "--out", tmp_path / "out")
    assert code == 2
    assert field in error
    assert len(error.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_folder_here_comes_before_a_hub_name(cli, sheet, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, tmp_path / "cm")
    code, _, error = cli("maps", "predict", sheet, "--model", "cm", "--out", "out", "--device", "cpu")
    assert code == 0, error


def test_a_sheet_of_another_scale_is_said(paper, on_the_processor, tmp_path):
    from affine import Affine
    from written import write_raster

    path = write_raster(tmp_path / "s.tif", paper, transform=Affine(5, 0, 2_600_000, 0, -5, 1_200_000))
    _, said, _ = on_the_processor(path, tmp_path / "out")
    assert any("--scale 0.25" in warning for warning in said["sheets"][0]["warnings"])
    _, said, _ = on_the_processor(path, tmp_path / "scaled", "--scale", "0.25")
    assert not any("--scale" in warning for warning in said["sheets"][0]["warnings"])
