"""What tiles, features and heat maps belong to: every option that changes them is in their key."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core_runtime.identity import differences, spelled
from pathology_mil.commands import heatmap as mapping
from pathology_mil.features import encoding
from pathology_mil.features.encoding import Storage, encode_slides
from pathology_mil.features.options import COMPUTED, EncoderOptions
from pathology_mil.reports.options import MapOptions
from pathology_mil.slides import tiling
from pathology_mil.slides.options import TileOptions, Tiling, TissueParams
from pathology_mil.slides.reading import SlideFile, find_slides
from pathology_mil.slides.tiles import Tiles, write_tiles


@pytest.fixture
def slide(tmp_path) -> SlideFile:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return find_slides(tmp_path / "a.png", mpp=0.5)[0]


def changed(before, after) -> list[str]:
    return differences(spelled(before), spelled(after))


def test_every_option_of_tile_is_in_the_key(slide, tmp_path):
    work = tiling._Work(slide, Tiling(), tmp_path / "job", None, ())
    drawn = tmp_path / "a.geojson"
    drawn.write_text("[]")
    for change in (
        {"slide": replace(slide, mpp=0.25)},
        {"tiling": Tiling(TileOptions(mag=10))},
        {"tiling": Tiling(TileOptions(min_tissue=0.5))},
        {"tiling": Tiling(tissue=TissueParams(sthresh=20))},
        {"tissue_file": drawn},
        {"exclude_class": ("Stroma",)},
    ):
        assert changed(tiling._item(work).key, tiling._item(replace(work, **change)).key), change


def test_every_option_of_heatmap_is_in_the_key(slide, tmp_path):
    for name in ("scores.h5", "coords.h5", "a.xml"):
        (tmp_path / name).write_text(name)
    work = mapping._Work(slide, tmp_path / "out", MapOptions(), None, None, None, None, None, (), (), "cpu")
    for change in (
        {"slide": replace(slide, mpp=0.25)},
        {"options": MapOptions(zoom=2.0)},
        {"options": MapOptions(top=3)},
        {"scores": tmp_path / "scores.h5"},
        {"coords": tmp_path / "coords.h5"},
        {"annotation": tmp_path / "a.xml"},
        {"truth_class": ("Tumor",)},
        {"exclude_class": ("Necrosis",)},
    ):
        assert changed(mapping._item(work).key, mapping._item(replace(work, **change)).key), change


class Stop(Exception):
    pass


def test_every_option_of_encode_is_in_the_key(slide, tmp_path, monkeypatch):
    keys = []

    def stop(_, items, run, **__):
        keys.append(items[0].key)
        raise Stop

    monkeypatch.setattr(encoding, "bulk", stop)
    coords = np.array([[0, 0], [0, 20]])
    tiles = Tiles("a", coords, 20, 20, {"patch_size": 20, "slide_path": str(slide.path)})
    file = tmp_path / "job" / "patches" / "a_patches.h5"
    write_tiles(file, tiles)

    def key_of(storage):
        with pytest.raises(Stop):
            encode_slides(tmp_path / "job", EncoderOptions(encoder=COMPUTED), storage)
        return keys[-1]

    plain = key_of(Storage())
    assert changed(plain, key_of(Storage(dtype="float32")))
    assert changed(plain, key_of(Storage(precision="bf16-mixed")))
    write_tiles(file, replace(tiles, coords=np.array([[0, 0], [20, 0]])))
    assert changed(plain, key_of(Storage()))
    assert not changed(key_of(Storage(batch=1)), key_of(Storage(readers=5)))
