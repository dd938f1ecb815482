"""Minutes: two real Siegfried tiles are learned by heart; a sheet of a hundred megapixels runs end to end in bounded memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from remote_sensing.maps.labels import Examples
from remote_sensing.maps.losses import image_measures
from remote_sensing.maps.model_folders import load
from remote_sensing.maps.training import MapRecipe, train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("feature", ["railway", "vineyard"])
def test_a_real_tile_is_learned_by_heart(shared, tmp_path, feature):
    folder = shared / "data/mapsam/siegfried_example"
    image = np.asarray(Image.open(folder / f"{feature}_image_224.png").convert("RGB")).transpose(2, 0, 1).copy()
    label = (np.asarray(Image.open(folder / f"{feature}_ground_truth_224.png").convert("L")) > 127).astype(np.uint8)
    examples = Examples((feature,), lambda name: (image, label), (feature,), 224)
    recipe = MapRecipe(epochs=250, lr=2e-3, weight_decay=0.0, batch=1, augment=False)
    made = train(examples, examples, tmp_path / "run", variant="tiny", image_size=448, recipe=recipe, progress=False)
    found = load(made.model).logits(torch.from_numpy(image)[None])[:, 0] > 0
    iou = float(image_measures(found, torch.from_numpy(label)[None])[0, 3])
    assert iou > 0.9, iou


def test_a_sheet_of_a_hundred_megapixels(shared, tmp_path):
    """Made of the real Siegfried tiles; predict and vectorize, each a process of its own, in 3 GB."""
    code = f"""
import resource, sys, time
import numpy as np
from pathlib import Path
from PIL import Image
from affine import Affine
import rasterio
import torch
from remote_sensing.maps.mapsam import MapSAM, MapSamConfig
from remote_sensing.maps.model_folders import SheetModel
from remote_sensing.maps.predict import Wanted, predict_sheet
from remote_sensing.maps.segment import SegmentOptions
from remote_sensing.maps.vectorise import VectorOptions, vectorise
from remote_sensing.maps.samples import write_sheet
folder = Path({str(shared / "data/mapsam/siegfried_example")!r})
tiles = [np.asarray(Image.open(folder / f"{{n}}_image_224.png").convert("RGB")) for n in ("railway", "vineyard")]
row = np.concatenate([tiles[i % 2] for i in range(45)], 1)[:, :10_000]
profile = dict(driver="GTiff", count=3, height=10_000, width=10_000, dtype="uint8", crs="EPSG:2056", transform=Affine(1.25, 0, 2.6e6, 0, -1.25, 1.2e6))
out = Path({str(tmp_path)!r})
with rasterio.open(out / "sheet.tif", "w", tiled=True, compress="deflate", photometric="RGB", **profile) as file:
    for top in range(0, 10_000, 224):
        part = row[: min(224, 10_000 - top)]
        file.write(part.transpose(2, 0, 1), window=((top, top + len(part)), (0, 10_000)))
class Dark(SheetModel):
    def logits(self, rgb):
        return (110 - rgb.float().mean(1, keepdim=True)) / 10
network = torch.nn.Linear(1, 1)
facts = predict_sheet(Dark(network, ("dark",), 224), out / "sheet.tif", out, Wanted(), SegmentOptions(batch=16), progress=False)
made = vectorise(Path(facts["mask"]), out / "sheet.gpkg", VectorOptions(min_area="40px"), probability=None, progress=False)
print(made["polygons"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    polygons, megabytes = (int(v) for v in done.stdout.split())
    assert polygons > 1000
    assert megabytes < 3 * 1024, megabytes


def test_official_files_of_full_size_become_a_model_folder(tmp_path):
    """SAM ViT-B and an adapter with random weights of the official shapes: converted, checked, 231 tensors of about 15.6 MB."""
    from remote_sensing.maps.checkpoints import adapter_state, save_adapter
    from remote_sensing.maps.mapsam import MapSAM
    from remote_sensing.maps.models import check, convert
    from remote_sensing.maps.prompting import load_prompted
    from remote_sensing.maps.sam import Sam

    torch.manual_seed(0)
    torch.save(Sam().state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    network = MapSAM()
    assert len(adapter_state(network)) == 231
    adapter = save_adapter(network, tmp_path / "epoch_159.pth")
    assert adapter.stat().st_size == pytest.approx(15.6e6, rel=0.02)
    del network
    made = convert(adapter, tmp_path / "model", sam=tmp_path / "sam_vit_b_01ec64.pth", classes=("railway",))
    assert made["rank"] == 4
    assert check(made["model"])["channel_order"] == "bgr"
    assert load_prompted(tmp_path / "sam_vit_b_01ec64.pth", image_size=512).config.image_size == 512
