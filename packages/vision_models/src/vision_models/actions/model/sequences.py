"""A video's snippets as the network's steps: overlapping windows, or all of it resized."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_models.actions.stored import StoredFeatures


class Sequence(NamedTuple):
    """One input of the network.

    Attributes:
        values: (steps, channels).
        start: seconds at which its first step begins.
        seconds: that all steps cover.
        filled: steps that hold snippets; the rest is padding.
    """

    values: NDArray[np.float32]
    start: float
    seconds: float
    filled: int


def window_starts(snippets: int, steps: int, overlap: float = 0.5) -> list[int]:
    """First snippets of windows that cover a video; the last window ends with it."""
    if snippets <= steps:
        return [0]
    stride = max(1, round(steps * (1 - overlap)))
    starts = list(range(0, snippets - steps, stride))
    return [*starts, snippets - steps]


def windows(
    values: NDArray[np.float32], steps: int, step: float, *, fill: NDArray[np.float32], overlap: float = 0.5
) -> list[Sequence]:
    """Overlapping windows of a video; a video shorter than one is filled up.

    Args:
        values: (snippets, channels).
        steps: of a window.
        step: seconds of a snippet.
        fill: (channels,) that stands where there is no snippet.
        overlap: of neighbouring windows, as a share.
    """
    cut = []
    for first in window_starts(len(values), steps, overlap):
        part = values[first : first + steps]
        cut.append(Sequence(filled_up(part, steps, fill), first * step, steps * step, len(part)))
    return cut


def filled_up(values: NDArray[np.float32], steps: int, fill: NDArray[np.float32]) -> NDArray[np.float32]:
    """A window of all its steps: (channels,) `fill` stands behind the end of the video."""
    missing = steps - len(values)
    if missing:
        values = np.concatenate([values, np.broadcast_to(fill, (missing, len(fill)))])
    return values.astype(np.float32, copy=False)


def resized(values: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """A sequence at another length, by linear interpolation at ``i · (L - 1) / (T - 1)``."""
    if len(values) == steps:
        return values
    if len(values) == 1:
        return np.repeat(values, steps, 0)
    places = np.arange(steps) * (len(values) - 1) / (steps - 1)
    below = np.minimum(places.astype(int), len(values) - 2)
    share = (places - below)[:, None].astype(np.float32)
    return (values[below] * (1 - share) + values[below + 1] * share).astype(np.float32, copy=False)


def count_at_step(snippets: int, step: float, wanted: float) -> int:
    """How many snippets of another length in time a video has."""
    if abs(step - wanted) <= 1e-3 * wanted:
        return snippets
    return max(1, round(snippets * step / wanted))


def at_step(
    values: NDArray[np.float32] | StoredFeatures, step: float, wanted: float, rows: slice = slice(None)
) -> NDArray[np.float32]:
    """Snippets of another length in time, by linear interpolation between their middles.

    Args:
        values: (snippets, channels), in memory or in a file; only what the rows need is read.
        step: seconds of a snippet.
        wanted: seconds of one of the result's.
        rows: of the result; default: all.
    """
    if abs(step - wanted) <= 1e-3 * wanted:
        return values[rows]
    first, last, _ = rows.indices(count_at_step(len(values), step, wanted))
    if len(values) == 1:
        return np.repeat(values[:], last - first, 0)
    middles = ((np.arange(first, last) + 0.5) * wanted / step - 0.5).clip(0, len(values) - 1)
    below = np.minimum(middles.astype(int), len(values) - 2)
    share = (middles - below)[:, None].astype(np.float32)
    needed = values[int(below[0]) : int(below[-1]) + 2]
    below -= below[0]
    return (needed[below] * (1 - share) + needed[below + 1] * share).astype(np.float32, copy=False)
