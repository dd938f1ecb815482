"""Backbones against their published forms and timm's, the enhancer against its concatenating form, and the cost of each by the size of the picture.

Parts: ``biformer`` (regions attended to without gathering them, against k copies of keys and values), ``moh`` (neighbours by shifts and one position
bias, against unfolded windows and a bias computed in each call), ``timm`` (DaViT and MambaOut), ``enhancer``, ``memory`` (BiFormer and the
enhancer), ``sizes`` (224 to 1,024 pixels). Equal weights, equal outputs (checked first), one thread, alternating.

Example: python benchmarks/vision.py --part biformer --rounds 5
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [*(p for p in sys.path if p != HERE), HERE]

import timm  # noqa: E402
import torch  # noqa: E402
from measure import paired, parser, peak_memory, ratio, show, size  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import core_attention.mechanisms.biformer.attention as bi_level  # noqa: E402
import core_attention.parts.linear as fused  # noqa: E402
from core_attention.mechanisms.moh.vit import MoHAggregatedAttention  # noqa: E402
from vision_models.networks import create  # noqa: E402
from vision_models.networks.converting import published_state  # noqa: E402
from vision_models.networks.featenhancer import FeatEnHancer  # noqa: E402

# how a fresh process imports this file
BENCH = f"""
import sys
sys.path.append({HERE!r})
import vision as bench
import torch
"""
PARTS = ("biformer", "moh", "timm", "enhancer", "memory", "sizes")
LARGEST = {"moh_vit_s80": 512}  # at 1,024 its position bias alone has 67 million pairs in the first stage


def quiet(run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return run()

    return call


def network(name: str, **options: Any) -> nn.Module:
    """A network with random weights, in evaluation."""
    torch.manual_seed(0)
    return create(name, num_classes=1000, **options).eval()


def biformer(side: int) -> nn.Module:
    """BiFormer-T; its authors cut pictures of 512 pixels into 8 × 8 regions."""
    return network("biformer_tiny", n_win=7 if side == 224 else 8)


@contextmanager
def gathering() -> Iterator[None]:
    """While it lasts, bi-level routing attention gathers the keys and values of the chosen regions, and linear layers are torch's: as published."""

    def gather(*arguments: Any, backend: str = "auto", **options: Any) -> Tensor:
        return bi_level.bi_level_routing_attention_reference(*arguments, **options)

    own, own_rule = bi_level.bi_level_routing_attention, fused._only_numbers
    bi_level.bi_level_routing_attention = gather
    fused._only_numbers = lambda x, weight: False
    try:
        yield
    finally:
        bi_level.bi_level_routing_attention, fused._only_numbers = own, own_rule


def gathered(model: nn.Module, x: Tensor) -> Tensor:
    with gathering():
        return model(x)


def biformer_rows(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for side, batch in ((224, 1), (224, 4), (512, 1)):
        model, x = biformer(side), torch.randn(batch, 3, side, side)
        rows.append(
            compare(f"BiFormer-T, {batch}×3×{side}×{side}", partial(model, x), partial(gathered, model, x), rounds)
        )
    return rows


def compare(what: str, ours: Callable[[], Tensor], other: Callable[[], Tensor], rounds: int) -> dict[str, Any]:
    """Times the other over ours, once both have been seen to agree."""
    ours, other = quiet(ours), quiet(other)
    expected = other()
    torch.testing.assert_close(ours(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    # of this process alone: other work on a shared machine takes its own
    times = paired({"ours": ours, "other": other}, rounds=rounds, clock=time.process_time)
    return {"what": what, "ours s": f"{times['ours'].median:.3f}", "other / ours": ratio(times["other"], times["ours"])}


def unfolded(layer: MoHAggregatedAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Aggregated attention in its published form: every window of keys and values unfolded, the position bias computed anew."""
    layer._cached_bias = None
    h, places, (height, width) = layer.num_heads, layer.window**2, layer.grid
    batch, tokens, dim = x.shape
    q = F.normalize(layer.q(x).view(batch, tokens, h, -1).transpose(1, 2), dim=-1)
    scaled = (q + layer.query_embedding) * F.softplus(layer.temperature) * layer.length_scale
    k, v = layer.kv(x).chunk(2, -1)
    k = F.normalize(k.view(batch, tokens, h, -1), dim=-1).flatten(2)
    maps = torch.cat([k, v], -1).transpose(1, 2).reshape(batch, 2 * dim, height, width)
    windows = F.unfold(maps, layer.window, padding=layer.window // 2).view(batch, 2 * h, -1, places, tokens)
    near_k, near_v = windows.permute(0, 1, 4, 2, 3).chunk(2, 1)  # (batch, heads, tokens, head width, window²)
    local = (scaled[:, :, :, None] @ near_k)[:, :, :, 0] + layer.relative_pos_bias_local[:, None]
    local = local.masked_fill(~layer.local_valid, -torch.inf)
    pooled = F.gelu(layer.sr(x.transpose(1, 2).reshape(batch, dim, height, width)))
    pooled = layer.norm(F.adaptive_avg_pool2d(pooled, layer.key_grid).flatten(2).transpose(1, 2))
    pool_k, pool_v = layer.kv(pooled).view(batch, -1, 2 * h, layer.head_dim).transpose(1, 2).chunk(2, 1)
    far = scaled @ F.normalize(pool_k, dim=-1).mT + layer.position_bias()
    weights = torch.cat([local, far], -1).softmax(-1)
    near, far = weights.split([places, pool_v.shape[2]], -1)
    near = near + (q @ layer.learnable_tokens + layer.learnable_bias)
    out = (near[:, :, :, None] @ near_v.mT)[:, :, :, 0] + far @ pool_v
    return layer.gated(out, x)


def native_moh(model: nn.Module, x: Tensor) -> Tensor:
    """MoH-ViT with the published arithmetic in its first three stages, and no bias kept from call to call."""
    own = MoHAggregatedAttention.forward
    MoHAggregatedAttention.forward = unfolded  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for module in model.modules():
            if hasattr(module, "_cached_bias"):
                setattr(module, "_cached_bias", None)  # noqa: B010 - of both kinds of attention
        return model(x)
    finally:
        MoHAggregatedAttention.forward = own


def moh_rows(rounds: int) -> list[dict[str, Any]]:
    model, x = network("moh_vit_s80"), torch.randn(1, 3, 224, 224)
    return [compare("MoH-ViT-S-80, 1×3×224×224", partial(model, x), partial(native_moh, model, x), rounds)]


def timm_rows(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name, peer in (("suite_davit_tiny", "davit_tiny"), ("suite_mambaout_tiny", "mambaout_tiny")):
        ours, theirs = network(name), timm.create_model(peer).eval()
        theirs.load_state_dict(published_state(name, ours, "timm"))
        for batch, side in ((1, 224), (4, 224), (1, 512)):
            x = torch.randn(batch, 3, side, side)
            row = compare(
                f"{name} against timm's {peer}, {batch}×3×{side}×{side}", partial(ours, x), partial(theirs, x), rounds
            )
            rows.append(row)
    return rows


def concatenating(model: FeatEnHancer, x: Tensor) -> Tensor:
    """The enhancer as the paper draws it: maps side by side, and every map kept until the end."""

    def features(x: Tensor) -> Tensor:
        f1 = F.relu(model.e_conv1(x))
        f2 = F.relu(model.e_conv2(f1))
        f3 = F.relu(model.e_conv3(f2))
        f4 = F.relu(model.e_conv4(f3))
        f5 = F.relu(model.e_conv5(torch.cat([f3, f4], 1)))
        f6 = F.relu(model.e_conv6(torch.cat([f2, f5], 1)))
        return model.e_conv7(torch.cat([f1, f6], 1))

    quarter = model.quarter_conv(x)
    eighth = features(model.hexa_conv(quarter))
    full = model.scale_aware_aggregation(F.relu(features(x)), F.relu(features(quarter)))
    skip = F.interpolate(eighth, size=x.shape[2:], mode="bilinear", align_corners=True)
    steps = model.ue_conv9(model.ue_conv8(torch.cat([full, skip], 1))).tanh()
    for step in steps.split(model.in_channels, 1):
        x = x + step
    return x


def enhancer_rows(rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = FeatEnHancer().eval()
    rows = []
    for height, width in ((256, 256), (480, 640)):
        x = torch.rand(1, 3, height, width)
        rows.append(
            compare(f"FeatEnHancer, {height}×{width}", partial(model, x), partial(concatenating, model, x), rounds)
        )
    return rows


def memory_rows(threads: int) -> list[dict[str, Any]]:
    """Peak memory of one pass beyond inputs and weights."""
    small = "x = torch.rand(1, 3, 64, 64)\nwith torch.inference_mode(): {run}\n"
    cases = {
        "BiFormer-T, 1×3×512×512": (
            "model = bench.biformer(512)\n",
            "x = torch.randn(1, 3, 512, 512)",
            ("model(x)", "bench.gathered(model, x)"),
        ),
        "FeatEnHancer, 480×640": (
            "model = bench.FeatEnHancer().eval()\n",
            "x = torch.rand(1, 3, 480, 640)",
            ("model(x)", "bench.concatenating(model, x)"),
        ),
    }
    rows = []
    for what, (model, picture, runs) in cases.items():
        peaks = []
        for run in runs:
            setup = BENCH + model + small.format(run=run) + picture
            peaks.append(peak_memory(setup, f"with torch.inference_mode(): {run}", threads=threads))
        ours, other = peaks
        rows.append({"what": what, "ours": size(ours), "other": size(other), "ours / other": f"{ours / other:.2f}"})
    return rows


def sizes_rows(rounds: int) -> list[dict[str, Any]]:
    """Seconds of one picture by its size, and over the 224 pixels' in the same rounds."""
    names = ("biformer_tiny", "suite_davit_tiny", "suite_mambaout_tiny", "ravlt_t", "moh_vit_s80")
    rows = []
    for name in names:
        row: dict[str, Any] = {"network": name}
        runs: dict[str, Callable[[], Any]] = {}
        for side in (224, 384, 512, 768, 1024):
            if side <= LARGEST.get(name, side):
                model = biformer(side) if name == "biformer_tiny" else network(name)
                if name.startswith("moh"):
                    model = network(name, img_size=side, pretrain_size=224)
                runs[str(side)] = quiet(partial(model, torch.randn(1, 3, side, side)))
        times = paired(runs, rounds=max(1, rounds // 3), clock=time.process_time)
        for side in (224, 384, 512, 768, 1024):
            key = str(side)
            if key not in times:
                row[key] = "not run"
            elif side == 224:
                row[key] = f"{times[key].median:.2f} s"
            else:
                row[key] = f"{times[key].over(times['224'])[0]:.1f}× (pixels {(side / 224) ** 2:.1f}×)"
        rows.append(row)
    return rows


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--part", choices=PARTS, action="append", help="which (default: all)")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    titles = {
        "biformer": ("BiFormer against the gather form", biformer_rows),
        "moh": ("MoH-ViT against its native form", moh_rows),
        "timm": ("DaViT and MambaOut against timm's", timm_rows),
        "enhancer": ("FeatEnHancer against the concatenating form", enhancer_rows),
        "sizes": ("One picture by its size", sizes_rows),
    }
    for part in given.part or PARTS:
        if part == "memory":
            show("Peak memory", memory_rows(given.threads), given.json)
            continue
        title, rows = titles[part]
        show(title, rows(given.rounds), given.json)


if __name__ == "__main__":
    main()
