"""Action detection and video attention against their published forms: equal weights, equal outputs (checked first), one thread, alternating.

Parts: ``bmn`` (the boundary-matching layer and the whole network of ActivityNet's size, forward, and the making of the mask), ``memory`` (of the layer),
``nms`` (soft-NMS of 5,000 candidates), ``wan`` (a tiny Wan with VMoBA beside full attention at 16,384 tokens), ``growth`` (both to 65,536 tokens),
``hour`` (memory of ``actions predict`` on a minute and on an hour of made video).

Example: python benchmarks/video.py --part bmn --rounds 3
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [*(p for p in sys.path if p != HERE), HERE]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from measure import paired, parser, peak_memory, ratio, show, size  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from vision_models.actions.model.bmn import BMN  # noqa: E402
from vision_models.actions.model.cells import Cells, Sampling, dense_mask, sampling_matrix  # noqa: E402
from vision_models.actions.model.proposals import soft_nms  # noqa: E402

BENCH = f"""
import sys
sys.path.append({HERE!r})
import video as bench
import torch
"""
PARTS = ("bmn", "memory", "nms", "wan", "growth", "hour")


def quiet(run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return run()

    return call


def layer_input() -> Tensor:
    torch.manual_seed(0)
    return torch.relu(torch.randn(1, 256, 100))


def published_layer(model: BMN, x: Tensor, mask: Tensor) -> Tensor:
    """The published form: a matrix of all samples, then a convolution over bins, then the first over the map."""
    layer = model.matching
    sampled = (x @ mask).unflatten(2, (32, 100, 100))
    return layer.mix(torch.relu(F.conv3d(sampled, _published_weight(model), layer.bias)).squeeze(2))


@lru_cache(1)
def _published_weight(model: BMN) -> Tensor:
    """The weight of the convolution over bins in its published layout."""
    return model.matching.weight.detach().permute(2, 1, 0)[..., None, None].contiguous()


def published_network(model: BMN, x: Tensor, mask: Tensor) -> Tensor:
    """The map of the whole network by the published form."""
    features = model.encode(x)
    torch.sigmoid(model.start(features))
    torch.sigmoid(model.end(features))
    matched = torch.relu(published_layer(model, torch.relu(model.narrow(features)), mask))
    return torch.sigmoid(model.map(matched))


def published_mask(cells: Cells, sampling: Sampling) -> np.ndarray:
    """The mask as the published code makes it: three loops in Python."""
    steps, bins, points = cells.steps, sampling.bins, sampling.points
    matrix = []
    for end in range(steps):
        column = []
        for start in range(steps):
            vectors = np.zeros((steps, bins))
            if start <= end:
                length = float(end + 1 - start) + 1
                low, high = start - length * sampling.margin, end + 1 + length * sampling.margin
                gap = (high - low) / (bins * points - 1.0)
                samples = [low + gap * number for number in range(bins * points)]
                for number in range(bins):
                    vector = np.zeros(steps)
                    for sample in samples[number * points : (number + 1) * points]:
                        share, below = math.modf(sample)
                        above = math.ceil(sample)
                        if 0 <= int(below) <= steps - 1:
                            vector[int(below)] += 1 - share
                        if 0 <= int(above) <= steps - 1:
                            vector[int(above)] += share
                    vectors[:, number] = vector / points
            column.append(vectors)
        matrix.append(np.stack(column, 2))
    return np.stack(matrix, 3).astype(np.float32)


def bmn(rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = BMN().eval()
    cells, sampling = model.config.cells, model.config.sampling
    began = time.perf_counter()
    published = published_mask(cells, sampling)
    slow = time.perf_counter() - began
    fast = min(_seconds(lambda: sampling_matrix(cells, sampling)) for _ in range(rounds))
    mask = dense_mask(cells, sampling)
    assert np.abs(mask.numpy() - published.reshape(100, -1)).max() < 1e-6
    rows = [
        {
            "what": "mask, made",
            "published": f"{slow * 1e3:.0f} ms",
            "ours": f"{fast * 1e3:.0f} ms",
            "times faster": f"{slow / fast:.0f}",
        }
    ]
    x, features = layer_input(), torch.rand(1, 400, 100)
    with torch.inference_mode():
        torch.testing.assert_close(model.matching(x), published_layer(model, x, mask), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            model(features).confidence, published_network(model, features, mask), atol=1e-5, rtol=1e-4
        )
    pairs = {
        "layer, forward": (quiet(lambda: published_layer(model, x, mask)), quiet(lambda: model.matching(x))),
        "network, forward": (quiet(lambda: published_network(model, features, mask)), quiet(lambda: model(features))),
    }
    for name, (theirs, ours) in pairs.items():
        times = paired({"published": theirs, "ours": ours}, rounds=rounds)
        rows.append(
            {
                "what": name,
                "published": f"{times['published'].median * 1e3:.0f} ms",
                "ours": f"{times['ours'].median * 1e3:.0f} ms",
                "times faster": ratio(times["published"], times["ours"]),
            }
        )
    return rows


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def memory() -> list[dict[str, Any]]:
    """Peak memory of the layer, its constants included."""
    setup = BENCH + "torch.set_num_threads(1)\nmodel = bench.BMN().eval()\nx = bench.layer_input()\n"
    theirs = setup + "\n"
    with_mask = "mask = bench.dense_mask(model.config.cells, model.config.sampling)\n"
    run = {
        "published": with_mask + "bench.quiet(lambda: bench.published_layer(model, x, mask))()",
        "ours": "bench.quiet(lambda: model.matching(x))()",
    }
    peaks = {name: peak_memory(theirs, code) for name, code in run.items()}
    return [
        {
            "what": "layer",
            **{name: size(peak) for name, peak in peaks.items()},
            "share": f"{peaks['ours'] / peaks['published']:.3f}",
        }
    ]


def published_nms(
    segments: np.ndarray, scores: np.ndarray, alpha: float, low: float, high: float
) -> list[tuple[int, float]]:
    """As published: lists, and a loop over all candidates for each one taken."""
    starts, ends = segments[:, 0].tolist(), segments[:, 1].tolist()
    left, places = scores.tolist(), list(range(len(scores)))
    kept: list[tuple[int, float]] = []
    while len(left) > 1 and len(kept) < 101:
        best = left.index(max(left))
        common = np.maximum(np.minimum(ends, ends[best]) - np.maximum(starts, starts[best]), 0.0)
        union = np.array(ends) - np.array(starts) - common + ends[best] - starts[best]
        overlaps = common / union
        for other in range(len(left)):
            if other != best and overlaps[other] > low + (high - low) * (ends[best] - starts[best]):
                left[other] = left[other] * np.exp(-np.square(overlaps[other]) / alpha)
        kept.append((places[best], left[best]))
        for values in (starts, ends, left, places):
            values.pop(best)
    return kept


def nms(rounds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    segments, scores = np.sort(rng.random((5000, 2)), 1), rng.random(5000)
    kept, final = soft_nms(segments, scores)
    theirs = published_nms(segments, scores, 0.4, 0.5, 0.9)
    assert kept.tolist() == [place for place, _ in theirs]
    np.testing.assert_allclose(final, [score for _, score in theirs])
    forms = {
        "published": lambda: published_nms(segments, scores, 0.4, 0.5, 0.9),
        "ours": lambda: soft_nms(segments, scores),
    }
    times = paired(forms, rounds=rounds)
    return [
        {
            "what": "soft-NMS of 5,000",
            "published": f"{times['published'].median * 1e3:.0f} ms",
            "ours": f"{times['ours'].median * 1e3:.1f} ms",
            "times faster": ratio(times["published"], times["ours"]),
        }
    ]


def tiny_wan() -> nn.Module:
    """Three layers of two heads of 64: attention is most of its work."""
    from vision_models.video.model import need_diffusers

    torch.manual_seed(0)
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "ffn_dim": 256,
        "num_layers": 3,
        "text_dim": 8,
        "freq_dim": 32,
    }
    return need_diffusers().WanTransformer3DModel(in_channels=4, out_channels=4, rope_max_seq_len=256, **sizes).eval()


GRIDS = {4096: (16, 16, 16), 16384: (16, 32, 32), 32768: (32, 32, 32), 65536: (64, 32, 32)}


def wan_inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    time_, height, width = GRIDS[tokens]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, time_, 2 * height, 2 * width, generator=generator)
    return x, torch.tensor([500.0]), torch.zeros(1, 4, 8)


def wan(rounds: int, tokens: int = 16384) -> list[dict[str, Any]]:
    from vision_models.video.options import VMoBAOptions
    from vision_models.video.wan import apply_vmoba, attention_report

    full, ours = tiny_wan(), tiny_wan()
    inputs = wan_inputs(tokens)
    with torch.inference_mode():
        expected = full(*inputs, return_dict=False)[0]
        whole = apply_vmoba(ours, VMoBAOptions(tau=1.0))(*inputs, return_dict=False)[0]
        torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-3)
    apply_vmoba(ours)
    times = paired(
        {
            "full": quiet(lambda: full(*inputs, return_dict=False)),
            "vmoba": quiet(lambda: ours(*inputs, return_dict=False)),
        },
        rounds=rounds,
    )
    report = attention_report(ours, *inputs)
    return [
        {
            "tokens": f"{tokens:,}",
            "full": f"{times['full'].median:.2f} s",
            "vmoba": f"{times['vmoba'].median:.2f} s",
            "times faster": ratio(times["full"], times["vmoba"]),
            "density": f"{sum(row.density for row in report) / len(report):.3f}",
        }
    ]


def hour(minutes: tuple[int, ...] = (1, 60)) -> list[dict[str, Any]]:
    """Peak memory of the features of a made video, by its length; they are all that grows with it in `actions predict`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / f"{length}.mp4"
            _long_video(path, length * 60)
            setup = (
                "from pathlib import Path\nfrom vision_models.actions.backbones import BackboneOptions, build_backbone\n"
                "from vision_models.actions.snippets import extract\nbackbone = build_backbone(BackboneOptions(rate=2, frames=2))\n"
                f"extract(Path({folder!r}) / '{minutes[0]}.mp4', backbone, Path({folder!r}) / 'warm-{length}.npz')\n"
            )
            run = f"extract(Path({folder!r}) / '{length}.mp4', backbone, Path({folder!r}) / '{length}.npz')"
            rows.append({"minutes of video": length, "peak above the start": size(peak_memory(setup, run))})
    return rows


def _long_video(path: Path, seconds: int) -> None:
    from core_runtime.videos import write_video

    def frames() -> Any:
        image = np.zeros((48, 64, 3), np.uint8)
        for number in range(seconds * 4):
            image[:] = 40
            place = number % 50
            image[10:30, place : place + 12] = 200
            yield image

    write_video(path, frames(), 4, quality=30)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--part", choices=PARTS, action="append", help="which parts; default: bmn, memory, nms, wan")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    for part in given.part or ("bmn", "memory", "nms", "wan"):
        if part == "bmn":
            rows = bmn(given.rounds)
        elif part == "memory":
            rows = memory()
        elif part == "nms":
            rows = nms(given.rounds)
        elif part == "wan":
            rows = wan(given.rounds)
        elif part == "growth":
            rows = [row for tokens in GRIDS for row in wan(min(given.rounds, 2), tokens)]
        else:
            rows = hour()
        show(part, rows, given.json)


if __name__ == "__main__":
    main()
