"""Vectors in degrees: poles, antimeridian, unknown systems, formats that --help promises."""

import json

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from shapely.geometry import box, shape
from written import HERE, write_raster

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.vector_files import NewLayer, read_layer, write_layer
from remote_sensing.maps.vectors.options import VectorOptions
from remote_sensing.maps.vectors.vectorise import vectorise

WGS84 = CRS.from_epsg(4326)


def shapes_of(path):
    features = json.loads(path.read_text())["features"]
    shapes = [shape(feature["geometry"]) for feature in features]
    for each in shapes:
        left, bottom, right, top = each.bounds
        assert each.is_valid
        assert -180 <= left <= right <= 180
        assert -90 <= bottom <= top <= 90
    return shapes


@pytest.mark.reliability("masks beyond the poles", "cut at 90° with a warning")
def test_a_mask_beyond_the_poles_is_cut(tmp_path):
    mask = np.ones((181, 360), np.uint8)
    mask[60:120, 100:200] = 0
    mask[0, :50] = 0
    path = write_raster(tmp_path / "globe.tif", mask, crs=WGS84, transform=Affine(1, 0, -180.5, 0, -1, 90.5))
    vectors = vectorise(path, tmp_path / "globe.geojson")
    assert any("poles" in warning for warning in vectors.warnings)
    area = sum(each.area for each in shapes_of(tmp_path / "globe.geojson"))
    assert area == pytest.approx(360 * 180 - 60 * 100 - 50 * 0.5, rel=1e-3)


@pytest.mark.reliability("objects and centre-lines over the antimeridian", "cut in two valid parts")
@pytest.mark.parametrize("system", ["EPSG:4326", "EPSG:3832"])
def test_lines_over_the_antimeridian(tmp_path, system):
    mask = np.zeros((60, 200), np.uint8)
    mask[28:33, 10:190] = 1
    mask[5:55, 98:103] = 1
    transform = Affine(0.01, 0, 179, 0, -0.01, 10)
    if system == "EPSG:3832":
        transform = Affine(1000, 0, 3_339_584.7238 - 100_000, 0, -1000, 30_000)
    path = write_raster(tmp_path / "m.tif", mask, crs=CRS.from_user_input(system), transform=transform)
    vectorise(path, tmp_path / "m.geojson", VectorOptions(centrelines=True))
    (outline,) = shapes_of(tmp_path / "m.geojson")
    assert outline.geom_type == "MultiPolygon"
    assert outline.area == pytest.approx(
        mask.sum() * (0.01 if system == "EPSG:4326" else 1000 / 111_319.5) ** 2, rel=0.02
    )
    lines = shapes_of(tmp_path / "m_centrelines.geojson")
    assert any(line.bounds[0] < -179 for line in lines)
    assert any(line.bounds[2] > 179 for line in lines)


def test_degrees_without_a_known_system_are_said(tmp_path):
    path = write_raster(tmp_path / "m.tif", np.ones((8, 8), np.uint8), crs=None, transform=HERE)
    vectors = vectorise(path, tmp_path / "m.geojson")
    assert any("no coordinate system is known" in warning for warning in vectors.warnings)


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp", "fgb"])
def test_every_format_that_help_names_is_written(tmp_path, ending):
    path = write_raster(tmp_path / "m.tif", np.pad(np.ones((20, 4), np.uint8), 9))
    vectors = vectorise(path, tmp_path / f"m.{ending}", VectorOptions(centrelines=True))
    for layer, file in vectors.files.items():
        name = f"{file}|layername={layer}" if ending == "gpkg" else file
        read = read_layer(name)
        assert len(read.geometries) == 1
        assert read.columns["class"] == [1]
    assert not [p for p in tmp_path.iterdir() if ".part" in p.name]
    with pytest.raises(UserError, match="unknown vector format"):
        vectorise(path, tmp_path / "m.kml")


def test_an_output_never_replaces_the_mask(tmp_path):
    layer = NewLayer("x", "Polygon", [box(0, 0, 1, 1)], {"n": [1]})
    write_layer(tmp_path / "x.gpkg", layer, crs=WGS84)
    with pytest.raises(UserError, match="no such file"):
        read_layer(tmp_path / "absent.gpkg")
    path = write_raster(tmp_path / "m.tif", np.ones((8, 8), np.uint8))
    path.rename(tmp_path / "m.gpkg")
    with pytest.raises(UserError, match="replace an input"):
        vectorise(tmp_path / "m.gpkg", tmp_path / "m.gpkg", overwrite=True)


def test_the_quality_of_lines_counts_what_is_found_and_what_is_missed():
    """Of 220 found 200 lie near the truth, of 150 true 50 are missed: 200 / (220 + 50)."""
    from shapely.geometry import LineString

    from remote_sensing.maps.metrics import line_measures

    truth = [LineString([(0, 0), (100, 0)]), LineString([(0, 500), (50, 500)])]
    predicted = [LineString([(0, y), (100, y)]) for y in (-1, 1)] + [LineString([(0, 900), (20, 900)])]
    measures = line_measures(predicted, truth, 2)
    assert measures["quality"] == pytest.approx(200 / 270, abs=0.01)
    assert measures["completeness"] == pytest.approx(100 / 150, abs=0.01)
    assert measures["correctness"] == pytest.approx(200 / 220, abs=0.01)
