"""medical-segmentation against plain definitions and MONAI, alternating in one run.

    uv run python benchmarks/medical.py network --side 256      # the whole self-guided network, PAM with and without its N×N array
    uv run python benchmarks/medical.py triplets                # the sampler against the loop over anchors
    uv run python benchmarks/medical.py volume --slices 300     # streamed windows against MONAI's, memory and time
    uv run python benchmarks/medical.py overfit IMAGE LABELS    # crops of one volume, to a Dice above 0.95

A memory figure is the peak of a fresh process minus what it held once input and weights existed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def held() -> float:
    """Megabytes that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak() -> float:
    """The most that it ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def spread(values: list[float]) -> list[float]:
    """Median, least and greatest."""
    return [statistics.median(values), min(values), max(values)]


def child(verb: str, options: argparse.Namespace, kind: str, result: Path, *names: str) -> dict[str, float]:
    """What a fresh process measures; what it computes, it leaves at `result`."""
    command = [sys.executable, __file__, verb, "--only", kind, "--result", str(result)]
    for name in names:
        command += [f"--{name}", str(getattr(options, name))]
    return json.loads(subprocess.check_output(command))


def ratio(slow: Callable[[], object], fast: Callable[[], object], repeats: int, *, calls: int = 20) -> list[float]:
    """How many times longer the first takes, median and range of alternating rounds, in processor time.

    Args:
        calls: of the fast one in a round: one alone would be over before the clock is read well.
    """
    ratios = []
    for _ in range(repeats):
        began = time.process_time()
        slow()
        middle = time.process_time()
        for _ in range(calls):
            fast()
        ratios.append((middle - began) / (time.process_time() - middle) * calls)
    return spread(ratios)


def plain_position_attention(q, k, v):
    """``v softmax(qᵀ k)ᵀ`` with its whole array."""
    weights = torch.softmax(q.flatten(2).mT @ k.flatten(2), 2)
    return (v.flatten(2) @ weights.mT).view(v.shape)


def network(options: argparse.Namespace) -> dict[str, Any]:
    """Each form of PAM in fresh processes, in turn: outputs, peak memory, processor time."""
    with tempfile.TemporaryDirectory() as folder:
        rounds: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
        for _ in range(options.repeats):
            for kind, measured in rounds.items():
                measured.append(child("network", options, kind, Path(folder) / kind, "side", "backbone"))
        outputs = {kind: torch.load(Path(folder) / kind) for kind in rounds}
    pairs = list(zip(rounds["plain"], rounds["ours"], strict=True))
    return {
        "side": options.side,
        "backbone": options.backbone,
        "outputs differ by": float((outputs["plain"] - outputs["ours"]).abs().max()),
        "time, N×N / ours": spread([plain["seconds"] / ours["seconds"] for plain, ours in pairs]),
        "memory, ours / N×N": spread([ours["megabytes"] / plain["megabytes"] for plain, ours in pairs]),
        "rounds": rounds,
    }


def network_child(options: argparse.Namespace) -> dict[str, float]:
    from core_attention.mechanisms.msdual import dual
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig

    torch.manual_seed(0)
    net: Any = GuidedAttentionNet(GuidedConfig(backbone=options.backbone)).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    x = torch.rand(1, 1, options.side, options.side)
    if options.only == "plain":
        dual.position_attention = plain_position_attention
    with torch.inference_mode():
        net(torch.rand(1, 1, 32, 32))
        before = held()
        began = time.process_time()
        output = net(x)
        seconds = time.process_time() - began
    measured = {"megabytes": peak() - before, "seconds": seconds}
    torch.save(output, options.result)
    return measured


def triplets(options: argparse.Namespace) -> dict[str, Any]:
    import torch.nn.functional as F

    from medical_segmentation.similar.model.margin import distance, pairwise_distances, sample_triplets

    x = F.normalize(torch.randn(options.batch, 128), dim=1)
    labels = torch.arange(options.batch) // 8

    def loop():
        """The published way: anchor by anchor, lists of numbers."""
        d = pairwise_distances(x)
        same = (labels[:, None] == labels[None]) & ~torch.eye(len(x), dtype=torch.bool)
        count = int(same.sum()) // len(x)
        anchors, positives, negatives = [], [], []
        for i in range(len(x)):
            far = d[i] + 1e6 * (same[i] | (d[i] < 0.5))
            mask = torch.zeros(len(x))
            mask[far.topk(count, largest=False).indices] = 1
            near = same[i].nonzero().flatten().tolist()
            others = mask.nonzero().flatten().tolist()
            for place in range(min(count, len(near), len(others))):
                anchors.append(i)
                positives.append(near[place])
                negatives.append(others[place])
        losses = []
        for a, p, n in zip(anchors, positives, negatives, strict=True):
            losses.append(distance(x[a][None], x[p][None]) - distance(x[a][None], x[n][None]))
        return torch.tensor(anchors), torch.tensor(positives), torch.tensor(negatives), torch.stack(losses)

    def ours():
        found = sample_triplets(x, labels)
        anchors = x.index_select(0, found.anchor)
        near = distance(anchors, x.index_select(0, found.positive))
        far = distance(anchors, x.index_select(0, found.negative))
        return (*found, near - far)

    same = all(torch.equal(a, b) for a, b in zip(loop()[:3], ours()[:3], strict=True))
    return {"batch": options.batch, "same triplets": same, "time, loop / ours": ratio(loop, ours, options.repeats)}


def volume(options: argparse.Namespace) -> dict[str, Any]:
    """Windows of 96³ over a volume, arg-maxed as they come or after all scores are there, each in a fresh process."""
    import numpy as np

    measured, labels = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("ours",) if options.ours else ("ours", "monai"):
            place = Path(folder) / kind
            measured[kind] = child("volume", options, kind, place, "slices", "side", "classes")
            with np.load(place.with_suffix(".npz")) as saved:
                labels[kind] = dict(saved)
    result: dict[str, Any] = {"slices": options.slices, "side": options.side, "classes": options.classes, **measured}
    if not options.ours:
        differ = labels["ours"]["labels"] != labels["monai"]["labels"]
        result["labels that differ"] = int(differ.sum())
        result["of those, where MONAI's two best scores are 1e-5 or more apart"] = int(
            (differ & ~labels["monai"]["close"]).sum()
        )
        result["time, ours / MONAI"] = measured["ours"]["seconds"] / measured["monai"]["seconds"]
    return result


def volume_child(options: argparse.Namespace) -> dict[str, float]:
    import numpy as np

    from medical_segmentation.organs.model.networks import quiet_monai
    from medical_segmentation.organs.model.streaming import answer, window_scores

    torch.manual_seed(0)
    size = (options.side, options.side, options.slices)
    image = torch.randn(1, *size)
    head = torch.nn.Conv3d(1, options.classes, 3, padding=1).eval()
    window = (96, 96, 96)
    close = np.zeros(size, bool)
    with torch.inference_mode(), quiet_monai():
        from monai.inferers.utils import sliding_window_inference

        head(torch.zeros(1, 1, 16, 16, 16))
        before = held()
        began = time.process_time()
        if options.only == "ours":
            slabs = window_scores(head, image, window, overlap=0.25, batch=1)
            labels = answer(slabs, size, options.slices, probabilities=True).labels
        else:
            scores: Any = sliding_window_inference(image[None], window, 1, head, overlap=0.25, mode="gaussian")
            labels = scores.argmax(1)[0].to(torch.uint8).numpy()
        measured = {"gigabytes": (peak() - before) / 1e3, "seconds": time.process_time() - began}
        if options.only == "monai":
            for x in range(size[0]):
                best = scores[0, :, x].topk(2, dim=0).values
                close[x] = (best[0] - best[1] < 1e-5).numpy()
    np.savez(Path(options.result).with_suffix(".npz"), labels=labels, close=close)
    return measured


def overfit(options: argparse.Namespace) -> dict[str, Any]:
    """Trains on crops of one volume until it knows them by heart."""
    import numpy as np

    from medical_segmentation.organs.metrics.overlap import dice
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig, initialise
    from medical_segmentation.organs.model.losses import guided_losses
    from medical_segmentation.organs.training.module import settle_norms
    from medical_segmentation.volumes.opening import open_volume, read_labels

    image = open_volume(options.image)
    labels, _ = read_labels(options.labels, image)
    values = image.array.astype(np.float32)
    low, high = np.percentile(values, [2, 99.5])
    values = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    crop = options.crop
    busiest = np.argsort((labels > 0).sum((0, 1)))[-4:]
    rows, columns = (np.flatnonzero((labels > 0).any(axis)) for axis in ((1, 2), (0, 2)))
    corner = [
        int(np.clip((ends[0] + ends[-1] - crop) // 2, 0, max(side - crop, 0)))
        for ends, side in ((rows, values.shape[0]), (columns, values.shape[1]))
    ]
    box = (slice(corner[0], corner[0] + crop), slice(corner[1], corner[1] + crop))
    x = torch.from_numpy(np.stack([values[..., k][box] for k in busiest]))[:, None]
    y = torch.from_numpy(np.stack([labels[..., k][box] for k in busiest]).astype(np.int64))
    result: dict[str, Any] = {
        "crop": list(x.shape),
        "share of the organ": float(y.float().mean()),
        "Dice of a full mask": dice(np.ones(y.shape, bool), y.numpy() == 1),
        "Dice after steps": {},
    }
    torch.manual_seed(0)
    net: Any = GuidedAttentionNet(GuidedConfig(n_classes=2, backbone=options.backbone, width=16)).train()
    initialise(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.9, 0.99))
    for step in range(options.steps):
        loss = guided_losses(net(x), y).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 9:
            settle_norms(net, [x])  # as training does before each validation
            net.eval()
            with torch.no_grad():
                score = dice(net(x).argmax(1).numpy() == 1, y.numpy() == 1)
            net.train()
            result["Dice after steps"][step + 1] = score
            print(f"step {step + 1}: loss {loss.item():.3f}, Dice in evaluation {score:.3f}", file=sys.stderr)
            if score > 0.95:
                break
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for function in (network, triplets, volume, overfit):
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(function=function)
        verb.add_argument("--repeats", type=int, default=3)
        verb.add_argument("--side", type=int, default=512 if function is volume else 256)
        verb.add_argument("--backbone", default="resnext101_32x8d" if function is network else "test_resnet")
        verb.add_argument("--json", type=Path, help="also write the figures here")
        # how a verb starts itself as a fresh process
        verb.add_argument("--only", default="", help=argparse.SUPPRESS)
        verb.add_argument("--result", default="", help=argparse.SUPPRESS)
        if function is triplets:
            verb.add_argument("--batch", type=int, default=128)
        if function is volume:
            verb.add_argument("--slices", type=int, default=300)
            verb.add_argument("--classes", type=int, default=25)
            verb.add_argument("--ours", action="store_true", help="without MONAI, which keeps every score")
        if function is overfit:
            verb.add_argument("image", type=Path)
            verb.add_argument("labels", type=Path)
            verb.add_argument("--steps", type=int, default=150)
            verb.add_argument("--crop", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    children = {network: network_child, volume: volume_child}
    function = children[options.function] if options.only else options.function
    text = json.dumps(function(options), indent=None if options.only else 1, ensure_ascii=False)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
