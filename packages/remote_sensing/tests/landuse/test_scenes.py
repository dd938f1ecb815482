"""Scenes of every kind to georeferenced maps; tiles; bad input."""

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import nn

from core_runtime.errors import UserError
from remote_sensing.landuse.commands.inspect import inspect
from remote_sensing.landuse.commands.predict import predict
from remote_sensing.landuse.model.inference import LandUseModel
from remote_sensing.landuse.model.mapping import map_scene
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.predictions.scenes import map_scene_file
from remote_sensing.landuse.samples.samples import draw_scene, write_geotiff
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, preprocessing
from remote_sensing.landuse.scenes.scene import Scene


class Brightness(nn.Module):
    """Class 1 where the middle of a tile is bright, else 0: a network whose map is known."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        bright = x.mean((1, 2, 3))
        return torch.stack([-bright, bright], 1) * 50


def bright_model(bands=RGB) -> LandUseModel:
    return LandUseModel(Brightness(), preprocessing(bands), ("dark", "bright"), 64, None, {})


def write_rgb(path, height=200, width=300, *, crs="EPSG:32633", transform=None, nodata=None, dtype="uint8"):
    image = np.full((3, height, width), 20, dtype)
    image[:, :, width // 2 :] = 240
    if nodata is not None:
        image[:, : height // 2] = nodata
    profile = {
        "driver": "GTiff",
        "count": 3,
        "height": height,
        "width": width,
        "dtype": dtype,
        "crs": crs,
        "nodata": nodata,
    }
    profile["transform"] = transform or Affine(10, 0, 500_000, 0, -10, 5_300_000)
    with rasterio.open(path, "w", photometric="RGB", **profile) as file:
        file.write(image)
    return path


def test_a_map_keeps_coordinates_and_is_a_cog(tmp_path):
    transform = Affine(7, 2, 1000, 2, -7, 9000)  # turned
    crs = CRS.from_wkt(
        'PROJCS["own",GEOGCS["g",DATUM["d",SPHEROID["s",6377397.155,299.1528128]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
        'PROJECTION["Transverse_Mercator"],PARAMETER["central_meridian",7.4],PARAMETER["scale_factor",1],UNIT["metre",1]]'
    )
    scene = write_rgb(tmp_path / "s.tif", crs=crs, transform=transform)
    made = map_scene_file(scene, bright_model(), tmp_path / "out", PredictionOptions(stride=16))
    with rasterio.open(made.files["map"]) as file:
        assert file.crs == crs
        assert file.transform.almost_equals(transform * Affine.scale(16))
        assert (file.height, file.width) == (13, 19)
        assert file.nodata == 255
        assert file.tags()["CLASS_1"] == "bright"
        assert file.colormap(1)[0][3] == 255
        assert file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
        layer = file.read(1)
    assert (layer[:, :7] == 0).all()
    assert (layer[:, -7:] == 1).all()
    assert made.shares == {"dark": pytest.approx(0.5, abs=0.1), "bright": pytest.approx(0.5, abs=0.1)}
    assert made.covered == 1.0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (30, 1000), (129, 65)])
def test_scenes_of_odd_sizes_are_covered(tmp_path, height, width):
    made = map_scene_file(write_rgb(tmp_path / "s.tif", height, width), bright_model(), tmp_path / "out")
    with rasterio.open(made.files["map"]) as file:
        assert file.shape == (-(-height // 32), -(-width // 32))
        assert (file.read(1) != 255).all()


def test_nodata_stays_nodata(tmp_path):
    scene = write_rgb(tmp_path / "s.tif", 256, 256, nodata=0)
    made = map_scene_file(scene, bright_model(), tmp_path / "out", PredictionOptions(stride=32))
    with rasterio.open(made.files["map"]) as file:
        layer = file.read(1)
    assert (layer[:4] == 255).all()
    assert (layer[4:] != 255).all()
    assert made.covered == 0.5
    write_rgb(tmp_path / "e.tif", 2, 90, nodata=240)
    with rasterio.open(tmp_path / "e.tif", "r+") as file:
        file.write(np.full((3, 2, 90), 240, np.uint8))
    with pytest.raises(UserError, match="no pixel holds data"):
        map_scene_file(tmp_path / "e.tif", bright_model(), tmp_path / "out")


def test_a_tile_counts_if_half_of_it_holds_data(tmp_path):
    model = bright_model()

    def layer(rows):
        """The classes of one 64-pixel tile whose lower rows hold data."""
        scene = write_rgb(tmp_path / f"{rows}.tif", 64, 64, nodata=0)
        with rasterio.open(scene, "r+") as file:
            pixels = np.full((3, 64, 64), 240, np.uint8)
            pixels[:, : 64 - rows] = 0
            file.write(pixels)
        with Scene(scene) as opened:
            return map_scene(model, opened, stride=64).classes

    assert (layer(32) != 255).all()
    assert (layer(31) == 255).all()


def test_bands_are_divided_by_their_deviation():
    prepare = preprocessing(RGB)
    tile = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    expected = [(1 - mean) / std for mean, std in zip(prepare.mean, prepare.std, strict=True)]
    assert prepare(tile).flatten().tolist() == pytest.approx(expected)
    assert expected[0] == pytest.approx(2.2489, abs=1e-3), "white in ImageNet's red"


def test_a_scene_without_coordinates_is_mapped_with_a_warning(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((150, 150, 3), 99, np.uint8)).save(tmp_path / "s.png")
    made = map_scene_file(tmp_path / "s.png", bright_model(), tmp_path / "out")
    assert any("no coordinate system" in w for w in made.warnings)


def test_reflectances_feed_an_rgb_model_and_a_thirteen_band_one(tmp_path):
    scene, _ = draw_scene(128, 1)
    write_geotiff(tmp_path / "s.tif", scene, (0.0, 0.0))
    with Scene(tmp_path / "s.tif") as opened:
        assert opened.bands == FILE_ORDER
        pixels, valid = opened.read(RGB, slice(-8, 140))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (3, 148, 128)
        assert np.array_equal(pixels[:, 8], pixels[:, 8])
        assert np.array_equal(pixels[:, 7], pixels[:, 9]), "mirrored at the edge"
        assert valid.all()
        raw, _ = opened.read(("B8A", "B02"), slice(0, 5))
        assert np.array_equal(raw, scene[[12, 1], :5])
    map_scene_file(tmp_path / "s.tif", bright_model(FILE_ORDER), tmp_path / "out")


def safe(folder, scene, offset=0):
    """A SAFE product of three resolutions with JPEG 2000 bands."""
    from rasterio.transform import from_origin

    place = folder / "GRANULE" / "L1C" / "IMG_DATA"
    place.mkdir(parents=True)
    for i, name in enumerate(FILE_ORDER):
        step = 1 if name in ("B02", "B03", "B04", "B08") else 6 if name in ("B01", "B09", "B10") else 2
        band = scene[i, ::step, ::step] + offset
        profile = {
            "driver": "JP2OpenJPEG",
            "height": band.shape[0],
            "width": band.shape[1],
            "count": 1,
            "dtype": "uint16",
        }
        profile |= {"crs": "EPSG:32632", "transform": from_origin(600_000, 5_200_000, 10 * step, 10 * step)}
        with rasterio.open(place / f"T32_20230101_{name}.jp2", "w", QUALITY="100", REVERSIBLE="YES", **profile) as file:
            file.write(band, 1)
    tags = "".join(f'<RADIO_ADD_OFFSET band_id="{i}">{-offset}</RADIO_ADD_OFFSET>' for i in range(13))
    (folder / "MTD_MSIL1C.xml").write_text(f"<r>{tags}</r>" if offset else "<r/>")


def test_zero_is_no_data_in_a_product(tmp_path):
    scene, _ = draw_scene(192, 2)
    scene[1, :60, :60] = 0  # of one band alone: a product's values begin at 1
    folder = tmp_path / "S2A_X.SAFE"
    safe(folder, scene)
    with Scene(folder) as opened:
        _, valid = opened.read(("B02", "B05"), slice(0, 192))
    assert not valid[:60, :60].any()
    assert valid[66:].all()


@pytest.mark.parametrize("offset", [0, 1000])
def test_safe_products_of_both_ages(tmp_path, offset):
    scene, _ = draw_scene(192, 2)
    folder = tmp_path / "S2A_X.SAFE"
    safe(folder, scene, offset)
    with Scene(folder) as opened:
        assert opened.kind == "SAFE"
        assert opened.bands == FILE_ORDER
        pixels, _ = opened.read(("B02", "B05"), slice(0, 64))
        assert np.array_equal(pixels[0], scene[1, :64])
        assert np.array_equal(pixels[1, ::2, ::2], scene[4, :64:2, ::2])
    made = map_scene_file(folder, bright_model(FILE_ORDER), tmp_path / "out")
    assert made.scene == "S2A_X"
    assert bool(made.warnings) == bool(offset)


def test_bands_that_are_missing_or_unnamed(tmp_path):
    scene, _ = draw_scene(128)
    write_geotiff(tmp_path / "four.tif", scene[:4], (0.0, 0.0), names=())
    with pytest.raises(UserError, match="without names"):
        map_scene_file(tmp_path / "four.tif", bright_model(), tmp_path / "out")
    with pytest.raises(UserError, match="B8A"):
        map_scene_file(
            tmp_path / "four.tif", bright_model(FILE_ORDER), tmp_path / "out", PredictionOptions(bands=FILE_ORDER[:4])
        )
    made = map_scene_file(
        tmp_path / "four.tif", bright_model(), tmp_path / "out", PredictionOptions(bands=FILE_ORDER[:4])
    )
    assert made.covered == 1
    with pytest.raises(UserError, match="divide"):
        map_scene_file(tmp_path / "four.tif", bright_model(), tmp_path / "out", PredictionOptions(stride=30))


def test_scene_and_tiles_of_the_samples(cli, samples, trained, tmp_path):
    code, out, err = cli("landuse", "predict", samples / "scene.tif", "--model", trained.model, "--out", tmp_path)
    assert code == 0, err
    assert {p.name for p in (tmp_path / "scene").iterdir()} == {
        "scene_landuse.tif",
        "scene_confidence.tif",
        "scene_attention.tif",
        "scene_landuse.png",
        "summary.json",
    }
    code, out, err = cli(
        "landuse", "predict", samples / "EuroSAT_RGB" / "River", "--model", trained.model, "--out", tmp_path
    )
    assert code == 0, err
    assert out.count("River_") == 5
    assert (tmp_path / "tiles" / "tiles.png").exists()
    assert (tmp_path / "tiles" / "attention.png").exists()
    # the same question again is answered from what is there; another is refused, or made anew on demand
    scene = ("landuse", "predict", samples / "scene.tif", "--model", trained.model, "--out", tmp_path)
    written = (tmp_path / "scene" / "scene_landuse.tif").stat().st_mtime_ns
    assert cli(*scene) == (0, *cli(*scene)[1:])
    assert (tmp_path / "scene" / "scene_landuse.tif").stat().st_mtime_ns == written
    code, _, err = cli(*scene, "--stride", "16")
    assert code == 2
    assert "another stride" in err
    code, _, err = cli(*scene, "--stride", "16", "--overwrite")
    assert code == 0, err
    with rasterio.open(tmp_path / "scene" / "scene_landuse.tif") as file:
        assert file.transform.a == 160
    with rasterio.open(tmp_path / "scene" / "scene_attention.tif") as file:
        assert file.transform.a == 80, "attention in cells of eight pixels"


def test_damaged_tiles_among_good_ones_are_named(cli, samples, trained, tmp_path):
    import shutil

    shutil.copytree(samples / "EuroSAT_RGB" / "River", tmp_path / "in")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"x")
    code, _, err = cli("landuse", "predict", tmp_path / "in", "--model", trained.model, "--out", tmp_path / "out")
    assert code == 1
    assert "bad.jpg" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("count", [12, pytest.param(171, marks=pytest.mark.slow)])
def test_the_real_tiles_run(shared, trained, tmp_path, count):
    """Tiles of EuroSAT's own overview picture; the sheet that shows all of them takes most of the time."""
    import shutil

    (tmp_path / "in").mkdir()
    files = sorted((shared / "data/eurosat_bmta/overview_tiles").iterdir())
    assert len(files) == 171
    for file in files[:: len(files) // count][:count]:
        shutil.copy(file, tmp_path / "in")
    made = predict(tmp_path / "in", model=str(trained.model), out=tmp_path)
    assert len(made.tiles) == count
    assert (tmp_path / "tiles" / "tiles.png").stat().st_size > 500 * count


def test_pictures_without_labels_are_looked_at(tmp_path):
    from PIL import Image

    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    found = inspect(tmp_path)
    assert (found.kind, found.details["tiles"], found.details["scenes"]) == ("pictures", 2, 0)
    assert "landuse predict" in found.next_commands[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures or rasters"):
        inspect(tmp_path / "empty")
