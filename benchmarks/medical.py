"""medical-segmentation against plain definitions and MONAI, alternating in one run.

    uv run python benchmarks/medical.py network --side 256      # the whole self-guided network, PAM with and without its N×N array
    uv run python benchmarks/medical.py triplets                # the sampler against the loop over anchors
    uv run python benchmarks/medical.py volume --slices 300     # streamed windows against MONAI's, memory and time
    uv run python benchmarks/medical.py retrieval DATA.npz      # subspace learners, one learner, cross entropy, raw pixels
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


def ratio(slow: Callable[[], object], fast: Callable[[], object], repeats: int) -> str:
    """How many times longer the first takes, median and spread of alternating pairs, in processor time."""
    ratios = []
    for _ in range(repeats):
        began = time.process_time()
        slow()
        middle = time.process_time()
        fast()
        ratios.append((middle - began) / (time.process_time() - middle))
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def plain_position_attention(q, k, v):
    """``v softmax(qᵀ k)ᵀ`` with its whole array."""
    weights = torch.softmax(q.flatten(2).mT @ k.flatten(2), 2)
    return (v.flatten(2) @ weights.mT).view(v.shape)


def network(options: argparse.Namespace) -> None:
    from core_attention.mechanisms.msdual import dual
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig

    torch.manual_seed(0)
    net: Any = GuidedAttentionNet(GuidedConfig(backbone=options.backbone)).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    x = torch.rand(1, 1, options.side, options.side)
    fused = dual.position_attention

    def run(attention) -> torch.Tensor:
        dual.position_attention = attention
        with torch.inference_mode():
            return net(x)

    if options.only:
        with torch.inference_mode():
            net(torch.rand(1, 1, 32, 32))
        before = held()
        run(plain_position_attention if options.only == "plain" else fused)
        print(json.dumps({"megabytes": peak() - before}))
        return
    same = float((run(plain_position_attention) - run(fused)).abs().max())
    print(
        f"outputs differ by {same:.2g}; time of the definition / ours: {ratio(lambda: run(plain_position_attention), lambda: run(fused), options.repeats)}"
    )
    for kind in ("plain", "ours"):
        command = [
            sys.executable,
            __file__,
            "network",
            "--side",
            str(options.side),
            "--backbone",
            options.backbone,
            "--only",
            kind,
        ]
        print(kind, "peak beyond input and weights:", json.loads(subprocess.check_output(command))["megabytes"], "MB")


def triplets(options: argparse.Namespace) -> None:
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
        return (*found, distance(x[found.anchor], x[found.positive]) - distance(x[found.anchor], x[found.negative]))

    same = all(torch.equal(a, b) for a, b in zip(loop()[:3], ours()[:3], strict=True))
    print(f"batch {options.batch}: same triplets {same}; time of the loop / ours: {ratio(loop, ours, options.repeats)}")


def volume(options: argparse.Namespace) -> None:
    from medical_segmentation.organs.model.networks import quiet_monai
    from medical_segmentation.organs.model.streaming import answer, window_scores

    torch.manual_seed(0)
    side = options.side
    image = torch.randn(1, side, side, options.slices)
    head = torch.nn.Conv3d(1, options.classes, 3, padding=1).eval()

    @torch.inference_mode()
    def predictor(x):
        return head(x)

    window = (96, 96, 96)

    def ours():
        slabs = window_scores(predictor, image, window, overlap=0.25, batch=1)
        return answer(slabs, (side, side, options.slices), options.slices, probabilities=True).labels

    def theirs():
        with quiet_monai():
            from monai.inferers.utils import sliding_window_inference
        with torch.inference_mode():
            scores: Any = sliding_window_inference(image[None], window, 1, predictor, overlap=0.25, mode="gaussian")
            return scores.argmax(1)[0].to(torch.uint8).numpy()

    if options.only:
        predictor(torch.zeros(1, 1, 16, 16, 16))
        with quiet_monai():
            import monai.inferers.utils  # noqa: F401
        before = held()
        began = time.process_time()
        labels = {"ours": ours, "monai": theirs}[options.only]()
        seconds = time.process_time() - began
        print(
            json.dumps(
                {"gigabytes": (peak() - before) / 1e3, "seconds": seconds, "sum": int(labels.astype("int64").sum())}
            )
        )
        return
    for kind in ("ours", "monai") if not options.ours else ("ours",):
        command = [
            sys.executable,
            __file__,
            "volume",
            "--slices",
            str(options.slices),
            "--side",
            str(side),
            "--classes",
            str(options.classes),
            "--only",
            kind,
        ]
        print(kind, subprocess.check_output(command).decode().strip())
    if options.compare:
        differ = ours() != theirs()
        print(f"labels differ in {int(differ.sum())} of {differ.size} voxels")


def retrieval(options: argparse.Namespace) -> None:
    import tempfile

    from core_runtime.options import RunOptions
    from medical_segmentation.similar.commands.evaluate import evaluate
    from medical_segmentation.similar.commands.train import train
    from medical_segmentation.similar.options import EmbeddingOptions, Recipe
    from medical_segmentation.similar.results import judgement_lines

    embedding = EmbeddingOptions(backbone=options.backbone, size=64, image_size=options.image_size, train_norms=True)
    recipes = {
        "dynamic learners": Recipe(epochs=options.epochs, lr=1e-3, patience=4),
        "one learner": Recipe(epochs=options.epochs, lr=1e-3, dynamic=False),
        "cross entropy": Recipe(epochs=options.epochs, lr=1e-3, loss="cross-entropy", dynamic=False),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in recipes.items():
            run = Path(folder) / name.replace(" ", "-")
            trained = train(
                options.data, embedding=embedding, recipe=recipe, run=RunOptions(out=run, device="cpu", threads=1)
            )
            judged = evaluate(options.data, model=str(trained.model), out=run / "evaluation", device="cpu")
            points = "penultimate features" if recipe.loss == "cross-entropy" else "embedding"
            print(judgement_lines(f"{name} ({len(trained.values['learners'])})", judged.measures[points]), flush=True)
        print(judgement_lines("raw pixels", judged.measures["raw pixels"]))


def overfit(options: argparse.Namespace) -> None:
    """Trains on crops of one volume until it knows them by heart."""
    import numpy as np

    from medical_segmentation.organs.metrics.overlap import dice
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig, initialise
    from medical_segmentation.organs.model.losses import guided_losses
    from medical_segmentation.volumes.opening import open_volume, read_labels

    image = open_volume(options.image)
    labels, _ = read_labels(options.labels, image)
    values = image.array.astype(np.float32)
    low, high = np.percentile(values, [2, 99.5])
    values = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    busiest = np.argsort((labels > 0).sum((0, 1)))[-4:]
    rows, columns = (np.flatnonzero((labels > 0).any(axis)) for axis in ((1, 2), (0, 2)))
    corner = [
        int(np.clip((ends[0] + ends[-1]) // 2 - 64, 0, max(side - 128, 0)))
        for ends, side in ((rows, values.shape[0]), (columns, values.shape[1]))
    ]
    box = (slice(corner[0], corner[0] + 128), slice(corner[1], corner[1] + 128))
    x = torch.from_numpy(np.stack([values[..., k][box] for k in busiest]))[:, None]
    y = torch.from_numpy(np.stack([labels[..., k][box] for k in busiest]).astype(np.int64))
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
            net.eval()
            with torch.inference_mode():
                score = dice(net(x).argmax(1).numpy() == 1, y.numpy() == 1)
            net.train()
            print(f"step {step + 1}: loss {loss.item():.3f}, Dice in evaluation {score:.3f}", flush=True)
            if score > 0.95:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for function in (network, triplets, volume, retrieval, overfit):
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(function=function)
        verb.add_argument("--repeats", type=int, default=3)
        verb.add_argument("--side", type=int, default=512 if function is volume else 256)
        verb.add_argument("--backbone", default="resnext101_32x8d" if function is network else "test_resnet")
        verb.add_argument("--only", default="")
        if function is triplets:
            verb.add_argument("--batch", type=int, default=128)
        if function is volume:
            verb.add_argument("--slices", type=int, default=300)
            verb.add_argument("--classes", type=int, default=25)
            verb.add_argument("--ours", action="store_true")
            verb.add_argument("--compare", action="store_true")
        if function is retrieval:
            verb.add_argument("data", type=Path)
            verb.add_argument("--epochs", type=int, default=20)
            verb.add_argument("--image-size", type=int, default=32)
        if function is overfit:
            verb.add_argument("image", type=Path)
            verb.add_argument("labels", type=Path)
            verb.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.function(options)


if __name__ == "__main__":
    main()
