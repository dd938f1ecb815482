from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from pathology_mil.slides.options import TileOptions, Tiling
from pathology_mil.slides.reading import Slide
from pathology_mil.slides.tiles import (
    _clam_level,
    downsample,
    level0_side,
    make_tiles,
    open_h5,
    plain_attributes,
    read_tiles,
    write_tiles,
)
from pathology_mil.slides.tissue import Tissue


def attributes_of(path):
    with open_h5(path) as file:
        return plain_attributes(file["coords"].attrs)


def test_trident_file(samples, tmp_path):
    params = Tiling(TileOptions(patch_size=128, mag=10, overlap=32))
    with Slide(next((samples / "slides").glob("*.tif"))) as slide:
        tiles, _ = make_tiles(slide, params)
    path = params.tiles.file(tmp_path, slide.slide_id)
    assert path.relative_to(tmp_path).as_posix() == f"10x_128px_32px_overlap/patches/{slide.slide_id}_patches.h5"
    write_tiles(path, tiles)
    attributes = attributes_of(path)
    expected = {
        "patch_size": 128,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 10.0,
        "overlap": 32,
        "name": slide.slide_id,
        "savetodir": str(path.parent),
        "level0_width": 3584,
        "level0_height": 2816,
    }
    assert expected.items() <= attributes.items()
    assert np.all(tiles.coords % (4 * 96) == 0)
    again = read_tiles(path)
    assert (again.side, again.size, again.slide_id) == (512, 128, slide.slide_id)
    np.testing.assert_array_equal(again.coords, tiles.coords)


def test_clam_file(samples, tmp_path):
    params = Tiling(TileOptions(patch_size=128, mag=10, layout="clam"))
    with Slide(next((samples / "slides").glob("*.tif"))) as slide:
        tiles, _ = make_tiles(slide, params)
    path = params.tiles.file(tmp_path, slide.slide_id)
    assert path == tmp_path / "patches" / f"{slide.slide_id}.h5"
    write_tiles(path, tiles)
    attributes = attributes_of(path)
    assert (attributes["patch_level"], attributes["patch_size"], attributes["downsample"]) == (1, 128, [4.0, 4.0])
    del attributes["patch_size_level0"]  # as CLAM itself would write it
    assert level0_side(attributes, tiles.coords) == (512, [])
    assert len({tuple(c) for c in tiles.coords}) == len(tiles.coords)


def test_true_and_nominal_resolution(cmu):
    with Slide(cmu, mpp=0.46) as slide:
        nominal, _ = make_tiles(slide, Tiling(TileOptions(mag=10)))
        true, _ = make_tiles(slide, Tiling(TileOptions(mpp=1.0)))
        fraction, _ = make_tiles(slide, Tiling(TileOptions(mag=2.5, patch_size=64)))
    assert (nominal.side, true.side, fraction.side) == (512, round(256 / 0.46), 512)


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap": 256},
        {"overlap": -1},
        {"patch_size": 0},
        {"mag": 20.0, "mpp": 0.5},
        {"mpp": 0.0},
        {"mag": float("inf")},
        {"mag": -5.0},
        {"mag": float("nan")},
    ],
)
def test_impossible_wishes_are_refused(wrong):
    with pytest.raises(UserError):
        TileOptions(**wrong)


def test_no_magnification_out_of_nothing(cmu, tcga):
    with Slide(cmu) as slide, pytest.raises(UserError, match="enlarged"):
        make_tiles(slide, Tiling(TileOptions(mag=40)))
    with Slide(tcga) as slide, pytest.raises(UserError, match="neither a resolution"):
        make_tiles(slide, Tiling(TileOptions()))


def test_the_side_of_a_tile_is_found_in_every_layout():
    coords = np.array([[0, 0], [0, 512], [1024, 0]])
    assert level0_side({"patch_size_level0": 512, "patch_size": 256}, coords)[0] == 512
    assert level0_side({"patch_size": 256, "downsample": [4.002, 4.0]}, coords)[0] == 1024
    assert level0_side({"patch_size": 256, "downsample": [1.0, 1.0], "custom_downsample": 2}, coords)[0] == 512
    side, notes = level0_side({}, coords)
    assert side == 512
    assert "smallest step" in notes[0]
    assert level0_side({}, coords[:1])[0] is None


def test_damaged_files_are_one_plain_line(tmp_path, samples):
    good = tmp_path / "good.h5"
    with Slide(next((samples / "slides").glob("*.svs"))) as slide:
        tiles, _ = make_tiles(slide, Tiling(TileOptions()))
    write_tiles(good, tiles)
    assert not list(tmp_path.glob(".*")), "nothing is left beside the file"
    cut, text, other = tmp_path / "cut.h5", tmp_path / "text.h5", tmp_path / "other.h5"
    cut.write_bytes(good.read_bytes()[:1500])
    text.write_text("x")
    with h5py.File(other, "w") as file:
        file["y"] = np.zeros(3)
    for path in (cut, text, other, tmp_path / "absent.h5"):
        with pytest.raises(UserError) as error:
            read_tiles(path)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"patch_size": 100, "mpp": 0.5}, 167),  # 166.7 pixels
        ({"patch_size": 100, "mpp": 0.5, "overlap": 15, "layout": "clam"}, 142),  # 141.7 pixels
    ],
)
def test_the_step_between_tiles_is_rounded_not_cut(tmp_path, options, step):
    Image.new("RGB", (1200, 1000), (220, 130, 180)).save(tmp_path / "a.png")
    outline = np.array([(0, 0), (0, 999), (1199, 999), (1199, 0)], np.int32)
    tissue = Tissue([outline], [[]], [1.2e6], (1.0, 1.0))
    with Slide(tmp_path / "a.png", mpp=0.3) as slide:
        tiles, _ = make_tiles(slide, Tiling(TileOptions(**options)), tissue)
    assert tiles.side == 167
    for axis in (0, 1):
        corners = np.unique(tiles.coords[:, axis])
        assert len(corners) > 5
        assert set(np.diff(corners).tolist()) == {step}


def test_the_side_of_a_tile_is_cut_as_trident_does(tmp_path):
    Image.new("RGB", (900, 900)).save(tmp_path / "a.png")
    tissue = Tissue([np.array([(0, 0), (0, 899), (899, 899), (899, 0)], np.int32)], [[]], [1.0], (1, 1))
    with Slide(tmp_path / "a.png", mpp=0.25) as slide:
        tiles, _ = make_tiles(slide, Tiling(TileOptions(mag=15)), tissue)
    assert tiles.side == 682, "256 · 40 / 15 is 682.67"


def test_tiles_are_hardly_enlarged(tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png", mpp=0.5) as slide:
        assert downsample(slide, TileOptions(mpp=0.42)) == pytest.approx(0.84)
        for options in (TileOptions(mpp=0.41), TileOptions(mag=25)):
            with pytest.raises(UserError, match="would be enlarged"):
                downsample(slide, options)


def test_clam_reads_a_level_only_where_its_truncated_downsample_gives_the_side():
    levels = SimpleNamespace(downsamples=[(1.0, 1.0), (3.98, 3.98)], best_level=lambda scale: 1)
    assert _clam_level(levels, TileOptions(layout="clam"), 4.0) == (0, 1024, 1024)
    levels.downsamples[1] = (4.02, 4.02)
    assert _clam_level(levels, TileOptions(layout="clam"), 4.0) == (1, 256, 1024)
