"""Sheets of every kind, segmentation that leaves no seam, resume, and clear errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import nn

from core_runtime.errors import UserError
from remote_sensing.maps.model.folder import SheetModel
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.model.tiling import Tiles
from remote_sensing.maps.predictions.sheets import segment_sheet
from remote_sensing.maps.samples.drawing import draw_sheet
from remote_sensing.maps.samples.samples import write_sheet
from remote_sensing.maps.sheets.grid import Grid, parse_length
from remote_sensing.maps.sheets.options import PartOptions
from remote_sensing.maps.sheets.sheet import Sheet
from remote_sensing.rasters import open_raster

LOCAL = CRS.from_wkt(
    'PROJCS["own",GEOGCS["g",DATUM["d",SPHEROID["s",6377397.155,299.1528128]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["central_meridian",7.4],PARAMETER["scale_factor",1],UNIT["metre",1]]'
)


class Dark(nn.Module):
    """A "network" that looks at each pixel by itself: dark is a feature."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1))
        self.config = None


class PixelModel(SheetModel):
    """Takes the place of MapSAM where only the tiling matters; counts its tiles."""

    def logits(self, rgb):
        self.provenance["tiles"] = self.provenance.get("tiles", 0) + len(rgb)
        if self.provenance.get("fail_after") is not None and self.provenance["tiles"] > self.provenance["fail_after"]:
            raise KeyboardInterrupt
        return (110 - rgb.float().mean(1, keepdim=True)) / 10


class Constant(SheetModel):
    def logits(self, rgb):
        return torch.full((len(rgb), 1, *rgb.shape[2:]), 1.5)


WHOLE = PartOptions()


def model(form=PixelModel, side=48, **told):
    return form(Dark(), ("dark",), side, provenance=told)


def run(form, path, out, *, part=WHOLE, **options):
    segmentation, warnings = segment_sheet(
        form, path, out, asked=part, options=SegmentOptions(**options), progress=False
    )
    return {**vars(segmentation), "warnings": warnings}


def layer(path, band=1):
    with open_raster(path) as file:
        return file.read(band)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "sheet.tif"
    write_sheet(path, draw_sheet(310, 3).picture[:250], Affine(1.25, 0, 2_600_000, 0, -1.25, 1_200_000))
    return path


def test_a_pixelwise_model_gives_the_same_tiled_and_untiled(sheet, tmp_path):
    made = run(model(), sheet, tmp_path)
    with Sheet(sheet) as opened:
        rgb, _ = opened.read(slice(0, 250), slice(0, 310))
    assert np.array_equal(layer(made["mask"]), (rgb.astype(np.float32).mean(0) <= 110).astype(np.uint8))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_constant_model_gives_a_constant_mosaic(sheet, tmp_path, overlap):
    made = run(model(Constant), sheet, tmp_path, overlap=overlap)
    assert (layer(made["mask"]) == 1).all()
    probability = layer(made["probability"])
    assert (probability == round(254 / (1 + np.exp(-1.5)))).all()


def test_extent_and_grid_shift_do_not_matter(sheet, tmp_path):
    whole = layer(run(model(), sheet, tmp_path / "a")["mask"])
    box = (2_600_000 + 61 * 1.25, 1_200_000 - 201 * 1.25, 2_600_000 + 187 * 1.25, 1_200_000 - 90 * 1.25)
    part = run(model(), sheet, tmp_path / "b", part=PartOptions(bbox=box))
    assert np.array_equal(layer(part["mask"]), whole[90:201, 61:187])
    with open_raster(part["mask"]) as file:
        assert file.transform.almost_equals(Affine(1.25, 0, box[0], 0, -1.25, box[3]))
    # the same pixels elsewhere in the world lie otherwise on the grid of tiles
    moved = Affine(1.25, 0, 2_600_000 + 17 * 1.25, 0, -1.25, 1_200_000 - 5 * 1.25)
    write_sheet(tmp_path / "moved.tif", draw_sheet(310, 3).picture[:250], moved)
    assert np.array_equal(layer(run(model(), tmp_path / "moved.tif", tmp_path / "c")["mask"]), whole)


def test_a_killed_run_goes_on_by_strips(sheet, tmp_path):
    whole = run(model(), sheet, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(model(fail_after=30), sheet, tmp_path / "b")
    left = list((tmp_path / "b" / ".sheet.work").glob("*.npy"))
    assert left
    assert not (tmp_path / "b" / "sheet_mask.tif").exists()
    assert "key" in json.loads((tmp_path / "b" / ".sheet.work" / "run.json").read_text())
    other = model(fail_after=None)
    resumed = run(other, sheet, tmp_path / "b")
    assert resumed["resumed_strips"] == len(left)
    assert np.array_equal(layer(resumed["mask"]), layer(whole["mask"]))
    assert np.array_equal(layer(resumed["probability"]), layer(whole["probability"]))
    assert not (tmp_path / "b" / ".sheet.work").exists()


def test_nodata_stays_and_empty_tiles_are_left_out(tmp_path):
    picture = draw_sheet(300, 1).picture
    picture[:, 150:] = 0
    profile = {
        "driver": "GTiff",
        "count": 3,
        "height": 300,
        "width": 300,
        "dtype": "uint8",
        "nodata": 0,
        "crs": "EPSG:2056",
    }
    with open_raster(tmp_path / "s.tif", "w", transform=Affine(1, 0, 5, 0, -1, 5), **profile) as file:
        file.write(picture.transpose(2, 0, 1))
    made = run(model(), tmp_path / "s.tif", tmp_path / "out")
    mask = layer(made["mask"])
    assert (mask[:, 150:] == 255).all()
    assert (mask[:, :150] != 255).all()
    assert made["skipped_tiles"] > 10


def test_roi_keeps_the_frame_and_nothing_else(sheet, tmp_path):
    from shapely.geometry import box

    from remote_sensing.maps.sheets.vector_files import NewLayer, write_layer

    frame = box(2_600_000 + 50, 1_200_000 - 200, 2_600_000 + 300, 1_200_000 - 60)
    write_layer(tmp_path / "roi.gpkg", NewLayer("x", "Polygon", [frame], {"n": [1]}), crs=CRS.from_epsg(2056))
    mask = layer(run(model(), sheet, tmp_path / "out", part=PartOptions(roi=tmp_path / "roi.gpkg"))["mask"])
    assert mask.shape == (112, 200)
    assert (mask != 255).all()
    write_layer(
        tmp_path / "line.gpkg", NewLayer("x", "LineString", [frame.exterior], {"n": [1]}), crs=CRS.from_epsg(2056)
    )
    with pytest.raises(UserError, match="no area"):
        run(model(), sheet, tmp_path / "out2", part=PartOptions(roi=tmp_path / "line.gpkg"))
    with pytest.raises(UserError, match="no area"):
        run(model(), sheet, tmp_path / "out2", part=PartOptions(bbox=(5, 5, 5, 9)))
    with pytest.raises(UserError, match="outside of the sheet"):
        run(model(), sheet, tmp_path / "out2", part=PartOptions(bbox=(0, 0, 5, 9)))


@pytest.mark.parametrize("name", ["rotated", "local", "none"])
def test_every_georeference_is_kept(tmp_path, name):
    transform = {
        "rotated": Affine(1, 0.4, 7, 0.4, -1, 9),
        "local": Affine(2, 0, 7, 0, -2, 9),
        "none": Affine.identity(),
    }[name]
    crs = {"rotated": 2056, "local": LOCAL, "none": None}[name]
    write_sheet(tmp_path / "s.tif", draw_sheet(200, 1).picture[:70], transform, crs)
    made = run(model(), tmp_path / "s.tif", tmp_path / "out")
    with open_raster(tmp_path / "s.tif") as a, open_raster(made["mask"]) as b:
        assert a.crs == b.crs
        assert a.transform.almost_equals(b.transform)
        assert a.shape == b.shape
        assert b.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
    assert any("pixels" in w for w in made["warnings"]) == (name == "none")


@pytest.mark.slow
def test_real_files_of_the_edge_cases(shared, tmp_path):
    """rasterio's and MapReader's own test files: size, transform and coordinate system as they were; nodata in is nodata out."""
    files = sorted(
        [*(shared / "data/mapsam/rasterio_tests").glob("*.tif"), *(shared / "data/mapsam/mapreader_tests").glob("*.*")]
    )
    files = [f for f in files if f.suffix in (".tif", ".png")]
    assert len(files) >= 15
    for file in files:
        made = run(model(side=224), file, tmp_path / file.stem)
        with open_raster(file) as a, open_raster(made["mask"]) as b:
            assert a.shape == b.shape, file.name
            assert a.crs == b.crs, file.name
            assert a.transform.almost_equals(b.transform), file.name
            valid = a.dataset_mask() > 0
            out = b.read(1)
            if np.dtype(a.dtypes[0]).kind != "f":
                assert np.array_equal(out != 255, valid), file.name


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 1), "uint8"), ((40, 2500), "uint8"), ((90, 70), "uint16"), ((60, 60), "float32")]
)
def test_odd_sizes_and_types(tmp_path, shape, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (1, *shape)).astype(dtype)
    if dtype == "float32":
        image[0, :5] = np.nan
    profile = {"driver": "GTiff", "count": 1, "height": shape[0], "width": shape[1], "dtype": dtype}
    with open_raster(tmp_path / "s.tif", "w", crs="EPSG:2056", transform=Affine(1, 0, 5, 0, -1, 5), **profile) as file:
        file.write(image)
    made = run(model(), tmp_path / "s.tif", tmp_path / "out")
    mask = layer(made["mask"])
    assert mask.shape == shape
    if dtype == "float32":
        assert (mask[:5] == 255).all()
    if dtype != "uint8":
        assert any("stretched" in w for w in made["warnings"])


def test_palette_and_alpha(tmp_path):
    index = np.zeros((1, 60, 60), np.uint8)
    index[0, :30] = 7
    profile = {"driver": "GTiff", "count": 1, "height": 60, "width": 60, "dtype": "uint8", "photometric": "palette"}
    with open_raster(tmp_path / "p.tif", "w", crs="EPSG:2056", transform=Affine(1, 0, 5, 0, -1, 5), **profile) as file:
        file.write(index)
        file.write_colormap(1, {0: (250, 250, 250, 255), 7: (10, 10, 10, 255)})
    mask = layer(run(model(), tmp_path / "p.tif", tmp_path / "out")["mask"])
    assert (mask[:30] == 1).all()
    assert (mask[30:] == 0).all()
    rgba = np.full((4, 60, 60), 240, np.uint8)
    rgba[3, :, :20] = 0
    profile = {
        "driver": "GTiff",
        "count": 4,
        "height": 60,
        "width": 60,
        "dtype": "uint8",
        "photometric": "RGB",
        "alpha": "yes",
    }
    with open_raster(tmp_path / "a.tif", "w", crs="EPSG:2056", transform=Affine(1, 0, 5, 0, -1, 5), **profile) as file:
        file.write(rgba)
    assert (layer(run(model(), tmp_path / "a.tif", tmp_path / "out")["mask"])[:, :20] == 255).all()


def test_damaged_sheets_end_in_one_line(sheet, tmp_path):
    whole = sheet.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.tif"):
        run(model(), tmp_path / "cut.tif", tmp_path / "out")
    with open_raster(sheet) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    spoiled = bytearray(whole)
    spoiled[offset + 20 : offset + 400] = bytes(380)
    (tmp_path / "tile.tif").write_bytes(spoiled)
    with pytest.raises(UserError, match=r"tile\.tif: rows .* cannot be read"):
        run(model(), tmp_path / "tile.tif", tmp_path / "out")


def test_lengths_need_metres_or_pixels():
    metric = Grid(10, 10, Affine(2, 0, 0, 0, -2, 0), CRS.from_epsg(2056))
    degrees = Grid(10, 10, Affine(0.01, 0, 7, 0, -0.01, 47), CRS.from_epsg(4326))
    assert parse_length("12px", metric, "--spur") == 24
    assert parse_length("3px", metric, "--min-area", power=2) == 12
    assert parse_length("25", metric, "--spur") == 25
    with pytest.raises(UserError, match="degrees"):
        parse_length("25", degrees, "--spur")
    assert parse_length("0", degrees, "--spur") == 0
    for wrong in ("x", "-3", "nan"):
        with pytest.raises(UserError, match="--spur"):
            parse_length(wrong, metric, "--spur")


def test_scale_changes_what_a_tile_shows():
    grid = Grid(1000, 1000, Affine.identity(), None)
    assert Tiles(grid, 224, SegmentOptions(scale=2.0)).side == 448
    with pytest.raises(UserError, match="overlap"):
        SegmentOptions(overlap=0.9)


def test_a_wide_strip_tiff_is_read_by_windows(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "height": 20, "width": 65_536, "dtype": "uint8", "crs": "EPSG:2056"}
    with open_raster(tmp_path / "w.tif", "w", transform=Affine(1, 0, 5, 0, -1, 5), tiled=False, **profile) as file:
        file.write(np.full((1, 20, 65_536), 50, np.uint8))
    made = run(model(side=64), tmp_path / "w.tif", tmp_path / "out", batch=256)
    assert (layer(made["mask"]) == 1).all()


def test_read_only_output(sheet, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match="cannot write"):
        run(model(), sheet, blocked / "out")
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
