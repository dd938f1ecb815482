"""The whole way of map sheets as a user walks it: sample, train, predict, vectorize, evaluate, models, prompts."""

import dataclasses
import json

import pytest
import rasterio
import torch
from rasterio.crs import CRS
from shapely.geometry import box

from core_runtime.errors import UserError
from remote_sensing.maps.model.mapsam import MapSAM, MapSamConfig
from remote_sensing.maps.model.sam import Sam, SamConfig
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.vector_files import NewLayer, read_layer, write_layer
from remote_sensing.maps.training.module import MapTraining, rate
from remote_sensing.maps.training.network import TINY
from remote_sensing.maps.training.recipe import MapRunOptions, NetworkOptions, Recipe


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Sample sheets, and a tiny model after two epochs on tiles."""
    from remote_sensing.maps.commands.train import train
    from remote_sensing.maps.samples.samples import MapSampleParams, make_samples

    folder = tmp_path_factory.mktemp("maps")
    make_samples(folder / "data", MapSampleParams(sheets=1, size=330, tiles=8, tile=64))
    trained = train(
        folder / "data/dataset_railway",
        labels=LabelOptions(classes=("railway",)),
        network=NetworkOptions(variant="tiny", image_size=64),
        recipe=Recipe(epochs=2, batch=2, lr=1e-3),
        run=MapRunOptions(out=folder / "run"),
    )
    return folder, trained


def test_labels_of_training_are_shares_of_cells():
    config = MapSamConfig(**TINY, image_size=32, num_classes=2)
    label = torch.zeros(1, 16, 16, dtype=torch.uint8)
    label[:, :, :3], label[:, :, 12:] = 1, 2
    for legacy, share in ((False, 0.5), (True, 1.0)):
        training = MapTraining(MapSAM(config), Recipe(legacy=legacy), lr=1e-3)
        masks, union = training.targets(label)
        assert masks.shape == (1, 2, 8, 8)
        assert masks[0, 0, 0].tolist() == [1, share, 0, 0, 0, 0, 0, 0]
        assert union[0, 0, 0].tolist() == [1, share, 0, 0, 0, 0, 1, 1]


def test_a_run_leaves_everything(walked):
    folder, made = walked
    names = {p.name for p in (folder / "run").iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "checkpoints", "model", "adapter.safetensors", "metrics.json"}
    assert made.figures["temperature"] > 0
    assert made.figures["trainable"] == made.figures["parameters"], "the tiny one is trained whole"
    assert 0 <= made.figures["ece"] <= 1


def test_predict_vectorize_evaluate(cli, walked, tmp_path):
    folder, made = walked
    sheet, truth = folder / "data/sheets/sheet_1.tif", f"{folder}/data/truth/sheet_1.gpkg|layername=railways"
    arguments = [
        "maps",
        "predict",
        sheet,
        "--model",
        made.model,
        "--out",
        tmp_path,
        "--vector",
        "geojson",
        "--centrelines",
    ]
    code, out, err = cli(*arguments, "--threshold", "0.4", "--json")
    assert code == 0, err
    (row,) = json.loads(out)["sheets"]
    with rasterio.open(sheet) as a, rasterio.open(row["mask"]) as b, rasterio.open(row["probability"]) as c:
        assert a.transform == b.transform == c.transform
        assert b.crs == a.crs
        assert b.tags()["CLASS_1"] == "railway"
        assert c.descriptions == ("probability of railway (0 to 254)", "unsure")
    assert {p.name for p in tmp_path.iterdir()} >= {
        "sheet_1_overlay.png",
        "sheet_1.geojson",
        "sheet_1_centrelines.geojson",
    }
    assert cli(*arguments)[0] == 2, "not overwritten silently"
    code, out, err = cli("maps", "vectorize", row["mask"], "--out", tmp_path / "x.gpkg", "--min-area", "20px")
    assert code == 0, err
    code, out, err = cli(
        "maps", "evaluate", row["mask"], "--truth", truth, "--classes", "railway", "--out", tmp_path / "e", "--json"
    )
    assert code == 0, err
    assert json.loads(out).keys() == {"classes", "lines"}
    code, out, err = cli(
        "maps", "evaluate", folder / "data/dataset_railway", "--model", made.model, "--out", tmp_path / "t"
    )
    assert code == 0, err
    assert "iou" in out
    assert list((tmp_path / "t/pictures").glob("*.png"))
    code, out, err = cli(
        "maps", "predict", folder / "data/sheets", "--model", made.model, "--out", tmp_path / "all", "--dry-run"
    )
    assert code == 0, err
    assert "tiles of 64 pixels" in out
    assert not (tmp_path / "all").exists()


def test_folders_go_on_and_name_what_failed(cli, walked, tmp_path):
    folder, made = walked
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        (tmp_path / "in" / name).write_bytes((folder / "data/sheets/sheet_1.tif").read_bytes())
    (tmp_path / "in/c.tif").write_bytes(b"broken")
    code, _, err = cli("maps", "predict", tmp_path / "in", "--model", made.model, "--out", tmp_path / "out")
    assert code == 1
    assert "c.tif" in err
    assert len(list((tmp_path / "out").glob("*_mask.tif"))) == 2


def test_an_own_sheet_with_its_vectors_is_learned(cli, walked, tmp_path):
    folder, _ = walked
    sheet, truth = folder / "data/sheets/sheet_1.tif", f"{folder}/data/truth/sheet_1.gpkg|layername=railways"
    options = [
        "--variant",
        "tiny",
        "--image-size",
        64,
        "--side",
        64,
        "--epochs",
        1,
        "--batch",
        4,
        "--line-width",
        "7px",
    ]
    code, out, err = cli("maps", "train", sheet, "--labels", truth, *options, "--out", tmp_path / "run")
    assert code == 0, err
    assert "calibration error" in out
    code, _, err = cli("maps", "train", sheet, "--out", tmp_path / "other")
    assert code == 2
    assert "--labels" in err
    code, _, err = cli(
        "maps",
        "train",
        folder / "data/dataset_railway",
        "--variant",
        "tiny",
        "--classes",
        "a,b",
        "--out",
        tmp_path / "x",
    )
    assert code == 2
    assert "a label of 2 classes" in err or "class 'b'" in err


def small_sam(tmp_path):
    """A "checkpoint" of SAM with random weights, as small as the tiny network."""
    names = {f.name for f in dataclasses.fields(SamConfig)}
    config = SamConfig(image_size=64, **{k: v for k, v in TINY.items() if k in names})
    torch.manual_seed(0)
    network = Sam(config).eval()
    return network


def test_prompts_of_a_person_become_objects(walked, tmp_path):
    from remote_sensing.maps.model.prompting import load_prompted, prompt_sheets

    folder, _ = walked
    sheet = folder / "data/sheets/sheet_1.tif"
    with rasterio.open(sheet) as file:
        x, y = file.transform * (100, 120)
    crs = CRS.from_epsg(2056)
    write_layer(
        tmp_path / "p.gpkg",
        NewLayer("x", "Polygon", [box(x, y - 40, x + 50, y), box(0, 0, 1, 1)], {"n": [1, 2]}),
        crs=crs,
    )
    (row,) = prompt_sheets(small_sam(tmp_path), [sheet], tmp_path / "p.gpkg", tmp_path / "out", side=64)
    assert row["prompts"] == 1, "the other box lies beside the sheet"
    if row["objects"]:
        assert read_layer(row["file"]).columns["quality"]
    torch.save({"x": torch.zeros(1)}, tmp_path / "no.pth")
    with pytest.raises(UserError, match=r"no\.pth"):
        load_prompted(tmp_path / "no.pth")


def test_models_convert_says_what_is_missing(cli, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "a.pth")
    code, _, err = cli("maps", "models", "convert", tmp_path / "a.pth", "--out", tmp_path / "m")
    assert code == 2
    assert "--sam" in err
    code, _, err = cli(
        "maps", "models", "convert", tmp_path / "a.pth", "--sam", tmp_path / "a.pth", "--out", tmp_path / "m"
    )
    assert code == 2
    assert "not a MapSAM adapter" in err
    code, out, _ = cli("maps", "models")
    assert code == 0
    assert "sam_vit_b_01ec64.pth" in out


def test_ten_shots_leave_the_warm_up():
    total = 160  # one step an epoch
    warm = min(250, total // 10)
    rates = [rate(i, warm, total) for i in range(total)]
    assert max(rates) == 1.0
    assert rates[-1] < 0.05
    assert rate(159, 250, 160) < 1, "the published warm-up is never over"
