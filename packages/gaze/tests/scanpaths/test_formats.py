"""Which files are ours, told by their first bytes."""

import json

import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.formats import claim, find_recordings, kind_of
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath, write_amazon, write_tobii


def test_own_files(tmp_path):
    scanpath = make_scanpath(eye="left")
    names = {
        "a.json": "COCO-Search18 JSON",
        "a.asc": "EyeLink ASC",
        "bids": "eye-tracking BIDS",
        "a.tsv": "multimatch-gaze table",
        "a.csv": "table of fixations",
        "a.parquet": "scanpaths (Parquet)",
        "a.jsonl": "scanpaths (JSON lines)",
    }
    for name, kind in names.items():
        write_scanpaths([scanpath], tmp_path / name)
        assert kind_of(tmp_path / name) == kind
    for version in ("studio", "v1", "v2"):
        assert kind_of(write_tobii([scanpath], tmp_path / f"{version}.tsv", version)) == "Tobii table"
    assert kind_of(write_amazon([scanpath], tmp_path / "amazon.json")) == "Amazon book covers JSON"
    (tmp_path / "s.csv").write_text("time,x,y\n1,2,3\n")
    assert kind_of(tmp_path / "s.csv") == "table of samples"
    found = find_recordings(tmp_path)
    assert tmp_path / "bids" in found
    assert len(found) == len(names) + 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps({"images": [], "annotations": [{"bbox": [1, 2, 3, 4]}]})),
        ("a.json", json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}])),
        ("a.json", "{"),
        ("a.csv", "name,age\nx,3\n"),
        ("a.tsv", "onset\tduration\ttrial_type\n1\t2\tgo\n"),
        ("a.asc", "ncols 4\nnrows 6\nxllcorner 0.0\n"),
        ("a_physio.tsv.gz", "no gzip"),
        ("a.parquet", "PAR1 of somebody else PAR1"),
        ("a.png", "x"),
        ("a.txt", "a text, with some words\n"),
    ],
)
def test_other_files_are_not_ours(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert kind_of(tmp_path / name) is None
    assert claim(tmp_path / name) is None
    with pytest.raises(UserError, match="no recordings"):
        find_recordings(tmp_path)


def test_claims(tmp_path):
    write_scanpaths([make_scanpath()], tmp_path / "in" / "a.json")
    assert claim(tmp_path / "in" / "a.json").certainty > 0.9
    assert claim(tmp_path).kind == "folder of gaze recordings"
    assert claim(tmp_path / "absent") is None
    with pytest.raises(UserError, match="no such file or folder"):
        find_recordings(tmp_path / "absent")


def test_nothing_heavy_is_imported():
    import subprocess
    import sys

    code = "import sys, gaze.scanpaths.formats; print([m for m in ('numpy', 'pandas', 'pyarrow', 'torch', 'polars') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
