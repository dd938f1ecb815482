"""Pictures: classes, neighbours, where the model looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core_runtime.folders import writing
from medical_segmentation.similar.images import ImageSet


def draw_classes(images: ImageSet, *, each: int = 6) -> Figure:
    """Some images of every class, one row per class."""
    classes = list(range(len(images.classes)))[:12] if images.labels else [-1]
    figure = Figure(figsize=(1.3 * each, 1.45 * len(classes)), layout="constrained")
    grid = np.reshape(figure.subplots(len(classes), each), (len(classes), each))
    for row, label in zip(grid, classes, strict=True):
        numbers = [number for number in range(len(images)) if label < 0 or images.labels[number] == label][:each]
        for axes in row:
            axes.set_axis_off()
        for axes, number in zip(row, numbers, strict=False):
            axes.imshow(images.read(number))
        if label >= 0:
            row[0].set_title(images.classes[label], fontsize=9, loc="left")
    return figure


def neighbour_sheet(
    queries: Sequence[NDArray[np.uint8]],
    attentions: Sequence[NDArray[np.float32]],
    neighbours: Sequence[Sequence[NDArray[np.uint8]]],
    titles: Sequence[Sequence[str]],
    edges: Sequence[Sequence[str]],
    path: Path,
) -> Path:
    """Every query, where the model looks in it, and its neighbours, nearest first."""
    columns = 2 + max(len(row) for row in neighbours)
    figure = Figure(figsize=(1.5 * columns, 1.75 * len(queries)), layout="constrained")
    grid = np.reshape(figure.subplots(len(queries), columns), (len(queries), columns))
    for row, query, attention, near, words, frames in zip(
        grid, queries, attentions, neighbours, titles, edges, strict=True
    ):
        for axes in row:
            axes.set_axis_off()
        row[0].imshow(query)
        row[0].set_title(words[0], fontsize=8)
        row[1].imshow(query)
        row[1].imshow(attention, cmap="inferno", alpha=0.55)
        row[1].set_title("where it looks", fontsize=8)
        for axes, picture, title, edge in zip(row[2:], near, words[1:], frames, strict=False):
            axes.set_axis_on()
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(picture)
            axes.set_title(title, fontsize=8)
            for side in axes.spines.values():
                side.set(color=edge, linewidth=2.5)
    with writing(path) as part:
        figure.savefig(part, format="png", dpi=110)
    return path
