"""Class scores of a whole volume, slab by slab, resampled to the file's grid and arg-maxed as they come.

Never is there more than one slab of scores in memory: the windows that overlap along the depth, times the classes. A volume of twice the
length takes twice the time and the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

ROWS = 16  # weighted and classified at a time: what argmax makes is eight times as large as a label

Predictor = Callable[[Tensor], Tensor]


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows begin: steps of ``window · (1 − overlap)``, the last one moved back into the volume."""
    if side <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = -(-(side - window) // step) + 1
    return [min(i * step, side - window) for i in range(count)]


def importance(window: Sequence[int], *, sigma: float = 0.125) -> Float[Tensor, "..."]:
    """A Gaussian of deviation ``sigma · side`` about the middle of a window, and never less than 0.001 (MONAI's weights)."""
    weight = torch.ones(1)
    for side in window:
        x = torch.arange(-(side - 1) / 2, (side - 1) / 2 + 1, dtype=torch.float32)
        profile = torch.exp(x**2 / (-2 * (sigma * side) ** 2))
        weight = weight.unsqueeze(-1) * profile
    weight = weight[0]
    return weight.clamp(min=max(float(weight[weight > 0].min()), 1e-3))


def window_scores(
    predictor: Predictor,
    image: NDArray[np.float32] | Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.25,
    batch: int = 4,
    device: str = "cpu",
) -> Iterator[tuple[int, Float[Tensor, "k a b d"]]]:
    """Weighted means of the scores of overlapping windows, in slabs that follow each other along the last axis.

    Args:
        predictor: windows (b, c, a, b, d) → scores (b, k, a, b, d).
        image: (channels, a, b, depth).
        window: sides; a smaller volume is padded with its least value.
        overlap: share of a window that its neighbours cover.
        batch: windows at a time.

    Yields:
        (first slice, scores of the slab); the tensor is used again for the next slab.
    """
    volume = torch.as_tensor(image)
    sides = tuple(volume.shape[1:])
    padded = [max(0, w - s) for w, s in zip(window, sides, strict=True)]
    if any(padded):
        amounts = [amount for pad in reversed(padded) for amount in (pad // 2, pad - pad // 2)]
        volume = F.pad(volume, amounts, value=float(volume.min()))
    offset = [pad // 2 for pad in padded]
    full = tuple(volume.shape[1:])
    weight = importance(window)
    places = [starts(side, w, overlap) for side, w in zip(full, window, strict=True)]
    slab: Tensor | None = None
    for number, z in enumerate(places[2]):
        corners = [(x, y) for x in places[0] for y in places[1]]
        for begin in range(0, len(corners), batch):
            part = corners[begin : begin + batch]
            windows = torch.stack([volume[:, x : x + window[0], y : y + window[1], z : z + window[2]] for x, y in part])
            scores = predictor(windows.to(device)).float().cpu()
            if slab is None:
                slab = torch.zeros(scores.shape[1], full[0], full[1], window[2])
            for (x, y), each in zip(part, scores, strict=True):
                # one pass over memory; the scores themselves stay as they are, for predictors may work under inference mode
                slab[:, x : x + window[0], y : y + window[1]].addcmul_(each, weight)
            del windows, scores
        assert slab is not None
        # what no later window reaches is final
        following = places[2][number + 1] if number + 1 < len(places[2]) else z + window[2]
        done = following - z
        final = slab[..., :done]
        for begin in range(0, full[0], ROWS):
            rows = range(begin, min(begin + ROWS, full[0]))
            final[:, rows.start : rows.stop].div_(total_weight(weight, places, rows, range(z, following), full[1]))
        first, last = max(z, offset[2]), min(following, offset[2] + sides[2])
        if last > first:
            yield (
                first - offset[2],
                final[:, offset[0] : offset[0] + sides[0], offset[1] : offset[1] + sides[1], first - z : last - z],
            )
        for scores in slab:
            move_to_front(scores, done)


def total_weight(
    weight: Float[Tensor, "a b d"], places: Sequence[Sequence[int]], rows: range, depth: range, columns: int
) -> Float[Tensor, "r c z"]:
    """Sum of the weights of all windows over a block of voxels, made when it is needed: for a whole slab it would take a class's share of memory."""
    total = torch.zeros(len(rows), columns, len(depth))
    height, width, thickness = weight.shape
    for z in places[2]:
        front, back = max(z, depth.start), min(z + thickness, depth.stop)
        for x in places[0]:
            top, bottom = max(x, rows.start), min(x + height, rows.stop)
            if front >= back or top >= bottom:
                continue
            part = weight[top - x : bottom - x, :, front - z : back - z]
            for y in places[1]:
                total[
                    top - rows.start : bottom - rows.start, y : y + width, front - depth.start : back - depth.start
                ] += part
    return total


def move_to_front(scores: Float[Tensor, "a b d"], done: int) -> None:
    """Drops the first slices, moves what later windows add to into their place, and clears the rest.

    Class by class: what is copied on the way is then one class's share of the slab. In pieces no longer than the distance, for source and target overlap.
    """
    keep = scores.shape[2] - done
    for begin in range(0, keep, done):
        stop = min(begin + done, keep)
        scores[..., begin:stop] = scores[..., begin + done : stop + done].clone()
    scores[..., keep:] = 0


@dataclass
class Answer:
    """What is kept of the scores, on the file's grid in the network's order of axes.

    Attributes:
        labels: the class of the greatest score.
        confidence: its probability; None unless asked for.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.float16] | None


def answer(
    slabs: Iterator[tuple[int, Float[Tensor, "k a b d"]]],
    size: Sequence[int],
    depth: int,
    *,
    confidence: bool = False,
    probabilities: bool = False,
) -> Answer:
    """Resamples scores to other sides where these differ, and keeps the class of the greatest.

    Args:
        slabs: scores in order along the last axis, as `window_scores` gives them.
        size: sides of the answer.
        depth: slices that the slabs hold in all.
        confidence: keep the probability of the class as well.
        probabilities: the scores are probabilities already.
    """
    labels = np.zeros(tuple(size), np.uint8)
    sure = np.zeros(tuple(size), np.float16) if confidence else None
    in_plane = (int(size[0]), int(size[1]))
    foremost = next(slabs)
    slabs = chain([foremost], slabs)
    if depth == size[2] and tuple(foremost[1].shape[1:3]) == in_plane:
        for first, slab in slabs:
            _classify(slab, labels[..., first:], None if sure is None else sure[..., first:], probabilities)
        return Answer(labels, sure)
    stream = _Slices(slabs, depth, in_plane)
    scale = depth / size[2]
    for z in range(int(size[2])):
        # voxel edges aligned, as interpolate does with corners not aligned
        place = min(max((z + 0.5) * scale - 0.5, 0), depth - 1) if size[2] != depth else float(z)
        below = int(place)
        share = place - below
        scores = stream.get(below)
        if share > 0 and below + 1 < depth:
            scores = torch.lerp(scores, stream.get(below + 1), share)
        chosen = slice(z, z + 1)
        _classify(scores[..., None], labels[..., chosen], None if sure is None else sure[..., chosen], probabilities)
    return Answer(labels, sure)


def _classify(
    scores: Float[Tensor, "k a b d"],
    labels: NDArray[np.uint8],
    confidence: NDArray[np.float16] | None,
    probabilities: bool,
) -> None:
    """Writes the class of the greatest score, and its probability, into the first d slices of the given arrays."""
    depth = scores.shape[3]
    for begin in range(0, scores.shape[1], ROWS):
        rows = slice(begin, begin + ROWS)
        part = scores[:, rows]
        best = part.argmax(0)
        labels[rows, :, :depth] = best.to(torch.uint8).numpy()
        if confidence is not None:
            shares = part if probabilities else part.softmax(0)
            confidence[rows, :, :depth] = shares.gather(0, best[None])[0].numpy()


class _Slices:
    """Slices of a stream of slabs at the in-plane size of the answer; no more than two are held beside the current slab."""

    def __init__(self, slabs: Iterator[tuple[int, Tensor]], depth: int, size: tuple[int, int]) -> None:
        self.slabs, self.depth, self.size = slabs, depth, size
        self.first, self.slab = 0, None
        self.ready: dict[int, Tensor] = {}

    def get(self, k: int) -> Tensor:
        if k in self.ready:
            return self.ready[k]
        while self.slab is None or k >= self.first + self.slab.shape[-1]:
            self._keep_last()
            self.first, self.slab = next(self.slabs)
        scores = self.slab[..., k - self.first]
        for old in [each for each in self.ready if each < k - 1]:
            del self.ready[old]
        self.ready[k] = self._resized(scores)
        return self.ready[k]

    def _keep_last(self) -> None:
        """The last slice of a slab may be blended with the first of the next, and the slab's memory is used again."""
        if self.slab is None:
            return
        last = self.first + self.slab.shape[-1] - 1
        if last not in self.ready:
            self.ready[last] = self._resized(self.slab[..., -1])

    def _resized(self, scores: Tensor) -> Tensor:
        if tuple(scores.shape[1:]) == self.size:
            return scores.clone()
        return F.interpolate(scores[None], size=self.size, mode="bilinear", align_corners=False)[0]
