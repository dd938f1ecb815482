"""The timeline of a video: thumbnails, and below them a row of segments for every label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core_runtime.figures import save_figure
from core_runtime.folders import writing
from core_runtime.videos import Video
from vision_models.actions.annotations import Action
from vision_models.actions.results import Segment

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#ee8866")
THUMBNAILS = 14


def colour_of(label: str, labels: Sequence[str]) -> str:
    """A label's colour, the same in every picture and page of one result."""
    return COLOURS[sorted(labels).index(label) % len(COLOURS)]


def thumbnails(video: Video, seconds: float, count: int = THUMBNAILS) -> list[Any]:
    """Evenly spread frames of a video."""
    height = 96
    width = max(2, round(video.width * height / video.height))
    moments = [(number + 0.5) * seconds / count for number in range(count)]
    if seconds < 300:
        return [frame.image for frame in video.frames_at(moments, size=(width, height))]
    # of a long video each is sought by itself: nobody waits for ten hours to be decoded twice
    images = []
    for moment in moments:
        images += [frame.image for frame in video.frames_at([moment], size=(width, height))]
    return images


def draw_timeline(
    images: Sequence[Any],
    seconds: float,
    segments: Sequence[Segment],
    labels: Sequence[str],
    *,
    truth: Sequence[Action] = (),
    others: Sequence[tuple[str, Sequence[Segment]]] = (),
    title: str = "",
) -> Figure:
    """The timeline as a figure.

    Args:
        images: thumbnails, evenly spread over the video; none leaves that row out.
        seconds: of the video.
        segments: what is shown of the detections.
        labels: all that have a colour.
        truth: annotated actions, drawn first where there are any.
        others: further rows by name, such as a baseline's.
        title: above it.
    """
    rows: list[tuple[str, Sequence[Any]]] = []
    if truth:
        rows.append(("annotated", truth))
    shown = sorted({segment.label for segment in segments})
    if len(shown) <= 6:
        for label in shown:
            rows.append((label, [segment for segment in segments if segment.label == label]))
    else:
        rows.append(("detected", segments))
    rows += list(others)
    if not rows:
        rows.append(("detected", ()))
    height = 0.55 + 0.42 * len(rows) + (0.9 if images else 0)
    figure = Figure(figsize=(11, height), layout="constrained")
    ratios = [0.9, 0.42 * len(rows) + 0.3] if images else [1.0]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    if images:
        for number, image in enumerate(images):
            left, right = number * seconds / len(images), (number + 1) * seconds / len(images)
            axes[0].imshow(np.asarray(image), extent=(left, right, 0, 1), aspect="auto")
        axes[0].set(yticks=[], xlim=(0, seconds))
        axes[0].tick_params(bottom=False)
        for side in axes[0].spines.values():
            side.set_visible(False)
    below = axes[-1]
    for row, (_, members) in enumerate(rows):
        for member in members:
            score = getattr(member, "score", 1.0)
            span = [(member.start, member.end - member.start)]
            known = member.label in labels
            tone = colour_of(member.label, labels) if known else "#888888"
            # stronger where the model is surer
            below.broken_barh(span, (row - 0.36, 0.72), facecolors=tone, alpha=0.35 + 0.6 * min(1.0, max(0.0, score)))
    below.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    below.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, seconds), xlabel="seconds")
    below.grid(axis="x", alpha=0.25)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    with writing(path) as temporary:
        save_figure(figure, temporary)
    return path
