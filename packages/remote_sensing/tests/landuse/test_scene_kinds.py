"""Rasters as the field writes them: what a scene's bands, values, grids and pixels mean is understood, or refused in one line; never guessed."""

import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from core_runtime.errors import UserError
from remote_sensing.landuse.commands.inspect import examine
from remote_sensing.landuse.commands.predict import predict
from remote_sensing.landuse.model.folder import load_model, save_model
from remote_sensing.landuse.model.networks import build_network
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.predictions.scenes import map_scene_file
from remote_sensing.landuse.samples.samples import draw_scene
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, band_of, preprocessing, stretched
from remote_sensing.landuse.scenes.scene import Scene
from remote_sensing.rasters import open_raster

EARTH_ENGINE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
NORTH_UP = Affine(10, 0, 600_000, 0, -10, 5_200_000)


@pytest.fixture(scope="module")
def landscape():
    return draw_scene(192, 3)[0]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An untrained 13-band network for pixels of 10 m."""
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(
        build_network("balanced", classes=2, bands=13, width=8, depths=(1, 1)),
        folder,
        preprocessing=preprocessing(FILE_ORDER),
        classes=("a", "b"),
        tile_size=64,
        pixel_size=10.0,
        provenance={},
    )
    return str(folder)


def write(path, pixels, *, names=FILE_ORDER, crs="EPSG:32632", transform=NORTH_UP, scale=None, offset=None, **more):
    profile = {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with open_raster(
        path, "w", **profile, dtype=pixels.dtype.name, crs=crs, transform=transform, photometric="MINISBLACK", **more
    ) as file:
        file.write(pixels)
        for i, name in enumerate(names, 1):
            file.set_band_description(i, name)
        if scale is not None:
            file.scales, file.offsets = [scale] * len(pixels), [offset] * len(pixels)
    return path


def read_all(path, bands=FILE_ORDER, **options):
    with Scene(path, **options) as scene:
        pixels, valid = scene.read(bands, slice(0, scene.height))
        return pixels, valid, scene.warnings


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B4", "B04"),
        ("b04", "B04"),
        ("B8", "B08"),
        ("B8A", "B8A"),
        ("b8a", "B8A"),
        ("Band 8A", "B8A"),
        ("Band_11", "B11"),
        ("S2_B12", "B12"),
        ("B4, central wavelength 665 nm", "B04"),
        ("Red (665 nm)", "B04"),
        ("nir08", "B8A"),
        ("SWIR 1", "B11"),
        ("Red edge 2", "B06"),
        ("coastal", "B01"),
        ("QA60", None),
        ("SCL", None),
        ("B13", None),
        ("B4A", None),
        ("SR_B4", None),  # Landsat's red, which is another band there
        ("sur_refl_b01", None),
        ("B8-B4", None),
        ("NDVI", None),
        ("", None),
    ],
)
def test_band_names_in_all_common_spellings(text, band):
    assert band_of(text) == band


@pytest.mark.reliability("band names in other spellings and orders", "the names decide, not the order")
def test_the_order_of_the_file_is_the_one_that_it_names(tmp_path, landscape):
    order = [FILE_ORDER.index(band_of(name)) for name in EARTH_ENGINE]
    path = write(tmp_path / "gee.tif", landscape[order], names=EARTH_ENGINE)
    pixels, _, warnings = read_all(path)
    assert np.array_equal(pixels, landscape)
    assert not warnings


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (tuple(f"x{i}" for i in range(13)), "not understood"),
        (("B2", *FILE_ORDER[2:], "B02"), "two bands are called B02"),
        (("B02", "B03"), None),
    ],
)
def test_names_are_never_assumed_where_names_exist(tmp_path, landscape, names, words):
    path = write(tmp_path / "s.tif", landscape, names=names)
    if words is None:  # some bands are named, the others are left aside and counted
        with Scene(path) as scene:
            assert scene.bands == ("B02", "B03")
            assert any("11 bands are not used" in warning for warning in scene.warnings)
        return
    with pytest.raises(UserError, match=words):
        Scene(path)


def test_names_given_win_and_are_checked(tmp_path, landscape):
    path = write(tmp_path / "s.tif", landscape[:4], names=("x", "y", "z", "w"))
    with Scene(path, ("B1", "b02", "B03", "Band 4")) as scene:
        assert scene.bands == FILE_ORDER[:4]
    for bands, words in ((("B01", "B02"), "2 names were given"), (("B01", "B02", "B03", "X"), "X is not a band")):
        with pytest.raises(UserError, match=words):
            Scene(path, bands)


@pytest.mark.reliability("reflectances in other units", "scaled, or refused with the option that says the unit")
@pytest.mark.parametrize("kind", ["0 to 1", "scale and offset", "percent", "8 bit", "said"])
def test_units_of_reflectance(tmp_path, landscape, kind):
    if kind == "0 to 1":
        path = write(tmp_path / "s.tif", (landscape / 10_000).astype(np.float32))
        pixels, _, warnings = read_all(path)
        assert np.allclose(pixels, landscape, atol=0.01)
        assert any("10,000" in warning for warning in warnings)
    elif kind == "scale and offset":
        path = write(tmp_path / "s.tif", landscape + np.uint16(1000), scale=1e-4, offset=-0.1)
        assert np.allclose(read_all(path)[0], landscape, atol=0.01)
    elif kind == "said":
        path = write(tmp_path / "s.tif", (landscape // 50).astype(np.uint8))
        assert np.allclose(read_all(path, quantification=200)[0], landscape // 50 * 50.0)
    else:
        dtype = np.float32 if kind == "percent" else np.uint8
        path = write(tmp_path / "s.tif", np.minimum(landscape // 100, 99).astype(dtype))
        with pytest.raises(UserError, match="reflectances") as error:
            Scene(path)
        assert "--quantification" in error.value.hint


def write_product(folder, landscape, *, offset=-1000, name="S2B_MSIL1C_20220801T101559_N0400_R065_T32TMT_X.SAFE"):
    product = folder / name
    place = product / "GRANULE" / "L1C" / "IMG_DATA"
    place.mkdir(parents=True)
    for layer, band in zip(landscape, FILE_ORDER, strict=True):
        write(place / f"T32TMT_20220801T101559_{band}.tif", layer[None], names=())
    tags = "".join(f'<RADIO_ADD_OFFSET band_id="{i}">{offset}</RADIO_ADD_OFFSET>' for i in range(13))
    (product / "MTD_MSIL1C.xml").write_text(f"<r>{tags if offset else ''}</r>")
    return product


@pytest.mark.reliability("missing data of products (0)", "no data in the map")
def test_zero_is_no_data_in_products(tmp_path, landscape, model_folder):
    half = landscape + np.uint16(1000)
    half[:, :, :96] = 0
    product = write_product(tmp_path, half)
    pixels, valid, _ = read_all(product)
    assert not valid[:, :96].any()
    assert valid[:, 96:].all()
    assert np.array_equal(pixels[:, :, 96:], landscape[:, :, 96:])
    made = predict(product, model=model_folder, out=tmp_path / "out").scenes[0]
    with rasterio.open(made.files["map"]) as file:
        layer = file.read(1)
    assert (layer[:, :3] == 255).all()
    assert (layer[:, 3:] != 255).all()
    assert made.covered == 0.5


@pytest.mark.parametrize("value", [0, -9999])
def test_missing_data_that_a_geotiff_does_not_declare(tmp_path, landscape, value):
    pixels = landscape.astype(np.int16)
    pixels[:, 20:40] = value
    _, valid, _ = read_all(write(tmp_path / "s.tif", pixels))
    assert not valid[20:40].any()
    assert valid[40:].all()


def test_a_product_whose_metadata_lack_the_offset_is_refused(tmp_path, landscape):
    with pytest.raises(UserError, match="baseline 0400 without offsets"):
        Scene(write_product(tmp_path, landscape, offset=0))
    assert Scene(write_product(tmp_path, landscape, offset=0, name="S2A_MSIL1C_20200801T101559_N0209_X.SAFE")).bands


@pytest.mark.reliability("bands of several places or dates in one folder", "refused, named")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crs": "EPSG:32633"}, "different coordinate systems"),
        ({"transform": Affine(10, 0, 700_000, 0, -10, 5_200_000)}, "the same ground"),
        ({"name": "T32TMT_20210701_B03.tif"}, "2 dates"),
        ({"name": "other_20200101_B02.tif"}, "twice"),
    ],
)
def test_bands_of_several_scenes_are_not_stacked(tmp_path, landscape, change, words):
    folder = tmp_path / "bands"
    folder.mkdir()
    name = change.pop("name", "T32TMT_20200101_B03.tif")
    write(folder / "T32TMT_20200101_B02.tif", landscape[1:2], names=())
    write(folder / name, landscape[2:3], names=(), **change)
    with pytest.raises(UserError, match=words):
        Scene(folder)


def test_bands_of_other_resolutions_lie_on_one_grid(tmp_path, landscape):
    folder = tmp_path / "bands"
    folder.mkdir()
    write(folder / "B02.tif", landscape[1:2], names=())
    write(folder / "B05.tif", landscape[4:5, ::2, ::2], names=(), transform=NORTH_UP * Affine.scale(2))
    pixels, _, _ = read_all(folder, ("B02", "B05"))
    assert np.array_equal(pixels[1, ::2, ::2], landscape[4, ::2, ::2])


@pytest.mark.reliability("pixels of another size than in training", "refused, with the command that resamples")
@pytest.mark.parametrize(
    ("crs", "transform", "fits"),
    [
        ("EPSG:32632", NORTH_UP, True),
        ("EPSG:32632", Affine(0.2, 0, 600_000, 0, -0.2, 5_200_000), False),
        ("EPSG:32632", Affine(30, 0, 600_000, 0, -30, 5_200_000), False),
        ("EPSG:4326", Affine(9e-5, 0, 7, 0, -9e-5, 0.01), True),
        ("EPSG:4326", Affine(1e-3, 0, 7, 0, -1e-3, 47), False),
        ("EPSG:2263", Affine(32.8, 0, 900_000, 0, -32.8, 200_000), True),  # feet
        ("EPSG:3857", Affine(14.6, 0, 800_000, 0, -14.6, 5_950_000), True),  # 10 m on the ground at 47° north
        (None, Affine(0.2, 0, 0, 0, -0.2, 0), True),  # nothing is known
    ],
)
def test_pixels_that_do_not_fit_the_model(tmp_path, landscape, model_folder, crs, transform, fits):
    path = write(tmp_path / "s.tif", landscape, crs=crs, transform=transform)
    if fits:
        assert predict(path, model=model_folder, out=tmp_path / "out").scenes
        return
    with pytest.raises(UserError, match="trained on pixels of 10 m"):
        predict(path, model=model_folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is computed, nothing is written"
    options = PredictionOptions(any_resolution=True)
    assert predict(path, model=model_folder, out=tmp_path / "out", options=options).scenes


@pytest.mark.parametrize("numbers", [(0, 0, 5, 0, 0, 5), (float("nan"), 0, 5, 0, -1, 5), (10, 10, 0, 10, 10, 0)])
def test_degenerate_world_files_are_refused(tmp_path, numbers):
    from PIL import Image

    Image.fromarray(np.full((150, 150, 3), 99, np.uint8)).save(tmp_path / "s.png")
    a, b, c, d, e, f = numbers
    (tmp_path / "s.pgw").write_text("\n".join(map(str, (a, d, b, e, c, f))))
    with pytest.raises(UserError, match=r"s\.png"):
        Scene(tmp_path / "s.png")


def test_ground_control_points_are_not_ignored(tmp_path, landscape):
    path = tmp_path / "s.tif"
    write(path, landscape, crs=None, transform=None)
    points = [GroundControlPoint(y, x, 600_000 + 10 * x, 5_200_000 - 10 * y) for y in (0, 192) for x in (0, 192)]
    with open_raster(path, "r+") as file:
        file.gcps = (points, "EPSG:32632")
    with pytest.raises(UserError, match="4 ground control points"):
        Scene(path)


def test_a_preview_is_stretched_from_the_2nd_to_the_98th_percentile():
    ramp = np.tile(np.arange(101, dtype=np.float32) * 7 + 300, (1, 101, 1))
    valid = np.ones(ramp.shape[1:], bool)
    shown = stretched(ramp, valid)[0, 0].astype(int)
    assert (shown[:3] == 0).all()
    assert (shown[98:] == 255).all()
    assert shown[50] == pytest.approx(127.5, abs=1)
    assert np.diff(shown)[3:97].min() >= 2, "the middle uses the whole range"
    outlier = ramp.copy()
    outlier[0, 0, 0] = 1e9
    assert stretched(outlier, valid)[0, 1].astype(int) == pytest.approx(shown, abs=1)


def test_outputs_never_replace_inputs_and_are_never_inputs(tmp_path, landscape, model_folder):
    write(tmp_path / "scene.tif", landscape)
    before = (tmp_path / "scene.tif").read_bytes()
    for _ in range(2):
        made = predict(tmp_path, model=model_folder, out=tmp_path)
        assert [scene.scene for scene in made.scenes] == ["scene"]
        assert not made.tiles
    assert (tmp_path / "scene.tif").read_bytes() == before
    folder = tmp_path / "x" / "scene"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "scene.tif", folder / "scene.tif")
    with pytest.raises(UserError, match="replace an input"):
        predict(folder / "scene.tif", model=model_folder, out=tmp_path / "x")
    assert (folder / "scene.tif").read_bytes() == before


def test_a_model_trained_anew_in_the_same_folder_is_asked_anew(tmp_path, landscape, model_folder):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    scene = write(tmp_path / "scene.tif", landscape)
    predict(scene, model=str(folder), out=tmp_path / "a")
    shutil.rmtree(folder)
    save_model(
        build_network("baseline", classes=3, bands=3),
        folder,
        preprocessing=preprocessing(RGB),
        classes=("x", "y", "z"),
        tile_size=64,
        pixel_size=None,
        provenance={},
    )
    assert set(predict(scene, model=str(folder), out=tmp_path / "b").scenes[0].shares) <= {"x", "y", "z"}
    with pytest.raises(UserError, match=r"another config\.json"):
        predict(scene, model=str(folder), out=tmp_path / "a")


def test_one_bad_scene_does_not_cost_the_others_theirs(cli, tmp_path, landscape, model_folder):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "good.tif", landscape)
    write(folder / "bad.tif", landscape, names=tuple(f"x{i}" for i in range(13)))
    code, out, err = cli("landuse", "predict", folder, "--model", model_folder, "--out", tmp_path / "out")
    assert code == 1
    assert "bad" in err
    assert "good_landuse.tif" in out


def test_a_map_equals_one_made_tile_by_tile(tmp_path, landscape, model_folder):
    """The definition: every tile that covers a cell counts by its distance from the tile's middle."""
    import torch

    from remote_sensing.landuse.model.attention_maps import with_attention
    from remote_sensing.landuse.model.mapping import map_scene

    model = load_model(model_folder)
    path = write(tmp_path / "s.tif", landscape[:, :150, :130])
    with Scene(path) as scene:
        layers = map_scene(model, scene, stride=16)
        whole, _ = scene.read(FILE_ORDER, slice(-48, 150 + 64), slice(-48, 130 + 64))
    rows, columns = 10, 9
    sums = np.zeros((rows + 6, columns + 6, 2))
    weights = np.zeros((rows + 6, columns + 6, 1))
    near = np.array([0.325, 0.775, 0.775, 0.325])  # 1 − 0.9 · (3/4, 1/4, 1/4, 3/4) for four cells per tile
    weight = np.outer(near, near)[..., None]
    gates = np.zeros((2 * rows + 12, 2 * columns + 12))  # two by two cells of attention in a cell of the map
    for row in range(rows + 3):
        for column in range(columns + 3):
            tile = whole[None, :, row * 16 : row * 16 + 64, column * 16 : column * 16 + 64]
            raw = torch.from_numpy(tile.astype(np.float32))
            probabilities = model(raw)[0].numpy()
            kept = with_attention(model.network, model.preprocessing(raw), 8)[1]
            here = slice(2 * row, 2 * row + 8), slice(2 * column, 2 * column + 8)
            gates[here] += np.kron(weight[..., 0], np.ones((2, 2))) * kept[0].numpy()
            sums[row : row + 4, column : column + 4] += weight * probabilities
            weights[row : row + 4, column : column + 4] += weight
    average = (sums / weights)[3 : 3 + rows, 3 : 3 + columns]
    assert layers.confidence.shape == (rows, columns)
    assert np.allclose(layers.confidence, average.max(2), atol=1e-5)
    assert np.array_equal(layers.classes, average.argmax(2))
    whole_weights = np.kron(weights[..., 0], np.ones((2, 2)))
    expected = (gates / whole_weights)[6 : 6 + 2 * rows, 6 : 6 + 2 * columns]
    assert np.allclose(layers.attention, expected, atol=1e-4)


def test_inspect_says_what_is_not_for_land_use(tmp_path):
    heights = np.linspace(300, 900, 150 * 150, dtype=np.float32).reshape(1, 150, 150)
    findings = examine(write(tmp_path / "dem.tif", heights, names=()))
    assert findings.kind == "elevation or other measured values"
    assert not findings.usable
    assert not findings.next_commands
    classes = write(tmp_path / "mask.tif", np.ones((1, 150, 150), np.uint8), names=())
    with open_raster(classes, "r+") as file:
        file.update_tags(CLASS_1="railway")
    assert "maps vectorize" in examine(classes).next_commands[0]


@pytest.mark.reliability("products with 1000 added and no offset declared", "said", cases=1)
def test_an_offset_that_was_not_taken_off_is_said(tmp_path, landscape):
    raised = examine(write(tmp_path / "raised.tif", landscape + np.uint16(1000)))
    assert any("nothing is darker than a reflectance of 0.1" in warning for warning in raised.warnings)
    plain = examine(write(tmp_path / "plain.tif", landscape))
    assert not any("darker" in warning for warning in plain.warnings)


def test_inspect_warns_where_predict_refuses(tmp_path, landscape):
    coarse = write(tmp_path / "s.tif", landscape, transform=NORTH_UP * Affine.scale(3))
    assert any("m: EuroSAT" in warning for warning in examine(coarse).warnings)


def test_shared_cases_give_what_their_rows_say(shared, tmp_path, model_folder):
    cases = shared / "cases" / "remote_sensing"
    if not cases.is_dir():
        pytest.skip("the shared cases are not here")
    named = read_all(cases / "s2_gee_names.tif")[0]
    for name in ("s2_float01.tif", "s2_scaled.tif"):  # drawn anew each, of the same landscape
        assert np.allclose(read_all(cases / name)[0].mean((1, 2)), named.mean((1, 2)), rtol=0.15, atol=20)
    product = next(cases.glob("*.SAFE"))
    assert not read_all(product)[1][:, :96].any()
    for name, words in (("bands_mixed_crs", "coordinate systems"), ("bands_two_dates", "2 dates")):
        with pytest.raises(UserError, match=words):
            predict(cases / name, model=model_folder, out=tmp_path / name)
    for name in ("wf_degenerate.png", "wf_nan.png", "gcp_only.tif"):
        with pytest.raises(UserError, match=name):
            Scene(cases / name)
    assert map_scene_file(cases / "s2_scaled.tif", load_model(model_folder), tmp_path / "map").covered > 0


@pytest.mark.reliability("pixels that are not square on the ground", "refused, both sides named")
@pytest.mark.parametrize(
    ("transform", "crs", "sides"),
    [
        (Affine(5, 0, 600_000, 0, -20, 5_200_000), "EPSG:32632", "4.99 × 20"),
        (Affine(1e-4, 0, 10, 0, -1e-4, 60), "EPSG:4326", "5.5"),
    ],
)
def test_pixels_that_are_not_square_are_refused(tmp_path, landscape, model_folder, transform, crs, sides):
    path = write(tmp_path / "s.tif", landscape, transform=transform, crs=crs)
    with pytest.raises(UserError, match=rf"its pixels are {sides}.* m, the model was trained on pixels of 10 m"):
        map_scene_file(path, load_model(model_folder), tmp_path / "out", PredictionOptions(stride=64))
    assert " × " in examine(path).details["pixel"]


@pytest.mark.reliability("a scene without a coordinate system", "said: the size of its pixels is not known", cases=1)
def test_pixels_of_unknown_size_are_said(tmp_path, landscape, model_folder):
    path = write(tmp_path / "s.tif", landscape, crs=None)
    made = map_scene_file(path, load_model(model_folder), tmp_path / "out", PredictionOptions(stride=64))
    assert any("size of its pixels is not known" in warning for warning in made.warnings)


@pytest.mark.reliability("scales that give no reflectances (0, negative)", "refused")
@pytest.mark.parametrize("scale", [0.0, -1e-4])
def test_scales_that_give_no_reflectances_are_refused(tmp_path, landscape, scale):
    path = write(tmp_path / "s.tif", landscape, scale=scale, offset=0.0)
    with pytest.raises(UserError, match="has the scale"):
        Scene(path)


@pytest.mark.reliability("bands of different units in one file", "refused", cases=1)
def test_bands_of_different_units_are_refused(tmp_path, landscape):
    mixed = landscape.astype(np.float32)
    mixed[:6] /= 10_000
    with pytest.raises(UserError, match=r"different units: up to \d+, but the bands B01, B02, B03"):
        Scene(write(tmp_path / "s.tif", mixed))


@pytest.mark.reliability("values that no surface reflects (−1 as a filling)", "missing data, said")
@pytest.mark.parametrize("unit", [1, 10_000])
def test_values_that_no_surface_reflects_are_missing_data(tmp_path, landscape, unit):
    filled = landscape.astype(np.float32) * (unit / 10_000)
    filled[:, :, :90] = -unit
    pixels, valid, warnings = read_all(write(tmp_path / "s.tif", filled))
    assert not valid[:, :90].any()
    assert valid[:, 90:].all()
    assert pixels.min() >= 0
    assert any("below a reflectance of −0.1" in warning for warning in warnings)
    filled[:, :, :90] = -0.01 * unit  # what haze removal leaves is data
    _, valid, warnings = read_all(write(tmp_path / "t.tif", filled))
    assert valid.all()
    assert not any("below" in warning for warning in warnings)


@pytest.mark.reliability("bands without data", "named", cases=1)
def test_bands_without_data_are_named(tmp_path, landscape):
    emptied = landscape.copy()
    emptied[[2, 9]] = 0
    warnings = read_all(write(tmp_path / "s.tif", emptied))[2]
    assert "the bands B03, B10 hold nothing but zeros or missing data" in warnings
    assert not read_all(write(tmp_path / "t.tif", landscape))[2]


def write_bands(folder, landscape, name_of=lambda band: band, more=None):
    folder.mkdir()
    for i, band in enumerate(FILE_ORDER):
        layers = [i] if band != more else [i, 0]
        write(folder / f"{name_of(band)}.tif", landscape[layers], names=())
    return folder


@pytest.mark.reliability("band files of several bands, or of two dates in any spelling", "refused", cases=4)
def test_band_files_of_several_bands_or_dates_are_refused(tmp_path, landscape):
    with pytest.raises(UserError, match=r"B04\.tif holds 2 bands"):
        Scene(write_bands(tmp_path / "several", landscape, more="B04"))
    for i, spelling in enumerate(("2022-{}-01_{}", "S2_2022{}01_{}", "{1}_2022_{0}_01")):
        folder = tmp_path / f"dates{i}"
        write_bands(folder, landscape, lambda band, s=spelling: s.format("08" if band < "B06" else "09", band))
        with pytest.raises(UserError, match="of 2 dates"):
            Scene(folder)


@pytest.mark.reliability("a world file that contradicts the GeoTIFF's own coordinates", "said", cases=1)
def test_a_world_file_beside_a_geotiff_that_says_otherwise_is_said(tmp_path, landscape):
    path = write(tmp_path / "s.tif", landscape)
    world = tmp_path / "s.tfw"
    world.write_text("10\n0\n0\n-10\n600005\n5199995\n")
    assert not read_all(path)[2]
    for text in ("20\n0\n0\n-20\n600010\n5199990\n", "10,0\n0\n0\n-10,0\n700005\n5199995\n"):
        world.write_text(text)
        assert any("those of s.tfw beside it are others" in warning for warning in read_all(path)[2])
