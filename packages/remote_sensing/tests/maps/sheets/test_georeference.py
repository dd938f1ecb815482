"""Where a sheet lies: control points, points of QGIS, world files, coordinate systems; and labels that lie elsewhere."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from written import HERE, LV95, write_raster

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.labels import read_label
from remote_sensing.maps.sheets.options import SheetOptions
from remote_sensing.maps.sheets.sheet import Sheet

CORNERS = [(0, 0), (0, 96), (96, 0), (96, 96)]  # rows and columns


def with_points(path, picture, corners=CORNERS, crs=LV95, wrong=0.0):
    points = [GroundControlPoint(row, column, *(HERE * (column, row))) for row, column in corners]
    points[-1].x += wrong
    profile = {"driver": "GTiff", "count": 3, "height": 96, "width": 96, "dtype": "uint8"}
    with rasterio.open(path, "w", gcps=points, crs=crs, **profile) as file:
        file.write(picture)
    return path


@pytest.mark.reliability("control points instead of a transform", "used, with how far they miss; too few are refused")
def test_control_points_place_a_sheet(paper, tmp_path):
    with Sheet(with_points(tmp_path / "a.tif", paper)) as sheet:
        assert sheet.grid.transform.almost_equals(HERE, 1e-6)
        assert sheet.grid.crs == LV95
        assert any("4 control points" in warning and "0.0 pixels" in warning for warning in sheet.warnings)
    with Sheet(with_points(tmp_path / "b.tif", paper, wrong=40.0)) as sheet:
        assert any("does not fit" in w or "do not fit" in w or "rectify" in w for w in sheet.warnings)
    for corners in (CORNERS[:2], [(0, 0), (48, 48), (96, 96)]):
        with pytest.raises(UserError, match="control points"):
            Sheet(with_points(tmp_path / "c.tif", paper, corners))


def test_control_points_of_a_virtual_raster_with_a_system(paper, predict, tmp_path):
    Image.fromarray(paper.transpose(1, 2, 0)).save(tmp_path / "scan.png")
    gcps = "".join(
        f'<GCP Id="{i}" Pixel="{c}" Line="{r}" X="{(HERE * (c, r))[0]}" Y="{(HERE * (c, r))[1]}"/>'
        for i, (r, c) in enumerate(CORNERS)
    )
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><ColorInterp>{c}</ColorInterp><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">scan.png</SourceFilename><SourceBand>{b}</SourceBand></SimpleSource></VRTRasterBand>'
        for b, c in enumerate(("Red", "Green", "Blue"), 1)
    )
    vrt = tmp_path / "sheet.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="96" rasterYSize="96"><SRS>EPSG:2056</SRS><GCPList Projection="EPSG:2056">{gcps}</GCPList>{bands}</VRTDataset>'
    )
    code, _, error = predict(vrt, tmp_path / "out", "--vector", "geojson", "--threshold", "0.001")
    assert code == 0, error
    (outline, *_) = json.loads((tmp_path / "out/sheet.geojson").read_text())["features"]
    x, y = np.array(outline["geometry"]["coordinates"][0][0]).ravel()[:2]
    assert (x, y) == (pytest.approx(7.44, abs=0.01), pytest.approx(46.95, abs=0.01))
    # the picture that the virtual raster shows has changed: what was made from it is another thing
    Image.fromarray(255 - paper.transpose(1, 2, 0)).save(tmp_path / "scan.png")
    code, _, error = predict(vrt, tmp_path / "out", "--threshold", "0.001")
    assert code == 2
    assert "made with another" in error


@pytest.mark.parametrize("name", ["s.png.points", "s.points"])
@pytest.mark.reliability("control points of QGIS beside a scan", "used; points that are switched off are left out")
def test_points_of_qgis(paper, tmp_path, name):
    Image.fromarray(paper.transpose(1, 2, 0)).save(tmp_path / "s.png")
    rows = []
    for row, column in CORNERS:
        x, y = HERE * (column, row)
        rows.append(f"{x},{y},{column},{-row},1,0,0,0")
    rows.append("0,0,50,-50,0,0,0,0")  # switched off
    (tmp_path / name).write_text(
        f"#CRS: {LV95.to_wkt()}\nmapX,mapY,sourceX,sourceY,enable,dX,dY,residual\n" + "\n".join(rows) + "\n"
    )
    with Sheet(tmp_path / "s.png") as sheet:
        assert sheet.grid.transform.almost_equals(HERE, 1e-6)
        assert sheet.grid.crs == LV95
    (tmp_path / name).write_text("mapX,mapY,sourceX,sourceY,enable\n1,2,three,4,1\n")
    with pytest.raises(UserError, match="not a number"):
        Sheet(tmp_path / "s.png")


@pytest.mark.parametrize(
    "lines",
    [
        "1\n1\n1\n1\n0\n0\n",
        "nan\n0\n0\nnan\nnan\nnan\n",
        "0\n0\n0\n0\n0\n0\n",
        "1e200\n0\n0\n-1.25\n1\n1\n",
        "1.25\n0\n0\n",
        "a\nb\n",
    ],
)
@pytest.mark.reliability("world files that are degenerate, not numbers or cut", "one line before anything is computed")
def test_world_files_that_say_nothing(paper, predict, tmp_path, lines):
    Image.fromarray(paper.transpose(1, 2, 0)).save(tmp_path / "s.png")
    (tmp_path / "s.pgw").write_text(lines)
    code, _, error = predict(tmp_path / "s.png", tmp_path / "out", "--vector", "gpkg")
    assert code == 2
    assert len(error.splitlines()) <= 2
    assert "s.p" in error
    assert not (tmp_path / "out").exists()


def test_crs_by_option_and_a_system_without_a_transform(paper, tmp_path):
    bare = write_raster(tmp_path / "bare.tif", paper, crs=None)
    with Sheet(bare) as sheet:
        assert sheet.grid.crs is None
        assert any("--crs" in warning for warning in sheet.warnings)
    with Sheet(bare, SheetOptions(crs="EPSG:2056")) as sheet:
        assert sheet.grid.crs == LV95
    with pytest.raises(UserError, match="not a coordinate system"):
        Sheet(bare, SheetOptions(crs="EPSG:nonsense"))
    nowhere = write_raster(tmp_path / "nowhere.tif", paper, transform=Affine.identity())
    with Sheet(nowhere) as sheet:
        assert not sheet.grid.georeferenced
        assert any("no transform" in warning for warning in sheet.warnings)


@pytest.mark.reliability(
    "a local coordinate system and GeoJSON", "one line names it; the other sheets of a folder go on"
)
def test_a_local_system_is_no_way_to_degrees(paper, sheet, predict, tmp_path):
    local = CRS.from_wkt('LOCAL_CS["old survey",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]')
    alone = write_raster(tmp_path / "local.tif", paper, crs=local)
    code, _, error = predict(alone, tmp_path / "alone", "--vector", "geojson")
    assert code == 2
    assert "old survey" in error
    assert not (tmp_path / "alone").exists()
    alone.rename(sheet.parent / "local.tif")
    code, _, error = predict(sheet.parent, tmp_path / "out", "--vector", "geojson")
    assert code == 1
    assert "old survey" in error
    assert (tmp_path / "out/sheet.geojson").exists()
    assert (tmp_path / "out/local_mask.tif").exists()
    code, _, error = predict(sheet.parent / "local.tif", tmp_path / "own", "--vector", "gpkg")
    assert code == 0, error


@pytest.mark.reliability("label rasters of another place, system or size", "refused; the distance is said")
def test_labels_elsewhere_are_refused(tmp_path):
    label = np.zeros((96, 96), np.uint8)
    label[10:20] = 1
    with rasterio.open(write_raster(tmp_path / "mask.tif", label)) as file:
        from remote_sensing.maps.sheets.georeference import place

        grid = place(file, tmp_path / "mask.tif").grid
    assert read_label(tmp_path / "mask.tif", 1, grid).sum() == 960
    for name, values, crs, transform in (
        ("far", label, LV95, HERE * Affine.translation(5000, 5000)),
        ("near", label, LV95, HERE * Affine.translation(0.5, 0)),
        ("finer", label, LV95, HERE * Affine.scale(1.01)),
        ("system", label, CRS.from_epsg(21781), HERE),
        ("size", label[:50], LV95, HERE),
    ):
        write_raster(tmp_path / f"{name}.tif", values, crs=crs, transform=transform)
        with pytest.raises(UserError, match=name):
            read_label(tmp_path / f"{name}.tif", 1, grid)
    Image.fromarray(label).save(tmp_path / "plain.png")
    assert read_label(tmp_path / "plain.png", 1, grid).sum() == 960, (
        "a picture without coordinates is taken pixel by pixel"
    )


def test_evaluate_refuses_a_truth_elsewhere(cli, tmp_path):
    label = np.zeros((96, 96), np.uint8)
    label[10:20] = 1
    mask = write_raster(tmp_path / "mask.tif", label)
    truth = write_raster(tmp_path / "truth.tif", label, transform=HERE * Affine.translation(5000, 5000))
    code, _, error = cli("maps", "evaluate", mask, "--truth", truth, "--out", tmp_path / "e")
    assert code == 2
    assert "pixels away" in error
    code, out, error = cli("maps", "evaluate", mask, "--truth", mask, "--out", tmp_path / "e", "--json")
    assert code == 0, error
    assert json.loads(out)["classes"]["feature"]["iou"] == 1


DEGREES = CRS.from_epsg(4326)


@pytest.mark.reliability("coordinates and pixels that are hardly ever meant", "said, with what to do")
@pytest.mark.parametrize(
    ("transform", "crs", "said"),
    [
        (Affine(1.25, 0, 2_600_000, 0, -12.5, 1_200_000), LV95, "its pixels are not square (1.25 × 12.5 map units)"),
        (Affine(1.25, 0, 2_600_000, 0, 1.25, 1_200_000), LV95, "its transform mirrors it"),
        (Affine(1e-5, 0, 7.44, 0, -1e-5, 46.95), LV95, "look like degrees and EPSG:2056 has none"),
    ],
)
def test_places_that_are_hardly_meant_are_said(paper, tmp_path, transform, crs, said):
    with Sheet(write_raster(tmp_path / "good.tif", paper)) as sheet:
        assert not sheet.warnings
    with Sheet(write_raster(tmp_path / "turned.tif", paper, transform=HERE * Affine.rotation(30))) as sheet:
        assert not sheet.warnings
    with Sheet(write_raster(tmp_path / "a.tif", paper, transform=transform, crs=crs)) as sheet:
        assert any(said in warning for warning in sheet.warnings), sheet.warnings


def test_coordinates_that_are_not_degrees_are_refused_in_a_system_of_degrees(paper, tmp_path):
    path = write_raster(tmp_path / "a.tif", paper, crs=DEGREES)
    with pytest.raises(UserError, match=r"\(2.6e\+06, 1.2e\+06\) are not degrees, as those of EPSG:4326 are"):
        Sheet(path)
    with Sheet(path, SheetOptions(crs="EPSG:2056")) as sheet:
        assert sheet.grid.crs == LV95


def test_files_beside_a_sheet_that_say_something_else(paper, tmp_path):
    path = write_raster(tmp_path / "a.tif", paper)
    world = tmp_path / "a.tfw"
    world.write_text("1.25\n0\n0\n-1.25\n2600000.625\n1199999.375\n")
    with Sheet(path) as sheet:
        assert not sheet.warnings, "the same place"
    world.write_text("1.25\n0\n0\n-1.25\n2700000.625\n1199999.375\n")
    with Sheet(path) as sheet:
        assert sheet.warnings == ["a.tfw beside it says another place: the file's own is used"]
        assert sheet.grid.transform == HERE
    plain = write_raster(tmp_path / "b.tif", paper, crs=None)
    (tmp_path / "b.prj").write_text(LV95.to_wkt())
    with Sheet(plain) as sheet:
        assert any("b.prj beside it says EPSG:2056, which is not used: --crs" in warning for warning in sheet.warnings)
