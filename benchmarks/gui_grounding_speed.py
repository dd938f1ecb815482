"""Rows of benchmarks/gui_grounding.py: labels and regions against their direct definitions, one pass against two, shared screens, the head.

Times are CPU times of one process, medians over paired rounds; every row first checks that both ways give the same.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import norm

from gui_grounding.model.folder import Loaded, Prepared
from gui_grounding.model.head import PointerHead, scores_of
from gui_grounding.model.inference import Grounder
from gui_grounding.model.labels import multi_patch_labels
from gui_grounding.model.regions import find_regions
from gui_grounding.model.tiny import TinySizes, tiny_model
from gui_grounding.model.tokens import ANSWERS


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def row(what: str, ours: list[float], theirs: list[float], **more: str) -> dict[str, str]:
    """A row of the table: medians and the median of paired ratios with its range."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    ratio = float(np.median(ratios))
    return {
        "what": what,
        "ours": f"{np.median(ours) * 1e3:.3g} ms",
        "the direct way": f"{np.median(theirs) * 1e3:.4g} ms",
        "its time over ours": f"{ratio:.3g}× ({ratios[0]:.3g} to {ratios[-1]:.3g})",
        **more,
    }


def direct_labels(box: tuple[float, ...], width: int, height: int) -> np.ndarray:
    """The definition of the Gaussian labels: a normal distribution's CDF at the edges of every cell, one cell after the other."""
    x1, y1, x2, y2 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    labels = np.zeros((height // 28, width // 28))
    for line in range(height // 28):
        for column in range(width // 28):
            ax, bx = max(column * 28, x1), min(column * 28 + 28, x2)
            ay, by = max(line * 28, y1), min(line * 28 + 28, y2)
            if ax < bx and ay < by:
                across = norm.cdf(bx, (x1 + x2) / 2, x2 - x1) - norm.cdf(ax, (x1 + x2) / 2, x2 - x1)
                down = norm.cdf(by, (y1 + y2) / 2, y2 - y1) - norm.cdf(ay, (y1 + y2) / 2, y2 - y1)
                labels[line, column] = across * down
    return labels.ravel()


def labels(args: Namespace) -> list[dict[str, str]]:
    torch.set_num_threads(args.threads)
    rows = []
    for what, box in (
        ("a box of a quarter of each side", (0.3, 0.3, 0.55, 0.55)),
        ("the whole window", (0.0, 0.0, 1.0, 1.0)),
    ):
        tensor = torch.tensor([box], dtype=torch.float64)
        width, height = 1932, 1092  # 1920 × 1080 resized
        expected = direct_labels(box, width, height)
        np.testing.assert_allclose(multi_patch_labels(tensor, width, height)[0], expected, rtol=1e-5, atol=1e-7)
        ours = [
            seconds(lambda t=tensor: [multi_patch_labels(t, 1932, 1092) for _ in range(200)]) / 200
            for _ in range(args.rounds)
        ]
        theirs = [seconds(lambda b=box: direct_labels(b, 1932, 1092)) for _ in range(args.rounds)]
        rows.append(row(f"1920 × 1080, {what}", ours, theirs))
    return rows


def direct_regions(scores: np.ndarray, columns: int, rows: int) -> list[tuple[float, float, float]]:
    """The definition: search from each active cell through a list of the active ones, cell by cell."""
    limit = 0.3 * scores.max()
    active = [int(cell) for cell in np.flatnonzero(scores > limit)]
    left = list(active)
    found = []
    while left:
        queue = deque([left.pop(0)])
        region = []
        while queue:
            cell = queue.popleft()
            region.append(cell)
            y, x = divmod(cell, columns)
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                near = ny * columns + nx
                if 0 <= ny < rows and 0 <= nx < columns and near in left:
                    left.remove(near)
                    queue.append(near)
        weights = [float(scores[cell]) for cell in region]
        x = sum(w * (cell % columns + 0.5) / columns for w, cell in zip(weights, region, strict=True)) / sum(weights)
        y = sum(w * (cell // columns + 0.5) / rows for w, cell in zip(weights, region, strict=True)) / sum(weights)
        found.append((max(weights), x, y))
    return sorted(found, reverse=True)


def regions(args: Namespace) -> list[dict[str, str]]:
    columns, rows = 96, 76  # 7,296 cells
    rng = np.random.default_rng(0)
    made = []
    for what, blobs, size in (("one window lit", 1, 38), ("forty elements lit", 40, 5)):
        grid = rng.random((rows, columns)) * 0.1
        for _ in range(blobs):
            y, x = rng.integers(0, rows - size), rng.integers(0, columns - size)
            grid[y : y + size, x : x + size] = 0.5 + rng.random((size, size)) / 2
        scores = (grid / grid.sum()).ravel()
        ours_found = find_regions(scores, columns, rows)
        np.testing.assert_allclose(
            [(r.score, r.x, r.y) for r in ours_found], direct_regions(scores, columns, rows), rtol=1e-6
        )
        active = int((scores > 0.3 * scores.max()).sum())
        ours = [seconds(lambda s=scores: [find_regions(s, 96, 76) for _ in range(20)]) / 20 for _ in range(args.rounds)]
        theirs = [seconds(lambda s=scores: direct_regions(s, 96, 76)) for _ in range(args.rounds)]
        made.append(row(f"7,296 cells, {active} active, {what}", ours, theirs))
    return made


def grounder_of(sizes: TinySizes) -> Grounder:
    network, tokens = tiny_model(["click the red button", *ANSWERS.values()], sizes=sizes)
    return Grounder(Loaded(network, tokens, Prepared(), {}))


SIZES = {
    "tiny (width 64, 2 + 2 layers)": TinySizes(),
    "mid-sized (width 256, 6 + 6 layers)": TinySizes(width=256, layers=6, vision_width=256, vision_layers=6),
}


def screen() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (448, 672, 3), np.uint8))  # 384 cells


@torch.inference_mode()
def two_passes(grounder: Grounder, instruction: str) -> torch.Tensor:
    """The published way: a prefill with the hidden states of every layer, and the vision tower a second time for the head."""
    network = grounder.network
    encoded = grounder.encode(screen(), cached=False)
    patches = encoded.patches
    ids = torch.tensor([[*encoded.shared, *grounder._prompt(encoded, instruction, ANSWERS["click"]).question]])
    output = network.backbone(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=patches.values,
        image_grid_thw=patches.grid,
        mm_token_type_ids=(ids == network.image_token).int(),
        output_hidden_states=True,
    )
    query = output.hidden_states[-1][0, ids[0] == network.config.pointer_pad]
    return scores_of(network.head(encoded.screen.embeddings, query))


def prefill(args: Namespace) -> list[dict[str, str]]:
    torch.set_num_threads(args.threads)
    rows = []
    question = "click the red button"
    for name, sizes in SIZES.items():
        grounder = grounder_of(sizes)
        # `encode` of the two-pass way is its second run of the vision tower and the head's K', each once as published
        ours_scores = torch.from_numpy(grounder.ground(screen(), [question])[0].scores[0]).flatten()
        torch.testing.assert_close(two_passes(grounder, question)[0], ours_scores, rtol=1e-3, atol=1e-6)
        patches = grounder.encode(screen(), cached=False).patches
        tower = lambda g=grounder, p=patches: g.network.encode_images(p.values, p.grid)  # noqa: E731
        ours, theirs, towers = [], [], []
        for _ in range(args.rounds):
            with torch.inference_mode():
                ours.append(seconds(lambda g=grounder: g.ground(screen(), [question])))
                theirs.append(seconds(lambda g=grounder: two_passes(g, question)))
                towers.append(seconds(tower))
        share = f"{np.median(towers) / np.median(ours):.0%}"
        rows.append(row(f"{name}, 384 cells", ours, theirs, **{"vision tower's share of ours": share}))
    return rows


def many(args: Namespace) -> list[dict[str, str]]:
    torch.set_num_threads(args.threads)
    questions = [f"click the red button number {number}" for number in range(20)]
    rows = []
    for name, sizes in SIZES.items():
        grounder = grounder_of(sizes)
        shared = grounder.ground(screen(), questions)
        for question, grounding in zip(questions[:3], shared, strict=False):
            alone = grounder.ground(screen(), [question])[0]
            np.testing.assert_allclose(grounding.scores[0], alone.scores[0], rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(grounding.positions[0].normalised, alone.positions[0].normalised, atol=1e-4)
        ours, theirs = [], []
        for _ in range(max(1, args.rounds // 2)):
            ours.append(seconds(lambda g=grounder: g.ground(screen(), questions)))
            theirs.append(seconds(lambda g=grounder: [g.ground(screen(), [question]) for question in questions]))
        rows.append(row(f"{name}, 20 instructions on one screen", ours, theirs))
    return rows


def head(args: Namespace) -> list[dict[str, str]]:
    """Self-attention of the head with and without a materialised matrix of weights."""
    torch.set_num_threads(args.threads)
    width, cells = 512, 2048
    torch.manual_seed(0)
    ours_head = PointerHead(width).eval()
    materialised = torch.nn.MultiheadAttention(width, 8, batch_first=True).eval()
    materialised.in_proj_weight.data, materialised.in_proj_bias.data = (
        ours_head.project.weight.data,
        ours_head.project.bias.data,
    )
    materialised.out_proj.load_state_dict(ours_head.output.state_dict())
    visual = torch.randn(cells, width)

    def with_weights() -> torch.Tensor:
        mixed, _ = materialised(visual[None], visual[None], visual[None], need_weights=True)
        return ours_head.encode_keys(ours_head.norm(visual + mixed[0]))

    with torch.inference_mode():
        torch.testing.assert_close(ours_head.keys(visual), with_weights(), rtol=1e-4, atol=1e-5)
        ours = [seconds(lambda: ours_head.keys(visual)) for _ in range(args.rounds)]
        theirs = [seconds(with_weights) for _ in range(args.rounds)]
    return [row(f"K' of {cells} cells, width {width}", ours, theirs)]


ROWS = {
    "labels": (labels, "≥ 100× the direct definition"),
    "regions": (regions, "≥ 50× the direct definition"),
    "prefill": (prefill, "one pass ≥ 1.5× the published two-pass way at equal points"),
    "many": (many, "20 instructions on one screen ≥ 5× one at a time at equal points"),
    "head": (head, "SDPA against materialised weights"),
}
