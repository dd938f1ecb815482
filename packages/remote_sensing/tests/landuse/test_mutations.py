"""Seeded mutations of every format that comes in: an answer or one plain line, in bounded time and memory, and nothing half-written.

The quick run takes a few of each format; ``-m slow`` takes a thousand.
"""

import json
import shutil

import numpy as np
import pytest
from mutating import changed, mutate, mutated, try_changes, try_mutations
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.findings import Findings
from remote_sensing.landuse.cohort import KnownTiles, split_tiles
from remote_sensing.landuse.commands.inspect import examine
from remote_sensing.landuse.model.folder import load_model, save_model
from remote_sensing.landuse.model.networks import build_network
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.predictions.scenes import map_scene_file
from remote_sensing.landuse.samples.samples import draw_scene, write_geotiff
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, preprocessing
from remote_sensing.landuse.scenes.claims import claim
from remote_sensing.landuse.scenes.layouts import find_tiles
from remote_sensing.landuse.scenes.scene import Scene
from remote_sensing.landuse.scenes.store import decode

CONFIG = """arguments:
  data: absent
  network: balanced
  width: 8
  depths: [1, 1]
  drop: 0.5
  epochs: 2
  lr: 0.001
  schedule: cosine
  class_weights: effective
  augment: true
  split: stratified
  kind: rgb
  bands: [B04, B08]
  seed: 0
  precision: 32-true
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A small file of each format, and a model."""
    folder = tmp_path_factory.mktemp("originals")
    scene = draw_scene(128, 5)[0]
    write_geotiff(folder / "scene.tif", scene, (600_000.0, 5_200_000.0))
    Image.fromarray(scene[1:4, :130, :130].astype(np.uint8).transpose(1, 2, 0)).save(folder / "world.png")
    (folder / "world.pgw").write_text("10.0\n0.0\n0.0\n-10.0\n600000.0\n5200000.0\n")
    Image.fromarray(scene[1:4, :64, :64].astype(np.uint8).transpose(1, 2, 0)).save(folder / "tile.jpg")
    product = folder / "S2A_MSIL1C_20220801T101559_N0400_R065_T32TMT_X.SAFE"
    product.mkdir()
    for band in ("B02", "B03", "B04"):
        layer = scene[FILE_ORDER.index(band)][None] + np.uint16(1000)
        write_geotiff(product / f"T32TMT_20220801T101559_{band}.tif", layer, (600_000.0, 5_200_000.0), names=())
    offsets = "".join(f'<RADIO_ADD_OFFSET band_id="{i}">-1000</RADIO_ADD_OFFSET>' for i in range(13))
    (product / "MTD_MSIL1C.xml").write_text(f"<p><QUANTIFICATION_VALUE>10000</QUANTIFICATION_VALUE>{offsets}</p>")
    tiles = folder / "tiles"
    for name in ("Forest", "River"):
        (tiles / name).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (64, 64), (i, 99, 99)).save(tiles / name / f"{name}_{i}.jpg")
    for i, part in enumerate(("train", "validation", "test")):
        rows = [
            f"{j},{name}/{name}_{3 * i + j}.jpg,{n},{name}"
            for n, name in enumerate(("Forest", "River"))
            for j in range(3)
        ]
        (tiles / f"{part}.csv").write_text("\n".join([",Filename,Label,ClassName", *rows]) + "\n")
    for i, part in enumerate(("train", "val", "test")):
        rows = [f"{name}_{3 * i + j}.jpg" for name in ("Forest", "River") for j in range(3)]
        (tiles / f"eurosat-{part}.txt").write_text("\n".join(rows) + "\n")
    network = build_network("balanced", classes=2, bands=3, width=8, depths=(1,)).eval()
    known = {"train": "0123456789abcdef" * 4, "val": "", "test": ""}
    model = {"classes": ("a", "b"), "tile_size": 64, "pixel_size": 10.0, "provenance": {"tiles": known}}
    save_model(network, folder / "model", preprocessing=preprocessing(RGB), **model)
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(CONFIG)
    return folder


def read_scene(path):
    with Scene(path) as scene:
        scene.read(scene.bands, slice(0, min(scene.height, 64)), slice(0, min(scene.width, 64)))


def read_model(folder):
    model = load_model(folder)
    KnownTiles.of(model.provenance, folder)


def read_lists(folder, name):
    split_tiles(find_tiles(folder), name)


def read_config(folder):
    """The options of a run's config.yaml; the tiles that it names are not there."""
    from core_runtime.cli import _call
    from remote_sensing.cli import app

    with pytest.raises(UserError) as refused:
        _call(app, ["landuse", "train", str(folder / "absent"), "--config", str(folder / "config.yaml")])
    if "absent" not in refused.value.message:
        raise refused.value


# format → (file that is changed, what is copied with it, what is done with it)
FORMATS = {
    "GeoTIFF": ("scene.tif", "scene.tif", read_scene),
    "world file": ("world.pgw", ".", lambda folder: read_scene(folder / "world.png")),
    "product metadata": ("MTD_MSIL1C.xml", "S2A_MSIL1C_20220801T101559_N0400_R065_T32TMT_X.SAFE", read_scene),
    "Kaggle's lists": ("validation.csv", "tiles", lambda folder: read_lists(folder, "csv")),
    "torchgeo's lists": ("eurosat-test.txt", "tiles", lambda folder: read_lists(folder, "torchgeo")),
    "config.json": ("config.json", "model", read_model),
    "weights": ("model.safetensors", "model", read_model),
    "config.yaml": ("config.yaml", "run", read_config),
    "picture": ("tile.jpg", "tile.jpg", lambda path: decode(path.name, path.read_bytes())),
}


def try_format(originals, folder, kind, count):
    """Reads `count` mutations of a format."""
    changed, copied, read = FORMATS[kind]
    if copied == ".":
        place = folder / originals.name
        place.mkdir()
        for name in ("world.png", "world.pgw"):
            shutil.copy(originals / name, place)
    else:
        place = folder / copied
        if (originals / copied).is_dir():
            shutil.copytree(originals / copied, place)
        else:
            shutil.copy(originals / copied, place)
    file = place / changed if place.is_dir() else place
    try_mutations(file, lambda: read(place), count, folder=folder)


@mutated("mutations of land-use inputs", "an answer or one line", quick=12)
@pytest.mark.parametrize("kind", FORMATS)
def test_mutations_end_in_an_answer_or_one_line(originals, tmp_path, kind, count):
    try_format(originals, tmp_path, kind, count)


@changed(300, step=1)
def test_no_change_of_a_model_goes_unsaid(originals, tmp_path, capsys, changes):
    folder = tmp_path / "model"
    shutil.copytree(originals / "model", folder)
    try_changes(folder / "config.json", lambda: read_model(folder), capsys, changes)


def test_mutated_scenes_leave_nothing_half_written(originals, tmp_path):
    model = load_model(originals / "model")
    original = (originals / "scene.tif").read_bytes()
    for seed in range(6):
        scene = tmp_path / f"scene_{seed}.tif"
        scene.write_bytes(mutate(original, np.random.default_rng(seed)))
        assert claim(scene) is None or claim(scene).certainty <= 1
        out = tmp_path / f"out_{seed}"
        try:
            assert isinstance(examine(scene), Findings)
            map_scene_file(scene, model, out, PredictionOptions(stride=64, any_resolution=True))
        except UserError:
            assert not out.exists()
        else:
            assert json.loads((out / "summary.json").read_text())["files"]
    assert not list(tmp_path.rglob("*.part"))
