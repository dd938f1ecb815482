"""Land-use networks and MapSAM against their published forms; sheets against a whole-image read; polygons against rasterio and one union.

Parts: ``module`` (the balanced attention), ``network`` (all of it, with the ceiling that its convolutions set), ``mapsam`` (ViT-B at 512: adapters
re-merged every pass, attention written out, one image at a time, against ours), ``memory`` (one pass at 1024), ``sheet`` (throughput and
memory by strips against the whole), ``vectors``. Equal outputs are checked before anything is timed.

Example: python benchmarks/remote_sensing.py --part mapsam --threads 2
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [*(p for p in sys.path if p != HERE), HERE]  # this file has the package's name: the package comes first

import numpy as np  # noqa: E402
import torch  # noqa: E402
from feature_maps import published_balanced  # noqa: E402
from measure import paired, parser, peak_memory, ratio, show, size  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention  # noqa: E402
from remote_sensing.landuse.model.eurosat import Balanced12LayerCNN, folded  # noqa: E402
from remote_sensing.maps.model.mapsam import MapSAM, decode, mapsam_config, pick_points, semantic_vector  # noqa: E402
from remote_sensing.maps.model.sam import dense_positions, embed_points, no_mask, normalised  # noqa: E402

# how a fresh process imports this file
BENCH = f"""
import sys, importlib.util
sys.path.append({HERE!r})
spec = importlib.util.spec_from_file_location("bench", {str(Path(__file__).resolve())!r})
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
import torch
"""
PARTS = ("module", "network", "mapsam", "memory", "sheet", "vectors")


class Published(nn.Module):
    """The published arithmetic of the balanced attention around the same weights."""

    def __init__(self, layer: BalancedMultiTaskAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return published_balanced(self.layer, x)


def published_network(network: Balanced12LayerCNN) -> Balanced12LayerCNN:
    """The network with the published arithmetic in every block."""
    made = deepcopy(network)
    for stage in made.stages:
        for block in stage:
            block.attention = Published(block.attention)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return made


def quiet(run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return run()

    return call


def module_rows(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for channels, side in ((64, 64), (128, 32), (256, 16), (512, 8)):
        layer, x = BalancedMultiTaskAttention(channels).eval(), torch.randn(8, channels, side, side)
        peer = Published(layer)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), peer(x), rtol=1e-4, atol=1e-5)
        times = paired(
            {"ours": quiet(partial(layer, x)), "published": quiet(partial(peer, x))}, rounds=3 * rounds, warm=3
        )
        rows.append(
            {"map": f"8×{channels}×{side}×{side}", "published / ours": ratio(times["published"], times["ours"])}
        )
    return rows


def network_rows(rounds: int) -> list[dict[str, Any]]:
    """As `landuse predict` runs it, batch norms folded, against the published form; without any attention: the ceiling."""
    torch.manual_seed(0)
    network = Balanced12LayerCNN().eval()
    x = torch.randn(8, 3, 64, 64)
    quick = folded(network)
    bare = deepcopy(quick)
    for stage in bare.stages:  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        for block in stage:
            block.attention = nn.Identity()
    peer = published_network(network)
    with torch.inference_mode():
        torch.testing.assert_close(quick(x), peer(x), rtol=1e-3, atol=1e-4)
    runs = {"published": partial(peer, x), "ours": partial(quick, x), "convolutions alone": partial(bare, x)}
    times = paired({k: quiet(v) for k, v in runs.items()}, rounds=rounds)
    return [
        {
            "tiles": "8×3×64×64",
            "published / ours": ratio(times["published"], times["ours"]),
            "ceiling: published / convolutions alone": ratio(times["published"], times["convolutions alone"]),
        }
    ]


def published_mapsam(model: MapSAM, image: Tensor) -> Tensor:
    """The published pass: `segment_anything`'s own blocks (attention written out, adapters merged anew), the neck on every fourth, images one by one."""
    encoder, config = model.image_encoder, model.config
    x = encoder.patch_embed(normalised(image, config)) + encoder.pos_embed
    states = []
    for i, block in enumerate(encoder.blocks):
        x = block(x)
        if i % 4 == 0 and i < config.depth - 1:
            states.append(encoder.neck(x.permute(0, 3, 1, 2)))
    embedding = encoder.neck(x.permute(0, 3, 1, 2))
    heads = (model.spgen, model.spgen1, model.spgen2, model.spgen3)
    coarse = torch.stack([h(z) for h, z in zip(heads, [embedding, *states[:3]], strict=True)]).mean(0)
    full = nn.functional.interpolate(coarse, (config.image_size,) * 2, mode="bilinear", align_corners=False)
    made = []
    for i in range(len(image)):
        one = slice(i, i + 1)
        points, labels = pick_points(full[one])
        sparse = embed_points(model.prompt_encoder, points, labels, pad=True)
        semantic = semantic_vector(embedding[one], coarse[one])
        source = embedding[one] + no_mask(model.prompt_encoder, 1)
        positions = dense_positions(model.prompt_encoder)
        made.append(decode(model.mask_decoder, source, positions, sparse, semantic, coarse[one], "double")[0])
    return torch.cat(made)


def mapsam_pair(image_size: int) -> tuple[MapSAM, MapSAM]:
    """A random ViT-B with adapters that matter, and its merged copy."""
    torch.manual_seed(0)
    model = MapSAM(mapsam_config("vit_b", image_size=image_size)).eval()
    with torch.no_grad():
        for block in model.image_encoder.blocks:
            block.attn.qkv.lora_B_q.normal_(0, 0.02)
            block.attn.rel_pos_h.normal_(0, 0.02)
            block.attn.rel_pos_w.normal_(0, 0.02)
    return model, deepcopy(model).merged()


def mapsam_rows(rounds: int) -> list[dict[str, Any]]:
    model, merged = mapsam_pair(512)
    rows = []
    for batch in (1, 4):
        x = torch.rand(batch, 3, 512, 512)
        with torch.inference_mode():
            torch.testing.assert_close(merged(x).logits, published_mapsam(model, x), rtol=1e-3, atol=1e-4)
        runs = {"published": partial(published_mapsam, model, x), "ours": partial(merged, x)}
        times = paired({k: quiet(v) for k, v in runs.items()}, rounds=max(2, rounds // 2))
        rows.append(
            {
                "images": f"{batch}×3×512×512",
                "ours s": f"{times['ours'].median:.2f}",
                "published / ours": ratio(times["published"], times["ours"]),
            }
        )
    return rows


def memory_rows(threads: int) -> list[dict[str, Any]]:
    """One image of 1024 pixels through ViT-B."""
    setup = (
        BENCH
        + "model, merged = bench.mapsam_pair(1024); x = torch.rand(1, 3, 1024, 1024); model = {keep}; merged = None"
    )
    work = "with torch.inference_mode(): {call}"
    ours = peak_memory(setup.format(keep="merged"), work.format(call="model(x)"), threads=threads)
    peer = peak_memory(
        setup.format(keep="model"), work.format(call="bench.published_mapsam(model, x)"), threads=threads
    )
    return [
        {
            "image": "1×3×1024×1024",
            "published": size(peer),
            "ours": size(ours),
            "published / ours": f"{peer / ours:.2f}×",
        }
    ]


def tiled_sheet(path: Path, side: int) -> Path:
    """A drawn sheet repeated to `side` pixels."""
    from affine import Affine

    from remote_sensing.maps.samples.drawing import draw_sheet
    from remote_sensing.maps.samples.samples import write_sheet

    piece = draw_sheet(1000, 0).picture
    whole = np.tile(piece, (-(-side // 1000), -(-side // 1000), 1))[:side, :side]
    write_sheet(path, whole, Affine(1.25, 0, 2_600_000, 0, -1.25, 1_200_000))
    return path


def sheet_run(path: str, out: str) -> float:
    """Seconds of segmenting a sheet by strips with the tiny network."""
    from remote_sensing.maps.model.folder import SheetModel
    from remote_sensing.maps.model.mapsam import MapSamConfig
    from remote_sensing.maps.model.options import SegmentOptions
    from remote_sensing.maps.predictions.sheets import segment_sheet
    from remote_sensing.maps.training.network import TINY

    torch.manual_seed(0)
    network = MapSAM(MapSamConfig(**TINY, image_size=128)).eval()
    model = SheetModel(network, ("feature",), 224)
    start = time.perf_counter()
    segment_sheet(model, Path(path), Path(out), options=SegmentOptions(batch=8), progress=False)
    return time.perf_counter() - start


def sheet_rows(threads: int, sides: tuple[int, ...] = (2000, 4000)) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            path = tiled_sheet(Path(folder) / f"{side}.tif", side)
            started = time.perf_counter()
            ours = peak_memory(BENCH, f"bench.sheet_run({str(path)!r}, {folder + '/o' + str(side)!r})", threads=threads)
            seconds = time.perf_counter() - started
            pixels = f"a = rasterio.open({str(path)!r}).read().astype(np.float32) / 255"
            whole = f"import rasterio, numpy as np; {pixels}; b = np.zeros((2, {side}, {side}), np.float32)"
            read = peak_memory("import rasterio", whole, threads=threads)
            rows.append(
                {
                    "sheet": f"{side}×{side}",
                    "megapixels/s": f"{side * side / 1e6 / seconds:.2f}",
                    "peak by strips": size(ours),
                    "peak of reading the whole (pixels and logits alone)": size(read),
                }
            )
    return rows


def vectors_rows(rounds: int, given: Path | None, side: int = 3000) -> list[dict[str, Any]]:
    """A mosaic (of blobs, or a mask): by strips with merging, against one call of rasterio's shapes on all of it, and against tiles with one union."""
    import shapely
    from affine import Affine
    from rasterio.features import shapes
    from scipy.ndimage import gaussian_filter
    from shapely.geometry import shape

    from remote_sensing.maps.sheets.grid import Grid
    from remote_sensing.maps.vectors.polygons import polygonise
    from remote_sensing.rasters import open_raster

    if given is None:
        field = gaussian_filter(np.random.default_rng(0).normal(size=(side, side)).astype(np.float32), 6)
        mask = (field > 0.03).astype(np.uint8)
    else:
        with open_raster(given) as file:
            mask = (file.read(1) == 1).astype(np.uint8)
    height, width = mask.shape
    grid = Grid(height, width, Affine.identity(), None)

    def ours() -> list[Any]:
        return [f.geometry for f in polygonise(lambda r, c: mask[r, c], grid)]

    def tiles(step: int = 512) -> list[Any]:
        found = []
        for y in range(0, height, step):
            for x in range(0, width, step):
                part = mask[y : y + step, x : x + step]
                found += [shape(g) for g, _ in shapes(part, part > 0, 8, Affine.translation(x, y))]
        return list(shapely.get_parts(shapely.unary_union(found)))

    def whole() -> list[Any]:
        return [shape(g) for g, _ in shapes(mask, mask > 0, 8)]

    assert len(ours()) == len(whole())
    assert abs(sum(g.area for g in ours()) - sum(g.area for g in tiles())) < 1
    times = paired({"ours": ours, "tiles": tiles, "whole": whole}, rounds=max(2, rounds // 2), warm=0)
    return [
        {
            "mosaic": f"{height}×{width}, {len(ours())} objects",
            "ours s": f"{times['ours'].median:.2f}",
            "tiles + unary_union / ours": ratio(times["tiles"], times["ours"]),
            "whole read at once / ours": ratio(times["whole"], times["ours"]),
        }
    ]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    options.add_argument("--mask", type=Path, help="of the part vectors: a _mask.tif of maps predict, its class 1")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    made: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
        "module": ("Balanced attention, forward", partial(module_rows, given.rounds)),
        "network": ("Balanced12LayerCNN, forward", partial(network_rows, given.rounds)),
        "mapsam": ("MapSAM ViT-B, forward", partial(mapsam_rows, given.rounds)),
        "memory": ("MapSAM ViT-B at 1024, peak of one pass", partial(memory_rows, given.threads)),
        "sheet": ("Sheets with the tiny network", partial(sheet_rows, given.threads)),
        "vectors": ("Polygons", partial(vectors_rows, given.rounds, given.mask)),
    }
    for name in given.part or PARTS:
        title, rows = made[name]
        show(title, rows(), given.json)


if __name__ == "__main__":
    main()
