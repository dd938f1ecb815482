"""A video's snippets as the network's steps: overlapping windows, or all of it resized."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
        filled = len(part)
        if filled < steps:
            part = np.concatenate([part, np.broadcast_to(fill, (steps - filled, len(fill)))])
        cut.append(Sequence(part.astype(np.float32, copy=False), first * step, steps * step, filled))
    return cut


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


def at_step(values: NDArray[np.float32], step: float, wanted: float) -> NDArray[np.float32]:
    """Snippets of another length in time, by linear interpolation between their middles."""
    if abs(step - wanted) <= 1e-3 * wanted:
        return values
    count = max(1, round(len(values) * step / wanted))
    middles = ((np.arange(count) + 0.5) * wanted / step - 0.5).clip(0, len(values) - 1)
    if len(values) == 1:
        return np.repeat(values, count, 0)
    below = np.minimum(middles.astype(int), len(values) - 2)
    share = (middles - below)[:, None].astype(np.float32)
    return (values[below] * (1 - share) + values[below + 1] * share).astype(np.float32, copy=False)
