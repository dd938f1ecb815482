"""Values as they are meant: bits, negatives, inks, stretches, with and without overviews; tiles that lie on coordinates."""

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp
from written import HERE, write_raster

from remote_sensing.maps.model.inference import _finish
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.model.tiling import Tiles, taper
from remote_sensing.maps.sheets.grid import Grid
from remote_sensing.maps.sheets.labels import read_label
from remote_sensing.maps.sheets.options import SheetOptions
from remote_sensing.maps.sheets.sheet import Sheet
from remote_sensing.rasters import open_raster


def rgb(path, options=SheetOptions()):
    with Sheet(path, options) as sheet:
        return sheet.read(slice(0, sheet.grid.height), slice(0, sheet.grid.width))[0]


@pytest.mark.reliability("pictures of 1, 2, 4 and 12 bits", "scaled by their bits")
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_scaled(tmp_path, bits):
    top = 2**bits - 1
    values = np.tile(np.arange(top + 1, dtype=np.uint8), (8, 16 // (top + 1) + 1))[:, :16]
    write_raster(tmp_path / "s.tif", values, nbits=bits)
    assert np.array_equal(rgb(tmp_path / "s.tif")[0], np.rint(values * (255 / top)).astype(np.uint8))
    Image.fromarray(values > top // 2).save(tmp_path / "s.png")
    assert set(np.unique(rgb(tmp_path / "s.png"))) == {0, 255}


def test_twelve_bits_in_sixteen(tmp_path):
    values = np.array([[0, 4095, 2048]], np.uint16)
    write_raster(tmp_path / "s.tif", values, nbits=12)
    assert rgb(tmp_path / "s.tif", SheetOptions(stretch="dtype"))[0].tolist() == [[0, 255, 128]]


@pytest.mark.reliability("negatives (MinIsWhite) and inks (CMYK)", "turned into what the eye sees")
def test_negatives_and_inks(tmp_path):
    values = np.array([[0, 255, 100]], np.uint8)
    write_raster(tmp_path / "n.tif", values, photometric="MINISWHITE")
    assert rgb(tmp_path / "n.tif")[0].tolist() == [[255, 0, 155]]
    inks = np.array([[[0, 255, 0]], [[0, 0, 0]], [[0, 0, 0]], [[0, 0, 255]]], np.uint8)
    write_raster(tmp_path / "c.tif", inks, photometric="CMYK")
    assert rgb(tmp_path / "c.tif")[:, 0].T.tolist() == [[255, 255, 255], [0, 255, 255], [0, 0, 0]]
    # GDAL turns the inks of a TIFF's own tag into light; where bands only say that they are inks, we do
    write_raster(tmp_path / "i.tif", inks)
    with rasterio.open(tmp_path / "i.tif", "r+") as file:
        file.colorinterp = (ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black)
    assert np.array_equal(rgb(tmp_path / "i.tif"), rgb(tmp_path / "c.tif"))


@pytest.mark.reliability("labels with an alpha channel", "alpha is ignored")
def test_alpha_is_not_a_label(tmp_path):
    label = np.zeros((40, 40, 2), np.uint8)
    label[..., 1] = 255
    label[:10, :4, 0] = 255
    Image.fromarray(label, "LA").save(tmp_path / "la.png")
    assert read_label(tmp_path / "la.png", 1).sum() == 40
    four = np.repeat(label[..., :1], 4, 2)
    four[..., 3] = 255
    Image.fromarray(four, "RGBA").save(tmp_path / "rgba.png")
    assert read_label(tmp_path / "rgba.png", 1).sum() == 40


def test_the_stretch_leaves_two_per_cent_at_both_ends(tmp_path):
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    write_raster(tmp_path / "s.tif", values)
    with Sheet(tmp_path / "s.tif") as sheet:
        assert sheet.levels == pytest.approx((199.98, 9799.02), abs=0.1)
        picture = sheet.read(slice(0, 100), slice(0, 100))[0][0]
        assert any("2 to 98 % of the sheet" in warning for warning in sheet.warnings)
    assert (picture[:2] == 0).all()
    assert (picture[98:] == 255).all()
    assert picture[50, 0] == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize("side", [700, 2100])
def test_overviews_do_not_change_the_stretch(tmp_path, side):
    from rasterio.enums import Resampling

    values = np.random.default_rng(0).integers(0, 60_000, (side, side)).astype(np.uint16)
    write_raster(tmp_path / "s.tif", values, tiled=True)
    with Sheet(tmp_path / "s.tif") as sheet:
        before = sheet.levels
    with rasterio.open(tmp_path / "s.tif", "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)
    with Sheet(tmp_path / "s.tif") as sheet:
        assert sheet.levels == before
        assert any(("windows" in warning) == (side > 2000) for warning in sheet.warnings)


def test_tiles_lie_on_coordinates():
    """Those of a part cut out as a file begin where the whole's do."""
    for transform in (HERE, Affine(1, 0.4, 7.5, 0.4, -1, 9.5), Affine.identity()):
        whole = Grid(500, 600, transform, None)
        part = whole.window(slice(123, 400), slice(77, 500))
        tiles, of_part = (Tiles(grid, 48, SegmentOptions()) for grid in (whole, part))
        starts = {tiles.row(i) for i in tiles.strips_of(slice(0, 500))}
        starts_of_part = {of_part.row(i) + 123 for i in of_part.strips_of(slice(0, 277))}
        columns = {tiles.column(i) for i in tiles.columns_of(slice(0, 600))}
        columns_of_part = {of_part.column(i) + 77 for i in of_part.columns_of(slice(0, 423))}
        if part.georeferenced:
            assert starts_of_part <= starts
            assert columns_of_part <= columns
    bare = Tiles(Grid(500, 600, Affine.identity(), None), 48, SegmentOptions())
    assert bare.row(0) == bare.column(0) == 0


@pytest.mark.parametrize(
    ("side", "overlap", "stride"), [(224, 0.25, 168), (50, 0.25, 38), (50, 0.15, 42), (8, 0.75, 2)]
)
def test_the_step_of_tiles_is_rounded(side, overlap, stride):
    tiles = Tiles(Grid(100, 100, Affine.identity(), None), side, SegmentOptions(overlap=overlap))
    assert tiles.stride == stride
    assert tiles.side == side


def test_a_cut_out_gives_what_the_whole_gives(paper, tmp_path):
    """With an answer that depends on where a pixel lies in its tile, away from the cut by a tile."""
    from remote_sensing.maps.model.folder import SheetModel
    from remote_sensing.maps.predictions.sheets import segment_sheet

    class Place(SheetModel):
        def logits(self, rgb):
            return rgb.float().mean(1, keepdim=True) / 60 - torch.arange(rgb.shape[3]) / 12

    from types import SimpleNamespace

    model = Place(SimpleNamespace(config=None), ("dark",), 16)  # pyright: ignore
    whole = write_raster(tmp_path / "whole.tif", paper)
    cut = write_raster(tmp_path / "cut.tif", paper[:, 21:90, 13:88], transform=HERE * Affine.translation(13, 21))
    masks = []
    for path in (whole, cut):
        segmentation, _ = segment_sheet(model, path, tmp_path / "out", progress=False)
        with rasterio.open(segmentation.probability) as file:
            masks.append(file.read(1))
    inner = masks[1][16:-16, 16:-16]
    assert np.array_equal(inner, masks[0][21 + 16 : 90 - 16, 13 + 16 : 88 - 16])
    assert len(np.unique(inner)) > 20


def test_the_taper_is_a_bell():
    weight = taper(48)
    assert weight.shape == (48, 48)
    assert weight.min() > 0
    assert weight[24, 24] == weight.max() == pytest.approx(1, abs=0.01)
    assert weight[0, 24] == pytest.approx(0.021, abs=0.002)
    assert np.allclose(weight, weight.T)
    assert np.allclose(weight, weight[::-1, ::-1])


def test_tiles_are_blended_by_the_taper(paper, tmp_path):
    """Where two tiles disagree, the one whose middle is nearer counts more."""
    from types import SimpleNamespace

    from remote_sensing.maps.model.folder import SheetModel
    from remote_sensing.maps.predictions.sheets import segment_sheet

    class Ramp(SheetModel):
        def logits(self, rgb):
            return (torch.arange(rgb.shape[3]) - 15.5).expand(len(rgb), 1, *rgb.shape[2:]) / 4

    model = Ramp(SimpleNamespace(config=None), ("x",), 32)  # pyright: ignore
    path = write_raster(tmp_path / "s.tif", paper, crs=None, transform=Affine.identity())
    segmentation, _ = segment_sheet(model, path, tmp_path / "out", options=SegmentOptions(overlap=0.5), progress=False)
    with open_raster(segmentation.probability) as file:
        row = file.read(1)[48]
    weight = taper(32)[16]
    expected = []
    for column in range(32, 64):
        ours, theirs = column % 16 + 16, column % 16  # places in the two tiles that see this column
        logits = np.array([(ours - 15.5) / 4, (theirs - 15.5) / 4])
        mean = (logits * weight[[ours, theirs]]).sum() / weight[[ours, theirs]].sum()
        expected.append(round(254 / (1 + np.exp(-mean))))
    assert np.abs(row[32:64].astype(int) - expected).max() <= 1


def test_unsure_pixels_of_features_and_of_background():
    """Background is sure where no class is likely: its certainty is 1 - p."""
    probability = np.array([0.95, 0.6, 0.45, 0.05])
    logits = np.log(probability / (1 - probability))[None, None]
    sums = np.concatenate([logits, np.ones((1, 1, 4))]).astype(np.float32)
    layers = _finish(sums, np.ones((1, 4), bool), SegmentOptions(abstain=0.75))
    assert layers[0, 0].tolist() == [1, 1, 0, 0]
    assert layers[1, 0].tolist() == [0, 1, 1, 0]
    assert layers[2, 0].tolist() == [241, 152, 114, 13]
