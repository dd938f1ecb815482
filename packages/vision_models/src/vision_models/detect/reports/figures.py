"""Pictures with boxes, and pictures before and after enhancement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from core_runtime.folders import writing

if TYPE_CHECKING:
    from torch import Tensor

_COLOURS = ("#ffb000", "#4fc3f7", "#7bd66f", "#ff7f9e", "#c39bff", "#ffd54f", "#4dd0b1", "#ff8a65")
TRUE, FOUND = "white", None  # drawn boxes are white and dashed, found ones have the colour of their class


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def draw_boxes(axes: Any, image: Any, boxes: Sequence[tuple[Any, int, str]], *, dashed: bool = False) -> None:
    """Boxes (box, number of the class, words) over a picture."""
    image = np.asarray(image)
    axes.imshow(image)
    axes.set_axis_off()
    for (left, top, right, bottom), label, words in boxes:
        colour = TRUE if dashed else _COLOURS[label % len(_COLOURS)]
        style = ":" if dashed else "-"
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linestyle=style, linewidth=1.6)
        )
        if words:
            place, side = max(0, top - 1), "bottom"
            if top < 0.08 * image.shape[0]:  # above the box it would cover the picture's title
                place, side = top, "top"
            label_text = axes.text(left, place, words, color="black", fontsize=6, va=side, backgroundcolor=colour)
            label_text.set_bbox({"facecolor": colour, "pad": 0.8, "linewidth": 0})


def brightened(image: Any) -> NDArray[np.uint8]:
    """A dark picture as the eye can see it: one factor for all colours, so that the 99th percentile is white."""
    values = np.asarray(image, np.float64)
    return np.clip(values * (255 / max(1.0, float(np.percentile(values, 99)))), 0, 255).astype(np.uint8)


def stretched(features: Tensor) -> NDArray[np.uint8]:
    """Three channels (3, height, width) of any range as colours, each stretched from its 1st to its 99th percentile."""
    values = features.float().permute(1, 2, 0).numpy()
    low, high = np.percentile(values, [1, 99], axis=(0, 1))
    return (np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def scene_sheet(rows: Sequence[Sequence[tuple[str, Any, Sequence[tuple[Any, int, str]], bool]]], path: Path) -> Path:
    """Pictures in rows; each is (title, picture, boxes, whether its boxes are the drawn ones)."""
    columns = max(map(len, rows))
    height = 2.55 * len(rows)
    figure = Figure(figsize=(3.1 * columns, height))
    # pictures without axes need no layout engine, which takes seconds for a sheet; the first row's titles take a quarter of an inch
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.05 / height, top=1 - 0.25 / height, wspace=0.03, hspace=0.05
    )
    axes = np.reshape(figure.subplots(len(rows), columns), (len(rows), columns))
    for ax in axes.ravel():
        ax.set_axis_off()
    for row, line in enumerate(rows):
        for column, (title, image, boxes, drawn) in enumerate(line):
            draw_boxes(axes[row, column], image, boxes, dashed=drawn)
            if row == 0:
                axes[row, column].set_title(title, fontsize=9)
    return save(figure, path)
