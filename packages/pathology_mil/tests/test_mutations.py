"""Seeded mutations of every format that users bring: an answer or one plain line, in bounded time and memory, and nothing half-written.

The quick run takes thirty of each format; ``-m slow`` takes a thousand.
"""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from mutating import changed, mutate_json, mutated, try_changes, try_mutations

from core_runtime.errors import UserError
from pathology_mil.cohort.labels import read_labels
from pathology_mil.cohort.splits import read_splits
from pathology_mil.features.bags import find_bags, open_bag, read_features
from pathology_mil.model.attention_scores import read_scores
from pathology_mil.model.folder import load
from pathology_mil.slides.annotations import read_annotations
from pathology_mil.slides.options import Tiling
from pathology_mil.slides.process_list import read_process_list
from pathology_mil.slides.reading import find_slides
from pathology_mil.slides.regions import tissue_area, truth_area
from pathology_mil.slides.tiles import Tiles, read_tiles, write_tiles

mutations = mutated(
    "mutations of annotations, tables, features and configs", "an answer or one line, bounded time and memory", quick=30
)


ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
<Annotation Name="A" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="10,5" Y="10"/><Coordinate Order="1" X="400" Y="20"/><Coordinate Order="2" X="300" Y="500"/></Coordinates></Annotation>
<Annotation Name="B" Type="Rectangle" PartOfGroup="None"><Coordinates>
<Coordinate Order="0" X="600" Y="10"/><Coordinate Order="1" X="900" Y="200"/></Coordinates></Annotation>
</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups></ASAP_Annotations>
"""
IMAGESCOPE = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.25"><Annotation Id="1" Name="Tumor"><Regions>
<Region Id="1" Type="0" NegativeROA="0"><Vertices><Vertex X="1" Y="1"/><Vertex X="90" Y="5"/><Vertex X="40" Y="80"/></Vertices></Region>
<Region Id="2" Type="2" NegativeROA="1"><Vertices><Vertex X="20" Y="20"/><Vertex X="40" Y="30"/></Vertices></Region>
</Regions></Annotation></Annotations>
"""


def geojson() -> str:
    square = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    shapes = [
        {"type": "Polygon", "coordinates": [square]},
        {"type": "MultiPolygon", "coordinates": [[[[x + 200, y] for x, y in square]]]},
        {"type": "Point", "coordinates": [5, 5]},
    ]
    names = ["Tumor", "Ignore", "Stroma"]
    features = [
        {
            "type": "Feature",
            "geometry": shape,
            "properties": {"objectType": "annotation", "classification": {"name": name}, "measurements": {"a": 1.5}},
        }
        for shape, name in zip(shapes, names, strict=True)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


@mutations
@pytest.mark.parametrize("name", ["asap.xml", "imagescope.xml", "qupath.geojson"])
def test_annotations(tmp_path, count, name):
    path = tmp_path / name
    path.write_text({"asap.xml": ASAP, "imagescope.xml": IMAGESCOPE}.get(name) or geojson())

    def use():
        regions = read_annotations(path)
        for area in (tissue_area(regions, where=name), truth_area(regions, where=name)):
            assert area.shape.is_valid
            assert area.words("tissue", 0.25)

    used = try_mutations(path, use, count)
    if path.suffix == ".geojson":
        used += try_mutations(path, use, count, mutate=mutate_json)
    assert used > 0


TABLES = {
    "labels.csv": ("case_id,slide_id,label\np1,a.svs,tumour\np1,b.svs,normal\n\"p 2\",c.svs,normal\np3,d.svs,tumour\n", read_labels),
    "splits.csv": (",train,val,test\n0,a,b,c\n1,d,,\n", read_splits),
    "split.json": (json.dumps({"train": ["a", "d"], "val": ["b"], "test": ["c"]}), read_splits),
    "process.csv": (
        "slide_id,process,sthresh,mthresh,use_otsu,a_t,keep_ids,use_padding,contour_fn\na.svs,1,8,7,False,100.0,none,True,four_pt\n"
        "b.svs,1,20,5,True,1,\"0,2\",False,basic\n",
        lambda path: read_process_list(path, Tiling()),
    ),
}  # fmt: skip


@mutations
@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, count, name):
    text, read = TABLES[name]
    (tmp_path / name).write_text(text)
    assert try_mutations(tmp_path / name, lambda: read(tmp_path / name), count) > 0


@mutations
def test_tables_of_slides(tmp_path, count):
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.svs").write_bytes(b"II*\0")
    table = folder / "slides.csv"
    table.write_text("wsi,mpp\na.svs,0.25\nb.svs,0.5\n")
    assert try_mutations(table, lambda: find_slides(table), count) > 0


@mutations
def test_files_of_features(cohort, tmp_path, count):
    path = Path(shutil.copy(next(cohort[0].iterdir()), tmp_path / "a.h5"))

    def use():
        bag = open_bag(path)
        assert bag.preparation is not None
        assert len(read_features(bag.features, "a")) == len(bag)
        find_bags(path)

    assert try_mutations(path, use, count) > 0


@mutations
def test_files_of_tiles(tmp_path, count):
    coords = np.arange(20, dtype=np.int64).reshape(10, 2) * 256
    path = tmp_path / "a_patches.h5"
    write_tiles(path, Tiles("a", coords, 256, 256, {"patch_size": 256, "patch_size_level0": 256, "overlap": 0}))

    def use():
        tiles = read_tiles(path)
        assert len(tiles.coords) == 0 or tiles.side > 0

    assert try_mutations(path, use, count) > 0


@mutations
def test_own_scores(tmp_path, count):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["attention_scores"] = np.arange(3.0)[:, None]
        file["coords"] = np.array([[0, 0], [256, 0], [0, 256]])

    def use():
        assert abs(read_scores(path).attention.sum() - 1) < 1e-3

    assert try_mutations(path, use, count) > 0


@mutations
def test_configs_of_models(trained, tmp_path, count):
    folder = Path(shutil.copytree(trained.model, tmp_path / "model"))
    try_mutations(folder / "config.json", lambda: load(folder), count)


@changed(300)
def test_no_change_of_a_model_goes_unsaid(trained, tmp_path, capsys, changes):
    folder = Path(shutil.copytree(trained.model, tmp_path / "model"))
    assert load(folder).classes == ("normal", "tumour")
    try_changes(folder / "config.json", lambda: load(folder), capsys, changes)


@mutations
def test_config_files(tmp_path, cli, count):
    """A run's config.yaml with --config: refused in a line, and no run folder is left."""
    config = tmp_path / "config.yaml"
    values = {"model": "acmil", "epochs": 1, "lr": 0.001, "branches": 5, "mask_drop": 0.6, "selection": "last"}
    config.write_text("arguments:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in values.items()))

    def use():
        code, _, err = cli("train", tmp_path / "absent", "--config", config, "--out", tmp_path / "run")
        assert code == 2
        assert "unexpected" not in err, err
        assert not (tmp_path / "run").exists()

    assert try_mutations(config, use, count) == count


@pytest.mark.reliability(
    "attributes and coordinates of feature files, of another type or range", "one line that names them", cases=4
)
@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("patch_size_level0", ["wide", -256, 0, float("nan"), float("inf"), 2**40]),
        ("label", ["tumour", float("nan")]),
        ("coords", [[[0, float("nan")]], [[0, 1e300]], [[0, 0, 0]], [[b"a", b"b"]]]),
    ],
)
def test_what_is_constrained_in_a_feature_file_is_checked(tmp_path, attribute, values):
    for value in values:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["features"] = np.zeros((1, 4), np.float32)
            file["coords"] = value if attribute == "coords" else np.zeros((1, 2), int)
            if attribute != "coords":
                file["features"].attrs[attribute] = value
        with pytest.raises(UserError, match=attribute) as refused:
            open_bag(path)
        assert "a.h5" in str(refused.value)
