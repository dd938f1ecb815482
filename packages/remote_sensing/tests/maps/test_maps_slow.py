"""Minutes: two real Siegfried tiles are learned by heart; a sheet of a hundred megapixels made of them runs end to end in bounded memory."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from scipy import ndimage

from core_runtime.cli import run
from remote_sensing.cli import app
from remote_sensing.maps.metrics import image_measures
from remote_sensing.maps.model.folder import load
from remote_sensing.maps.predictions.sheets import segment_sheet
from remote_sensing.maps.sheets.examples import siegfried
from remote_sensing.maps.sheets.options import PartOptions
from remote_sensing.maps.sheets.vector_files import read_layer

pytestmark = pytest.mark.slow
FEATURES = ("railway", "vineyard")
SIDE, CORNER = 10_000, (2_600_000, 1_200_000)
# what the command does, in a process of its own that tells its peak memory in MiB
COMMAND = """
import sys
from core_runtime.cli import run
from remote_sensing.cli import app
try:
    run(app, sys.argv[1:])
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
    print("PEAK", int(peak) // 1024, file=sys.stderr)
"""


def command(*arguments):
    """What the command says with --json, and its peak memory in MiB."""
    words = [sys.executable, "-c", COMMAND, *(str(a) for a in arguments), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), int(done.stderr.rpartition("PEAK")[2])


@pytest.fixture(scope="module")
def tiles(shared, tmp_path_factory):
    """The two real tiles in the layout of their data set; class 1 is the railway, class 2 the vineyard."""
    source, root = shared / "data/mapsam/siegfried_example", tmp_path_factory.mktemp("siegfried")
    for part in ("train", "val"):
        for folder in (root / part, root / "annotation" / part):
            folder.mkdir(parents=True)
        for number, name in enumerate(FEATURES, 1):
            Image.open(source / f"{name}_image_224.png").save(root / part / f"{name}.png")
            truth = np.asarray(Image.open(source / f"{name}_ground_truth_224.png").convert("L")) > 127
            Image.fromarray(truth.astype(np.uint8) * number).save(root / "annotation" / part / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def by_heart(tiles, tmp_path_factory):
    """A model folder of a tiny MapSAM with random weights after 150 steps on both tiles."""
    out = tmp_path_factory.mktemp("run") / "run"
    words = ["--classes", ",".join(FEATURES), "--variant", "tiny", "--image-size", "384", "--epochs", "150"]
    with pytest.raises(SystemExit) as end:
        run(app, ["maps", "train", str(tiles), *words, "--no-augment", "--weight-decay", "0", "--out", str(out)])
    assert not end.value.code
    return out / "model"


def test_real_tiles_are_learned_by_heart(tiles, by_heart):
    model, examples = load(by_heart), siegfried(tiles, "train", FEATURES)
    for number, name in enumerate(FEATURES):
        image, label = examples.read(name)
        found = model.logits(torch.from_numpy(image)[None])[:, number] > 0
        iou = float(image_measures(found, torch.from_numpy(label > 0)[None])[0, 3])
        assert iou > 0.9, (name, iou)


@pytest.fixture(scope="module")
def sheet(tiles, tmp_path_factory):
    """A hundred megapixels of the two tiles in turn."""
    path = tmp_path_factory.mktemp("sheet") / "sheet.tif"
    pictures = [np.asarray(Image.open(tiles / "train" / f"{n}.png")).transpose(2, 0, 1) for n in FEATURES]
    rows = [np.concatenate([pictures[(i + j) % 2] for i in range(45)], 2)[:, :, :SIDE] for j in range(2)]
    profile = {"driver": "GTiff", "count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8", "crs": "EPSG:2056"}
    profile |= {"transform": Affine(1.25, 0, CORNER[0], 0, -1.25, CORNER[1]), "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", photometric="RGB", **profile) as file:
        for number, top in enumerate(range(0, SIDE, 224)):
            part = rows[number % 2][:, : min(224, SIDE - top)]
            file.write(part, window=((top, top + part.shape[1]), (0, SIDE)))
    return path


def test_a_sheet_of_a_hundred_megapixels(by_heart, sheet):
    """Predicted and vectorised by the command in 3 GB each: exact coordinates, one polygon an object, the same in a part and on a moved grid."""
    out = sheet.parent / "out"
    made, peak = command("maps", "predict", sheet, "--model", by_heart, "--out", out, "--batch", 8, "--threads", 1)
    assert peak < 3 * 1024, peak
    vectors, peak = command("maps", "vectorize", out / "sheet_mask.tif", "--out", out / "sheet.gpkg", "--simplify", 0)
    assert peak < 3 * 1024, peak
    with rasterio.open(sheet) as a, rasterio.open(out / "sheet_mask.tif") as b:
        assert (a.crs, a.transform, a.shape) == (b.crs, b.transform, b.shape)
        mask = b.read(1)
    assert made["sheets"][0]["shares"].keys() == set(FEATURES)
    objects = [ndimage.label(mask == n, np.ones((3, 3)))[1] for n in (1, 2)]
    layer = read_layer(out / "sheet.gpkg")
    assert [layer.columns["name"].count(n) for n in FEATURES] == objects
    assert vectors["polygons"] == sum(objects) > 1000

    # a part of it is the whole's; a moved grid of tiles shows other cuts to a network that knows only two tiles whole: at most 8 % of the pixels change
    box = tuple(CORNER[i % 2] + 1.25 * s for i, s in enumerate((3100, -4700, 4500, -3300)))
    asked = PartOptions(bbox=box)
    part, _ = segment_sheet(load(by_heart), sheet, out / "part", asked=asked, progress=False)
    elsewhere = sheet.with_name("elsewhere.tif")
    shutil.copy(sheet, elsewhere)
    with rasterio.open(elsewhere, "r+") as file:
        file.transform = file.transform * Affine.translation(75, 75)
    moved = PartOptions(bbox=tuple(v + 1.25 * s for v, s in zip(box, (75, -75, 75, -75), strict=True)))
    other, _ = segment_sheet(load(by_heart), elsewhere, out / "moved", asked=moved, progress=False)
    whole = mask[3300:4700, 3100:4500]
    with rasterio.open(part.mask) as a, rasterio.open(other.mask) as b:
        assert (a.read(1) != whole).mean() < 1e-5
        assert (b.read(1) != whole).mean() < 0.08


def test_centre_lines_of_one_large_network_in_bounded_memory(tmp_path):
    """Thirty-six megapixels of streets that all hang together."""
    side, block = 6000, 60
    mask = np.zeros((side, side), np.uint8)
    for at in range(block // 2, side, block):
        mask[at : at + 5] = 1
        mask[:, at : at + 5] = 1
    profile = {"driver": "GTiff", "count": 1, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:2056"}
    profile |= {"transform": Affine(1.25, 0, CORNER[0], 0, -1.25, CORNER[1]), "tiled": True, "compress": "deflate"}
    with rasterio.open(tmp_path / "mask.tif", "w", **profile) as file:
        file.write(mask, 1)
    plain, without = command("maps", "vectorize", tmp_path / "mask.tif", "--out", tmp_path / "a.gpkg")
    made, peak = command("maps", "vectorize", tmp_path / "mask.tif", "--out", tmp_path / "b.gpkg", "--centrelines")
    streets = side // block
    assert plain["polygons"] == made["polygons"] == 1
    assert made["length"] == pytest.approx(2 * streets * side * 1.25, rel=0.02)
    assert peak - without < 700, (without, peak)


def test_official_files_of_full_size_become_a_model_folder(tmp_path):
    """SAM ViT-B and an adapter with random weights of the official shapes: converted, checked, 231 tensors of about 15.6 MB."""
    from remote_sensing.maps.commands.models import check, convert
    from remote_sensing.maps.model.checkpoints import adapter_state, save_adapter
    from remote_sensing.maps.model.mapsam import MapSAM
    from remote_sensing.maps.model.prompting import load_prompted
    from remote_sensing.maps.model.sam import Sam

    torch.manual_seed(0)
    torch.save(Sam().state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    network = MapSAM()
    assert len(adapter_state(network)) == 231
    adapter = save_adapter(network, tmp_path / "epoch_159.pth")
    assert adapter.stat().st_size == pytest.approx(15.6e6, rel=0.02)
    del network
    sam = tmp_path / "sam_vit_b_01ec64.pth"
    converted = convert(adapter, out=tmp_path / "model", sam=sam, classes=("railway",)).values
    assert converted["rank"] == 4
    assert check(converted["model"]).values["channel_order"] == "bgr"
    assert load_prompted(tmp_path / "sam_vit_b_01ec64.pth", image_size=512).config.image_size == 512
