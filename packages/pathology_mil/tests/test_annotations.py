import gzip
import json
import zipfile

import numpy as np
import pytest
import shapely

from core_runtime.errors import UserError
from pathology_mil.slides.annotations import (
    Region,
    find_annotation,
    overlap,
    read_annotations,
    tile_regions,
    tissue_regions,
    write_asap,
    write_geojson,
)
from pathology_mil.slides.regions import outside, says_tumour, tissue_area, truth_area
from pathology_mil.slides.tissue import Tissue


def tumour(regions, **options):
    return truth_area(regions, where="x", **options).shape


RING = shapely.Polygon([(0, 0), (100, 0), (100, 100), (0, 100)], [[(20, 20), (40, 20), (40, 40), (20, 40)]])


def asap(path, annotations):
    def one(group, kind, points):
        rows = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in points)
        return f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>{rows}</Coordinates></Annotation>'

    body = "".join(one(*a) for a in annotations)
    path.write_text(f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>')
    return path


def numbered(points):
    return list(enumerate(points))


SQUARE = [(0, 0), (100, 0), (100, 100), (0, 100)]
INNER = [(20, 20), (40, 20), (40, 40), (20, 40)]


@pytest.mark.parametrize(("inside", "outside"), [("_0", "_2"), ("Tumor", "Exclusion"), ("metastases", "normal")])
def test_camelyon_holes_are_subtracted(tmp_path, inside, outside):
    file = asap(tmp_path / "a.xml", [(inside, "Polygon", numbered(SQUARE)), (outside, "Spline", numbered(INNER))])
    assert tumour(read_annotations(file)).area == 100 * 100 - 20 * 20


def test_asap_order_and_locale_commas(tmp_path):
    shuffled = [(2, ("100,0", "100,0")), (0, ("0,0", "0,0")), (3, ("0,0", "100,0")), (1, ("100,0", "0,0"))]
    file = asap(tmp_path / "a.xml", [("_1", "Polygon", shuffled), ("_0", "Dot", numbered([(5, 5)]))])
    regions = read_annotations(file)
    assert [r.is_area for r in regions] == [True, False]
    assert tumour(regions).area == 1e4


def test_imagescope(tmp_path):
    def region(points, negative):
        rows = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
        return f'<Region NegativeROA="{negative}"><Vertices>{rows}</Vertices></Region>'

    path = tmp_path / "a.xml"
    path.write_text(
        f'<Annotations MicronsPerPixel="0.5"><Annotation Name=""><Regions>{region(SQUARE, 0)}{region(INNER, 1)}</Regions></Annotation></Annotations>'
    )
    regions = read_annotations(path)
    with pytest.raises(UserError, match=r"none of its classes is named as tumour: \(no class\)"):
        tumour(regions)
    assert tumour(regions, truth_class=["(no class)"]).area == 100 * 100 - 20 * 20


def test_imagescope_ellipses_and_rulers(tmp_path):
    def region(kind, points):
        rows = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
        return f'<Region Type="{kind}"><Vertices>{rows}</Vertices></Region>'

    path = tmp_path / "a.xml"
    drawn = region(2, [(0, 0), (200, 100)]) + region(1, SQUARE) + region(4, [(0, 0), (9, 9)]) + region(3, SQUARE)
    path.write_text(f'<Annotations><Annotation Name="Tumor"><Regions>{drawn}</Regions></Annotation></Annotations>')
    ellipse, rectangle, *lines = read_annotations(path)
    assert ellipse.shape.area == pytest.approx(np.pi * 100 * 50, rel=0.01)
    assert rectangle.shape.area == 1e4
    assert not any(line.is_area for line in lines)


@pytest.mark.parametrize(
    ("name", "is_tumour"),
    [
        ("Tumor", True), ("tumour_1", True), ("Tumor: invasive", True), ("invasive carcinoma", True), ("metastases", True),
        ("Non-tumor", False), ("non tumour", False), ("Tumor-free", False), ("tumour associated stroma", False), ("Stroma", False),
        ("Normal", False), ("benign tumor", False), ("", False), ("Other", False), ("_2", False),
    ],
)  # fmt: skip
def test_what_a_class_says(name, is_tumour):
    assert says_tumour(name) == is_tumour


def test_numbered_tumours_both_count_and_camelyons_group_only_in_its_files(tmp_path):
    other = shapely.transform(RING, lambda points: points + 500)
    regions = [Region(RING, "Tumor_1"), Region(other, "Tumor_2")]
    area = truth_area(regions, where="x")
    assert area.counted == {"Tumor_1": RING.area, "Tumor_2": RING.area}
    assert area.cut_out == {}
    drawn = [Region(RING, "Tumor"), Region(RING, "_2")]
    assert truth_area(drawn, where="x").other == {"_2": RING.area}


def test_classes_that_say_nothing_are_asked_for():
    regions = [Region(RING, "A"), Region(RING, "Normal")]
    with pytest.raises(UserError, match="none of its classes is named as tumour: A") as error:
        tumour(regions)
    assert "--truth-class" in error.value.hint
    assert tumour([Region(RING, "Normal")]).is_empty, "no tumour was drawn, and that is known"
    assert tumour(regions, truth_class=["a"]).area == RING.area
    with pytest.raises(UserError, match="there is no class 'B'"):
        tumour(regions, truth_class=["B"])
    hole = shapely.box(50, 50, 60, 60)
    cut = truth_area([Region(RING, "Tumor"), Region(hole, "fold")], exclude_class=["fold"], where="x")
    assert cut.shape.area == RING.area - 100
    assert cut.words("truth", 0.5).startswith("truth: Tumor 0.0024 mm²; cut out: fold 2.5e-05 mm²")


def test_ignored_regions_are_cut_out_of_tissue_too():
    area = tissue_area([Region(shapely.box(0, 0, 100, 100), "Tissue"), Region(RING, "Ignore*")], where="x")
    assert area.shape.area == 1e4 - RING.area


def test_collections_are_read_and_other_slides_regions_are_refused(tmp_path):
    path = tmp_path / "a.geojson"
    point = {"type": "Point", "coordinates": [0, 0]}
    ring = json.loads(shapely.to_geojson(RING))
    geometry = {"type": "GeometryCollection", "geometries": [point, ring]}
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    (region,) = read_annotations(path)
    assert region.shape.area == RING.area
    assert outside([region], (2000, 1000), "a") == ""
    assert "50% of the regions in a are outside the slide" in outside(
        [Region(shapely.box(-10, 0, 10, 5), "x")], (2000, 1000), "a"
    )
    with pytest.raises(UserError, match=r"regions are outside the slide \(50 × 50\)"):
        outside([Region(shapely.box(60, 60, 90, 90), "x")], (50, 50), "a")


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": json.loads(shapely.to_geojson(geometry)), "properties": properties}


@pytest.mark.parametrize("wrap", ["collection", "array", "single", "gz", "zip"])
def test_qupath_exports(tmp_path, wrap):
    one = feature(RING, objectType="annotation", classification={"name": "Tumor", "color": [200, 0, 0]}, isLocked=False)
    content = {"array": [one], "single": one}.get(wrap, {"type": "FeatureCollection", "features": [one]})
    text = json.dumps(content)
    path = tmp_path / {"gz": "a.geojson.gz", "zip": "a.zip"}.get(wrap, "a.geojson")
    if wrap == "gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif wrap == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.geojson", text)
    else:
        path.write_text(text, encoding="utf-8-sig")
    (region,) = read_annotations(path)
    assert (region.name, region.kind, region.shape.area) == ("Tumor", "annotation", RING.area)
    assert read_annotations(path, offset=(10, 20))[0].shape.bounds == (10, 20, 110, 120)


def test_old_and_odd_qupath_fields(tmp_path):
    path = tmp_path / "a.json"
    old = feature(
        RING, classification={"name": "Tumor: invasive", "colorRGB": -3670016}, measurements=[{"name": "a", "value": 2}]
    )
    nested = feature(RING, classification={"names": ["Tumor", "in situ"]})
    tissue = feature(RING, tissue_id=3)
    path.write_text(json.dumps([old, nested, tissue, {"type": "Feature", "geometry": None, "properties": {}}]))
    regions = read_annotations(path)
    assert [r.name for r in regions] == ["Tumor: invasive", "Tumor: in situ", "tissue", ""]
    assert not regions[-1].is_area
    assert regions[0].measurements == {"a": 2}


def test_round_trip_for_qupath(tmp_path):
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])  # crosses itself: QuPath would refuse it
    path = tmp_path / "ü.geojson"
    write_geojson(path, [Region(RING, "Tumor", measurements={"attention": 0.25}), Region(bow, "x")])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    first = content["features"][0]
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {"attention": 0.25},
    }
    ids = [f["id"] for f in content["features"]]
    assert len(set(ids)) == len(ids)
    for f in content["features"]:
        shape = shapely.from_geojson(json.dumps(f["geometry"]))
        assert shape.is_valid
        assert all(ring.is_closed for p in getattr(shape, "geoms", [shape]) for ring in (p.exterior, *p.interiors))
    again = read_annotations(path)
    assert again[0].shape.equals(RING)
    write_geojson(path, [])
    assert read_annotations(path) == []


def test_asap_round_trip_and_lookup(tmp_path):
    write_asap(tmp_path / "slide.xml", shapely.MultiPolygon([RING]))
    assert tumour(read_annotations(tmp_path / "slide.xml")).equals(shapely.MultiPolygon([RING]))
    assert find_annotation(tmp_path, "slide") == tmp_path / "slide.xml"
    assert find_annotation(tmp_path, "other") is None


def test_share_of_tiles_and_export():
    coords = np.array([[0, 0], [50, 0], [200, 200]])
    share = overlap(shapely.MultiPolygon([RING]), coords, 50)
    assert share.tolist() == [(2500 - 400) / 2500, 1.0, 0.0]
    tiles = list(tile_regions(coords, 50, {"attention": share}))
    assert (tiles[0].kind, tiles[0].measurements["attention"]) == ("tile", share[0])
    outline = np.array(RING.exterior.coords, np.int32)[:-1]
    tissue = Tissue([outline], [[np.array(RING.interiors[0].coords, np.int32)[:-1]]], [1.0], (1, 1))
    assert tissue_regions(tissue)[0].shape.area == RING.area


def test_what_is_no_annotation_is_said_plainly(tmp_path):
    contents = {
        "a.xml": "<x/>",
        "b.xml": "<ASAP_Annotations>",
        "c.geojson": "{",
        "d.geojson": '{"type": "Feature", "geometry": {"type": "Cube"}}',
        "e.geojson": '[{"type": "Thing"}]',
        "f.xml": '<!DOCTYPE x [<!ENTITY a "b">]><ASAP_Annotations/>',
        "g.zip": "PK",
        "h.geojson": "[1]",
        "i.geojson": "",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError) as error:
            read_annotations(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match="no such file"):
        read_annotations(tmp_path / "absent.xml")


def features(*parts):
    return json.dumps({"type": "FeatureCollection", "features": list(parts)})


def classified(name, shape, kind="annotation"):
    geometry = None if shape is None else shapely.geometry.mapping(shape)
    properties = {"objectType": kind, "classification": {"name": name}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


BOX = shapely.box(0, 0, 100, 100)
OTHER_BOX = shapely.box(200, 0, 300, 100)
LINE = shapely.LineString(SQUARE)


@pytest.mark.reliability("tumour that is drawn as points or lines, or has no shape", "said, or refused", cases=4)
def test_what_has_no_area_is_said(tmp_path):
    file = tmp_path / "a.geojson"
    for shape in (LINE, shapely.Point(5, 5), None):
        file.write_text(features(classified("Tumor", shape)))
        with pytest.raises(UserError, match=r"names as tumour has no area: .* Tumor \(1\)"):
            truth_area(read_annotations(file), where="x")
    file.write_text(features(classified("Tumor", LINE), classified("Tumor", BOX), classified("Stroma", None)))
    area = truth_area(read_annotations(file), where="x")
    assert area.shape.area == 1e4
    assert area.without_area == {"Tumor": 1, "Stroma": 1}
    assert "points and lines, which have no area: Tumor (1), Stroma (1)" in area.words("truth", None)
    assert "which have no area" in tissue_area(read_annotations(file), where="x").words("tissue", None)


@pytest.mark.reliability("computed objects of QuPath beside annotations", "not counted, said", cases=3)
def test_computed_objects_count_only_where_nothing_is_annotated(tmp_path):
    file = tmp_path / "a.geojson"
    for kind in ("cell", "tile", "detection"):
        computed = classified("Tumor", OTHER_BOX, kind)
        file.write_text(features(computed, classified("Tumor", BOX)))
        area = truth_area(read_annotations(file), where="x")
        assert area.shape.equals(BOX)
        assert f"computed objects, not counted: {kind} (1)" in area.words("truth", None)
        assert tissue_area(read_annotations(file), where="x").shape.equals(BOX)
        file.write_text(features(computed))
        assert tumour(read_annotations(file)).equals(OTHER_BOX)


@pytest.mark.parametrize("name", ["Tumor?", "suspected tumor", "outside tumor", "rest (no tumour)", "near_tumor"])
def test_a_class_that_is_not_surely_tumour_does_not_count(name):
    assert not says_tumour(name)
    area = truth_area([Region(BOX, "Tumor"), Region(OTHER_BOX, name)], where="x")
    assert area.other == {name: 1e4}


@pytest.mark.reliability("coordinates that are not pixels of the slide", "refused", cases=2)
def test_coordinates_that_are_not_pixels_are_refused(tmp_path):
    with pytest.raises(UserError, match="within 1 pixels") as refused:
        outside([Region(shapely.box(0, 0, 0.5, 1), "Tumor")], (2000, 2000), "x")
    assert "shares of the slide or millimetres" in refused.value.hint
    file = tmp_path / "map.geojson"
    content = json.loads(features(classified("Tumor", BOX)))
    file.write_text(json.dumps(content | {"crs": {"type": "name", "properties": {"name": "EPSG:4326"}}}))
    with pytest.raises(UserError, match="those of a map"):
        read_annotations(file)


@pytest.mark.reliability("archives with several annotation files", "refused", cases=2)
def test_archives_hold_one_annotation_file(tmp_path):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("__MACOSX/._a.geojson", b"\0\5")
        archive.writestr("a.geojson", features(classified("Tumor", BOX)))
    assert len(read_annotations(file)) == 1
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("b.geojson", features(classified("Tumor", OTHER_BOX)))
    with pytest.raises(UserError, match="holds 2 annotation files"):
        read_annotations(file)


def test_bare_geometries_have_no_class(tmp_path):
    file = tmp_path / "a.geojson"
    file.write_text(json.dumps(shapely.geometry.mapping(shapely.MultiPolygon([BOX, OTHER_BOX]))))
    (region,) = read_annotations(file)
    assert (region.name, region.shape.area) == ("", 2e4)


def imagescope(points, *, layer="", text="", attributes=""):
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
    return (
        f'<?xml version="1.0" encoding="ISO-8859-1"?><Annotations><Annotation Name="{layer}">{attributes}<Regions>'
        f'<Region Type="0" Text="{text}"><Vertices>{vertices}</Vertices></Region></Regions></Annotation></Annotations>'
    )


ATTRIBUTE = '<Attributes><Attribute Name="Description" Value="Tümor"/></Attributes>'


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"layer": "Tümor", "text": "a note"}, "Tümor"),
        ({"text": "Tümor"}, "Tümor"),
        ({"attributes": ATTRIBUTE, "text": "a note"}, "Tümor"),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_imagescope_keeps_classes_in_three_places(tmp_path, options, name, encoding):
    file = tmp_path / "a.xml"
    file.write_bytes(imagescope([("0,5", "0"), ("100,5", "0"), ("100,5", "100")], **options).encode(encoding))
    (region,) = read_annotations(file)
    assert (region.name, region.shape.area) == (name, 5000)
