"""Polygons over strips, centre-lines, vector files, labels from vectors, measures."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes
from shapely.geometry import LineString, Polygon, box, shape
from written import write_raster

from core_runtime.errors import UserError
from remote_sensing.maps.metrics import line_measures, panoptic_quality
from remote_sensing.maps.sheets.grid import Grid, to_map
from remote_sensing.maps.sheets.labels import class_numbers, rasterised
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.vector_files import NewLayer, read_layer, write_layer
from remote_sensing.maps.sheets.windows import _choose_windows, windows
from remote_sensing.maps.training.augment import augment
from remote_sensing.maps.vectors.centrelines import bridged, centre_lines, pruned
from remote_sensing.maps.vectors.options import VectorOptions
from remote_sensing.maps.vectors.polygons import polygonise
from remote_sensing.maps.vectors.vectorise import vectorise
from remote_sensing.rasters import open_raster

GRID = Grid(300, 400, Affine(2, 0, 2_600_000, 0, -2, 1_200_000), CRS.from_epsg(2056))


def blobs(seed=0, shape=(300, 400)):
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 6)
    return (field > 0.02).astype(np.uint8) + (field > 0.09).astype(np.uint8)


@pytest.mark.parametrize("rows", [16, 64, 1000])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_polygons_over_strips_are_those_of_the_whole(rows, connectivity):
    mask = blobs()
    found = polygonise(lambda r, c: mask[r, c], GRID, rows=rows, connectivity=connectivity)
    for number in (1, 2):
        whole = [shape(g) for g, v in shapes(mask, mask == number, connectivity) if v == number]
        ours = [f.geometry for f in found if f.number == number]
        assert len(ours) == len(whole)
        assert sum(g.area for g in ours) == pytest.approx(sum(g.area for g in whole))
        assert sorted(g.area for g in ours) == pytest.approx(sorted(g.area for g in whole))
        assert sum(len(p.interiors) for g in ours for p in shapely.get_parts(g)) == sum(len(p.interiors) for p in whole)


def test_diagonal_neighbours_over_a_strip():
    mask = np.zeros((8, 8), np.uint8)
    mask[3, 3] = mask[4, 4] = 1
    grid = Grid(8, 8, Affine.identity(), None)
    assert len(polygonise(lambda r, c: mask[r, c], grid, rows=4, connectivity=8)) == 1
    assert len(polygonise(lambda r, c: mask[r, c], grid, rows=4, connectivity=4)) == 2


def cross():
    mask = np.zeros((120, 160), bool)
    mask[58:63, 5:155] = True
    mask[10:110, 78:83] = True
    mask[61:70, 30:33] = True  # a spur
    mask[58:63, 110:118] = False  # a gap
    return mask


def test_centre_lines_without_spurs_and_with_bridges():
    loose = centre_lines(cross(), spur=0, gap=0)
    lines = centre_lines(cross(), spur=14, gap=16)
    assert len(lines) < len(loose)
    assert len(lines) == 4, "a cross of four arms"
    middle = [LineString([(5, 60.5), (155, 60.5)]), LineString([(80.5, 10), (80.5, 110)])]
    agreement = line_measures(lines, middle, 2.0)
    assert agreement["completeness"] > 0.95
    assert agreement["correctness"] > 0.97
    assert centre_lines(np.zeros((5, 5), bool)) == []
    ring = np.zeros((60, 60), bool)
    y, x = np.mgrid[:60, :60]
    ring[abs(np.hypot(y - 30, x - 30) - 20) < 2.5] = True
    (loop,) = centre_lines(ring)
    assert loop.is_ring
    assert loop.length == pytest.approx(2 * np.pi * 20, rel=0.1)


def test_a_centre_line_lies_in_the_middle_of_its_pixels():
    mask = np.zeros((20, 40), bool)
    mask[9, 5:35] = True
    (line,) = centre_lines(mask)
    assert line.bounds == (5.5, 9.5, 34.5, 9.5), "through the centres of its pixels"


def test_a_spur_of_exactly_the_least_length_is_kept():
    lines = [LineString([(0, 0), (20, 0)]), LineString([(20, 0), (40, 0)]), LineString([(20, 0), (20, 10)])]
    assert len(pruned(lines, 10.0)) == 3
    (road,) = pruned(lines, 10.01)
    assert road.length == 40


def test_a_gap_is_bridged_up_to_its_width():
    lines = [LineString([(0, 0), (20, 0)]), LineString([(32, 0), (52, 0)])]
    assert len(bridged(lines, 11.9, 40.0)) == 2
    (road,) = bridged(lines, 12.0, 40.0)
    assert road.length == 52


def test_objects_of_exactly_the_least_area_are_kept_and_pieces_of_strips_count_together():
    mask = np.zeros((32, 32), np.uint8)
    mask[2:4, 2:5] = 1
    mask[14:18, 20:23] = 1  # half of it in either strip

    def areas(least):
        grid = Grid(32, 32, Affine.identity(), None)
        return [f.geometry.area for f in polygonise(lambda r, c: mask[r, c], grid, rows=16, min_area=least)]

    assert areas(0) == [6, 12]
    assert areas(6) == [6, 12]
    assert areas(12) == [12], "across a strip's border"
    assert areas(12.5) == []


def test_a_turned_sheet_gives_turned_vectors():
    turned = Affine.translation(500, 900) * Affine.rotation(30) * Affine.scale(2, -2)
    corners = [(0, 0), (10, 0), (10, 4), (0, 4)]
    moved = to_map(Polygon(corners), turned)
    assert np.allclose(moved.exterior.coords[:-1], [turned * corner for corner in corners])


def write_mask(path, mask, *, crs=GRID.crs, transform=GRID.transform):
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "dtype": "uint8",
        "nodata": 255,
    }
    with open_raster(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(mask, 1)
        file.update_tags(CLASS_1="railway", CLASS_2="vineyard")
    return path


def test_a_geopackage_of_polygons_and_lines(tmp_path):
    mask = write_mask(tmp_path / "m.tif", cross().astype(np.uint8))
    prob = write_mask(tmp_path / "p.tif", np.where(cross(), 200, 20).astype(np.uint8))
    facts = vectorise(
        mask,
        tmp_path / "f.gpkg",
        VectorOptions(centrelines=True, spur="28", gap="16px"),
        probability=prob,
    )
    polygons, lines = (read_layer(f"{tmp_path}/f.gpkg|layername={n}") for n in ("polygons", "centrelines"))
    assert facts.polygons == len(polygons.geometries) == 2
    assert facts.lines == len(lines.geometries) == 4
    assert set(polygons.columns) == {"class", "name", "area", "probability"}
    assert polygons.columns["name"][0] == "railway"
    assert sum(polygons.columns["area"]) == pytest.approx(float(cross().sum()) * 4)
    assert polygons.columns["probability"][0] == pytest.approx(200 / 254, abs=1e-3)
    assert lines.columns["probability"][0] == pytest.approx(200 / 254, abs=0.2)
    assert sum(lines.columns["length"]) == pytest.approx(2 * (150 + 100), rel=0.08)
    assert CRS.from_user_input(polygons.crs) == GRID.crs
    with pytest.raises(UserError, match="already there"):
        vectorise(mask, tmp_path / "f.gpkg", VectorOptions())
    small = vectorise(mask, tmp_path / "g.gpkg", VectorOptions(min_area="3000"))
    assert small.polygons == 1


def test_geojson_is_wgs84_unless_asked_otherwise(tmp_path):
    mask = write_mask(tmp_path / "m.tif", cross().astype(np.uint8))
    vectorise(mask, tmp_path / "f.geojson", VectorOptions())
    told = json.loads((tmp_path / "f.geojson").read_text())
    x, y = np.array(told["features"][0]["geometry"]["coordinates"][0])[0]
    assert "crs" not in told
    assert 7 < x < 8
    assert 46 < y < 47.5
    vectorise(mask, tmp_path / "g.geojson", VectorOptions(wgs84=False))
    assert json.loads((tmp_path / "g.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0][0] > 2e6


def test_masks_without_coordinates_or_with_an_own_system(tmp_path):
    local = CRS.from_proj4("+proj=tmerc +lat_0=47 +lon_0=7.4 +k=1 +x_0=0 +y_0=0 +ellps=bessel +units=m")
    write_mask(tmp_path / "n.tif", cross().astype(np.uint8), crs=None, transform=Affine.identity())
    write_mask(tmp_path / "l.tif", cross().astype(np.uint8), crs=local)
    for name in ("n", "l"):
        for ending in ("gpkg", "geojson"):
            facts = vectorise(tmp_path / f"{name}.tif", tmp_path / f"{name}.{ending}", VectorOptions(centrelines=True))
            assert facts.polygons == 2
    assert read_layer(f"{tmp_path}/n.gpkg|layername=polygons").geometries[0].bounds[2] <= 160
    write_mask(
        tmp_path / "d.tif",
        cross().astype(np.uint8),
        crs=CRS.from_epsg(4326),
        transform=Affine(1e-4, 0, 7, 0, -1e-4, 47),
    )
    with pytest.raises(UserError, match="degrees"):
        vectorise(tmp_path / "d.tif", tmp_path / "d.gpkg", VectorOptions(min_area="20"))
    assert vectorise(tmp_path / "d.tif", tmp_path / "d.gpkg", VectorOptions(min_area="20px")).polygons == 2


def test_empty_masks_give_empty_layers(tmp_path):
    write_mask(tmp_path / "e.tif", np.full((20, 20), 255, np.uint8))
    facts = vectorise(tmp_path / "e.tif", tmp_path / "e.gpkg", VectorOptions(centrelines=True))
    assert facts.polygons == facts.lines == 0


def test_labels_are_drawn_from_vectors_of_any_system(tmp_path):
    line = to_map(LineString([(20, 150), (380, 150)]), GRID.transform)
    area = to_map(Polygon([(10, 10), (60, 10), (60, 60), (10, 60)]), GRID.transform)
    columns = {"kind": ["rail", "vine"]}
    write_layer(tmp_path / "l.geojson", NewLayer("x", "Polygon", [line.buffer(4), area], columns), crs=GRID.crs)
    label = rasterised(tmp_path / "l.geojson", GRID, LabelOptions(classes=("rail", "vine"), class_column="kind"))
    assert (label == 2).sum() == pytest.approx(2500, rel=0.03)
    assert label[150, 200] == 1
    write_layer(tmp_path / "w.gpkg", NewLayer("x", "LineString", [line], {"kind": ["rail"]}), crs=GRID.crs)
    label = rasterised(tmp_path / "w.gpkg", GRID, LabelOptions(classes=("rail",), line_width="12"))
    assert label[:, 200].sum() == 6
    for options, words in ((("rail", "x"), "no column"), (("road", "kind"), "none of its geometries")):
        with pytest.raises(UserError, match=words):
            rasterised(tmp_path / "w.gpkg", GRID, LabelOptions(classes=(options[0],), class_column=options[1]))
    write_layer(tmp_path / "far.gpkg", NewLayer("x", "Polygon", [box(0, 0, 1, 1)], {"kind": ["rail"]}), crs=GRID.crs)
    with pytest.raises(UserError, match="is on the sheet"):
        rasterised(tmp_path / "far.gpkg", GRID, LabelOptions(classes=("rail",)))


@pytest.mark.parametrize(
    ("values", "classes", "right"),
    [
        ([0, 1], 1, True),
        ([0, 255], 1, True),
        ([0, 1, 2], 2, True),
        ([0, 1, 255], 1, False),
        ([0, 3], 2, False),
        ([255], 1, True),
        ([0], 1, True),
    ],
)
def test_values_of_label_rasters(tmp_path, values, classes, right):
    raw = np.resize(np.array(values, np.uint8), (4, 4))
    if right:
        assert class_numbers(raw, tmp_path / "x.png", classes).max() == (1 if max(values) == 255 else max(values))
    else:
        with pytest.raises(UserError, match="holds the values"):
            class_numbers(raw, tmp_path / "x.png", classes)


def test_windows_of_an_own_sheet(tmp_path):
    from remote_sensing.maps.samples.samples import MapSampleParams, make_samples

    make_samples(tmp_path, MapSampleParams(sheets=1, size=600, tiles=4, tile=64))
    train, val = windows(
        tmp_path / "sheets/sheet_1.tif",
        Path(f"{tmp_path}/truth/sheet_1.gpkg|layername=railways"),
        side=100,
        options=LabelOptions(classes=("railway",), line_width="7px"),
    )
    assert not set(train.names) & set(val.names)
    pixels, label = train.read(train.names[0])
    assert pixels.shape == (3, 100, 100)
    assert label.shape == (100, 100)
    with pytest.raises(UserError, match="railways, vineyards"):
        windows(tmp_path / "sheets/sheet_1.tif", tmp_path / "truth/sheet_1.gpkg", side=100)
    write_mask(tmp_path / "other.tif", np.ones((10, 10), np.uint8))
    with pytest.raises(UserError, match="10 × 10"):
        windows(tmp_path / "sheets/sheet_1.tif", tmp_path / "other.tif", side=100)


def test_every_window_that_holds_a_feature_is_chosen():
    truth = np.zeros((400, 400), np.uint8)
    truth[290, 190] = 1  # in four windows of 100 pixels, half a side apart: at another place in each
    chosen, filled = _choose_windows(truth, 100)
    assert filled == {(200, 100), (200, 150), (250, 100), (250, 150)}
    assert filled < set(chosen)


def test_augmentation_keeps_image_and_label_together():
    rng = np.random.default_rng(0)
    label = (rng.random((32, 32)) > 0.5).astype(np.uint8)
    image = np.repeat(255 * label[None], 3, 0)
    moved = apart = 0
    for _ in range(60):
        a, b = augment(image, label, rng)
        assert a.shape == image.shape
        agreement = ((a.mean(0) > 127) == (b > 0)).mean()
        assert agreement > 0.85, "bilinear image, nearest label"
        moved += not np.array_equal(b, label)
        x, y = augment(image, label, rng, legacy=True)
        apart += ((x.mean(0) > 127) == (y > 0)).mean() < 0.8
    assert moved > 30
    assert apart > 10, "the published mistakes are there to compare with"


def test_line_and_area_measures_by_hand():
    truth, found = [LineString([(0, 0), (100, 0)])], [LineString([(0, 1), (60, 1)]), LineString([(0, 50), (20, 50)])]
    m = line_measures(found, truth, 2)
    assert m["completeness"] == pytest.approx(0.6, abs=0.03)
    assert m["correctness"] == pytest.approx(0.75, abs=0.01)
    assert m["quality"] == pytest.approx(60 / (80 + 40), abs=0.02)
    a, b = [box(0, 0, 10, 10), box(20, 0, 30, 10)], [box(0, 0, 10, 8), box(50, 0, 60, 10)]
    assert panoptic_quality(a, b)["pq"] == pytest.approx(0.8 / 2)
    assert panoptic_quality([], b) == {"pq": 0.0, "sq": 0.0, "rq": 0.0}
    # an IoU of 0.4 is no match, one of 0.6 is
    assert panoptic_quality([box(0, 0, 10, 10)], [box(0, 0, 10, 4)])["rq"] == 0
    assert panoptic_quality([box(0, 0, 10, 10)], [box(0, 0, 10, 6)])["rq"] == 1
    assert np.isnan(line_measures([], [], 1)["quality"])


@pytest.mark.reliability("pictures, probabilities and masks of 0 and 255 as masks", "refused")
@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.zeros((3, 40, 40), np.uint8), {"photometric": "RGB"}, "one band of class numbers, this file 3"),
        (np.arange(1600).reshape(40, 40).astype(np.uint8), {}, "holds 256 different values"),
        (255 * np.eye(40, dtype=np.uint8), {}, "255 means no data in a mask"),
        (np.eye(40, dtype=np.uint8), {"photometric": "MINISWHITE"}, "is a negative"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, values, options, words):
    write_raster(tmp_path / "m.tif", values, **options)
    with pytest.raises(UserError, match=words):
        vectorise(tmp_path / "m.tif", tmp_path / "m.gpkg")
    assert not (tmp_path / "m.gpkg").exists()
