"""Figures: confusion, calibration of the mistakes, training, sheets of images with their attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core_runtime.folders import writing

WRITTEN = 20  # classes up to which counts are written into the confusion matrix


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str, path: Path) -> Path:
    """The confusion matrix, with rows scaled to the class's images and, of few classes, counts written in."""
    counts = np.array(confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14.0, 3.5 + 0.45 * len(classes))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= WRITTEN:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                shade = "white" if share[i, j] > 0.5 else "black"  # readable on dark and on light blue
                axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=shade)
    if len(classes) <= 60:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the class")
    return save(figure, path)


def image_sheet(
    pictures: Sequence[Any],
    titles: Sequence[str],
    path: Path,
    *,
    maps: Sequence[Any] | None = None,
    colours: Sequence[str] | None = None,
    columns: int = 8,
    heading: str = "",
) -> Path:
    """Images side by side with their titles, each with its attention laid over it below, where there are maps."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)  # rounded up
    layers = 2 if maps is not None else 1
    figure = Figure(figsize=(1.6 * columns, (0.35 + 1.65 * layers) * rows + 0.3), layout="constrained")
    axes = np.reshape(figure.subplots(rows * layers, columns), (rows * layers, columns))
    for ax in axes.ravel():
        ax.set_axis_off()
    for place, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(place, columns)
        ax = axes[row * layers, column]
        _show(ax, picture)
        ax.set_title(title, fontsize=7, color=colours[place] if colours else "black")
        if maps is not None:
            below = axes[row * layers + 1, column]
            _show(below, picture)
            height, width = np.asarray(picture).shape[:2]
            over = (-0.5, width - 0.5, height - 0.5, -0.5)  # the whole image: pixels are centred on whole numbers
            below.imshow(maps[place], cmap="inferno", alpha=0.55, extent=over, interpolation="bilinear")
    if heading:
        figure.suptitle(heading, fontsize=9)
    return save(figure, path)


def _show(axes: Any, picture: Any) -> None:
    values = np.asarray(picture)
    axes.imshow(values, cmap="gray" if values.ndim == 2 else None, interpolation="nearest")


def draw_comparison(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Accuracy of each network with its interval, and each seed as a point."""
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(list(rows))):
        low, high = row["low"], row["high"]
        axes.plot([low, high], [place, place], color="tab:blue", linewidth=3, alpha=0.35, solid_capstyle="butt")
        axes.plot(row["accuracies"], [place] * len(row["accuracies"]), "o", color="tab:blue", markersize=3.5, alpha=0.7)
        axes.plot([row["accuracy"]], [place], "|", color="black", markersize=14)
    labels = [f"{row['name']}  ({row['parameters'] / 1e6:.2f} M)" for row in reversed(list(rows))]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set(xlabel="test accuracy: mean, 95 % interval over images, each seed")
    axes.grid(axis="x", alpha=0.3)
    return save(figure, path)
