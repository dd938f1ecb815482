"""Rows of benchmarks/gaze.py: drawing paths from OAT beside the published way, and MultiMatch beside multimatch-gaze."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from typing import Any

import numpy as np
import torch

from gaze.metrics.multimatch import multimatch_pairs
from gaze.model.batches import batch_scenes
from gaze.model.decoding import decode_greedily, sample_paths
from gaze.model.oat import OAT, OATConfig
from gaze.scenes.grids import equal_grid
from gaze.scenes.scene import Layout, Scene

SCREEN = (1680, 1050)


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def shelf() -> Scene:
    """84 objects with the published crops."""
    grid = equal_grid(6, 14, SCREEN)
    crops = np.random.default_rng(0).random((84, 3, 150, 93), np.float32)
    return Scene("shelf", SCREEN, [str(i) for i in range(84)], grid.boxes(), Layout.of_grid(grid), crops)


def published_step(model: OAT, batch: Any, path: list[int]) -> torch.Tensor:
    """The next choice as the published code computes it: crops, encoder and the whole prefix at every step, one path at a time."""
    stop = batch.valid.shape[1]
    read = torch.tensor([[stop + 2, *path]])
    return model(batch.embed(model), read)[0, -1, :-1]


def decoding(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Paths of 15 steps that never stop, over 84 objects, the published sizes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = OAT(OATConfig()).eval()
    model.optimise_table()
    batch = batch_scenes([shelf()], [3])
    samples, steps = 100, 15
    with torch.no_grad():
        # one step at each length of the prefix stands for all samples: every sample costs the same
        once = sum(seconds(lambda n=n: published_step(model, batch, list(range(n)))) for n in range(steps))
        drawn, greedy = [], []
        for _ in range(max(1, rounds // 2)):
            drawn.append(
                seconds(lambda: sample_paths(model, batch.embed(model), samples=samples, steps=steps, seeds=[0]))
            )
            greedy.append(seconds(lambda: decode_greedily(model, batch.embed(model), steps=steps)))
    rows = []
    for what, ours, theirs in (
        (f"{samples} samples", float(np.median(drawn)), once * samples),
        ("greedy path", float(np.median(greedy)), once),
    ):
        rows.append(
            {
                "what": f"{what}, {steps} steps, 84 objects",
                "ours, CPU": f"{ours:.2f} s",
                "model at every step": f"{theirs:.1f} s",
                "its time over ours": f"{theirs / ours:.0f}×",
            }
        )
    return rows


def drawn_path(rng: np.random.Generator, fixations: int) -> np.ndarray:
    return np.column_stack([rng.random((fixations, 2)) * SCREEN, 0.1 + rng.random(fixations)])


def as_record(path: np.ndarray) -> np.ndarray:
    """A path as multimatch-gaze takes it."""
    return np.array([tuple(row) for row in path], [("start_x", float), ("start_y", float), ("duration", float)])


def multimatch(threads: int, rounds: int) -> list[dict[str, Any]]:
    """One long pair, and all pairs of 200 paths (the peer on every hundredth of them), equal values."""
    try:
        multimatch_gaze = import_module("multimatch_gaze")
    except ModuleNotFoundError:
        raise SystemExit("the peer is missing: uv run --with multimatch-gaze python benchmarks/gaze.py") from None

    def theirs(first: np.ndarray, second: np.ndarray) -> list[float]:
        return multimatch_gaze.docomparison(as_record(first), as_record(second), screensize=list(SCREEN))

    rng = np.random.default_rng(0)
    first, second = drawn_path(rng, 90), drawn_path(rng, 90)
    np.testing.assert_allclose(multimatch_pairs([first], [second], SCREEN)[0], theirs(first, second))
    one_ours = [seconds(lambda: multimatch_pairs([first], [second], SCREEN)) for _ in range(rounds)]
    one_theirs = [seconds(lambda: theirs(first, second)) for _ in range(rounds)]

    paths = [drawn_path(rng, int(n)) for n in rng.integers(5, 25, 200)]
    pairs = list(combinations(range(len(paths)), 2))
    left, right = [paths[i] for i, _ in pairs], [paths[j] for _, j in pairs]
    some = pairs[::100]
    all_ours = [seconds(lambda: multimatch_pairs(left, right, SCREEN)) for _ in range(max(1, rounds // 2))]
    all_theirs = seconds(lambda: [theirs(paths[i], paths[j]) for i, j in some]) * len(pairs) / len(some)
    expected = [theirs(paths[i], paths[j]) for i, j in some]
    np.testing.assert_allclose(multimatch_pairs(left[::100], right[::100], SCREEN), expected)
    rows = []
    for what, ours, peer in (
        ("one pair of 90 × 90 fixations", float(np.median(one_ours)), float(np.median(one_theirs))),
        (f"all {len(pairs):,} pairs of 200 paths", float(np.median(all_ours)), all_theirs),
    ):
        rows.append(
            {
                "what": what,
                "ours, CPU": f"{ours * 1e3:.1f} ms",
                "multimatch-gaze": f"{peer * 1e3:.0f} ms",
                "its time over ours": f"{peer / ours:.1f}×",
            }
        )
    return rows


ROWS = {
    "decoding": (decoding, "100 samples ≥ 100×, greedy ≥ 5× the model at every step"),
    "multimatch": (multimatch, "one pair ≥ 8×, all pairs ≥ 20× multimatch-gaze (pip install multimatch-gaze)"),
}
