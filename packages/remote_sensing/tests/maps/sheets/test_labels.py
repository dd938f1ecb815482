"""Labels as users write them: spelling, missing classes, unknown systems; windows of training and validation."""

import json

import numpy as np
import pytest
from shapely.geometry import Polygon, box, mapping
from written import HERE, LV95, write_raster

from core_runtime.errors import UserError
from remote_sensing.maps.sheets.grid import Grid, to_map
from remote_sensing.maps.sheets.labels import rasterised, read_label, read_shapes
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.windows import split_windows

GRID = Grid(96, 96, HERE, LV95)


def write_geojson(path, shapes, classes=None, crs="urn:ogc:def:crs:EPSG::2056"):
    features = []
    for i, shape in enumerate(shapes):
        properties = {"class": classes[i]} if classes else {}
        geometry = mapping(to_map(shape, HERE))
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    collection = {"type": "FeatureCollection", "features": features}
    if crs:
        collection["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(collection))
    return path


SQUARES = [box(10 * i, 10, 10 * i + 5, 15) for i in range(4)]


@pytest.mark.reliability(
    "classes spelled otherwise, or missing", "matched but for case and blanks; the rest is named with counts"
)
def test_classes_are_matched_or_named(tmp_path, capsys):
    classes = ["railway", "Railway", "railway ", None]
    path = write_geojson(tmp_path / "l.geojson", SQUARES, classes)
    options = LabelOptions(classes=("railway", "vineyard"), class_column="class")
    assert rasterised(path, GRID, options).sum() == 75
    said = capsys.readouterr().err
    assert "1 of 4 geometries" in said
    assert "1 × without a class" in said
    path = write_geojson(tmp_path / "o.geojson", SQUARES, ["road", "railway", "road", "path"])
    assert rasterised(path, GRID, options).sum() == 25
    assert "2 × 'road', 1 × 'path'" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of its geometries is of the classes house"):
        rasterised(path, GRID, LabelOptions(classes=("house",), class_column="class"))
    with pytest.raises(UserError, match="not known which of its geometries"):
        rasterised(path, GRID, LabelOptions(classes=("railway", "vineyard")))


@pytest.mark.reliability("GeoJSON whose coordinates are not degrees", "refused; --labels-crs says what they are")
def test_coordinates_that_are_not_degrees(tmp_path):
    path = write_geojson(tmp_path / "l.geojson", SQUARES, crs=None)
    with pytest.raises(UserError, match="not degrees") as refused:
        rasterised(path, GRID, LabelOptions())
    assert "--labels-crs" in refused.value.hint
    assert rasterised(path, GRID, LabelOptions(labels_crs="EPSG:2056")).sum() == 100


@pytest.mark.reliability("polygons that cross themselves", "mended, with their number", cases=1)
def test_polygons_that_cross_themselves_are_mended(tmp_path, capsys):
    bow = Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    path = write_geojson(tmp_path / "l.geojson", [bow, SQUARES[3]])
    shapes = read_shapes(path, GRID, LabelOptions())
    assert all(geometry.is_valid for geometry in shapes.geometries)
    assert [round(geometry.area) for geometry in shapes.geometries] == [200, 25]
    assert "1 of 2 geometries of l.geojson cross themselves" in capsys.readouterr().err


@pytest.mark.reliability("vector files without a coordinate system", "that of the sheet is assumed, and said", cases=1)
def test_vectors_without_a_system_are_said(tmp_path, capsys):
    from remote_sensing.maps.sheets.vector_files import NewLayer, write_layer

    squares = [to_map(square, HERE) for square in SQUARES]
    write_layer(tmp_path / "l.gpkg", NewLayer("l", "Polygon", squares, {}), crs=None)
    assert rasterised(tmp_path / "l.gpkg", GRID, LabelOptions()).sum() == 100
    assert "does not state its coordinate system: that of the sheet is assumed" in capsys.readouterr().err


def overlap(a, b, side):
    return abs(a[0] - b[0]) < side and abs(a[1] - b[1]) < side


@pytest.mark.parametrize("size", [(2000, 2000), (700, 500), (300, 450), (448, 448)])
def test_validation_windows_never_overlap_training_windows(size):
    side, rng = 100, np.random.default_rng(sum(size))
    corners = [(y, x) for y in range(0, size[0] - 50, 50) for x in range(0, size[1] - 50, 50)]
    filled = {corner for corner in corners if rng.random() < 0.6}
    train, val = split_windows(corners, filled, side)
    assert set(train) & filled
    assert set(val) & filled
    assert not any(overlap(a, b, side) for a in train for b in val)
    assert len(train) > len(val)
    assert split_windows([(0, 0), (0, 50)], {(0, 0), (0, 50)}, side) == ([], []), "no two of them are apart"


@pytest.mark.reliability("label rasters that declare a class missing data", "refused, with its pixels")
def test_a_class_that_is_missing_data_is_refused(tmp_path):
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 2:4, :5] = 1
    path = write_raster(tmp_path / "truth.tif", mask, nodata=1)
    with pytest.raises(UserError, match="10 pixels of class 1 are missing data"):
        read_label(path, 1)
    assert read_label(write_raster(tmp_path / "plain.tif", mask, nodata=0), 1).sum() == 10
