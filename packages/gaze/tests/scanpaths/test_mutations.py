"""Seeded mutations of files: a reading or one plain line, in bounded time."""

import numpy as np
import pytest
from mutating import mutated, try_mutations

from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath, write_amazon, write_tobii

FORMATS = ("asc", "coco.json", "amazon.json", "tobii.tsv", "csv", "jsonl", "sidecar", "events")


def prepare(folder, kind: str):
    """(the file that is mutated, what is read)."""
    scanpaths = [
        make_scanpath("a.png", "01", count=4, eye="left"),
        make_scanpath("b.png", "01", 1, count=3, eye="left"),
    ]
    if kind == "tobii.tsv":
        path = write_tobii(scanpaths, folder / kind)
    elif kind == "amazon.json":
        path = write_amazon(scanpaths, folder / kind)
    elif kind in ("sidecar", "events"):
        write_scanpaths(scanpaths, folder / "bids")
        if kind == "sidecar":
            return folder / "bids" / "task-search_physio.json", folder / "bids"
        return next((folder / "bids").rglob("*_physioevents.tsv.gz")), folder / "bids"
    else:
        path = folder / ("a." + kind.split(".")[-1])
        write_scanpaths(scanpaths, path)
    return path, path


@mutated("mutations of gaze recordings", "a reading or one line, bounded time", quick=40)
@pytest.mark.parametrize("kind", FORMATS)
def test_mutations(tmp_path, kind, count):
    changed, path = prepare(tmp_path, kind)

    def use():
        reading = read_scanpaths(path)
        assert all(np.isfinite(scanpath.points).all() for scanpath in reading.scanpaths)

    used = try_mutations(changed, use, count)
    assert used or kind == "jsonl"  # most changes leave a line that is not JSON
