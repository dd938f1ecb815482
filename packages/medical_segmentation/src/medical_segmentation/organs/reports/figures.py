"""Pictures: montages with masks, attention, confidence, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from core_runtime.folders import writing
from medical_segmentation.volumes.geometry import Reorientation
from medical_segmentation.volumes.volume import Volume

COLOURS = ("#e6483d", "#3fa7e0", "#58b368", "#f2b134", "#a566c4", "#45bfb3", "#e07db8", "#8c7a5b")


def colour(number: int) -> str:
    """Of a class; the background has none."""
    return COLOURS[(number - 1) % len(COLOURS)]


def shown_slices(volume: Volume, labels: NDArray | None = None) -> tuple[NDArray, NDArray | None, float]:
    """The volume as radiologists see it, (rows, columns, slices): anterior on top, the patient's right on the left; and rows per column."""
    turn = Reorientation.between(volume.geometry, "LPS")
    array = volume.array if volume.array.ndim == 3 else volume.array[..., 0]
    spacing = turn.spacing(volume.geometry)
    picture = turn.apply(array).transpose(1, 0, 2)
    mask = None if labels is None else turn.apply(labels).transpose(1, 0, 2)
    return picture, mask, spacing[1] / spacing[0]


def grey_window(array: NDArray, modality: str = "") -> tuple[float, float]:
    """Values between which greys are drawn: the abdomen's window of a CT, else the middle 99 %."""
    finite = array[np.isfinite(array)]
    if modality == "CT" or (finite.size and -1100 <= finite.min() <= -900 and finite.max() > 100):
        return -160.0, 240.0
    low, high = np.percentile(finite, [0.5, 99.5]).tolist() if finite.size else (0.0, 1.0)
    return low, max(high, low + 1e-6)


def _overlay(axes: Any, mask: NDArray, aspect: float) -> None:
    """Every class filled thinly, with a line about it."""
    for number in np.unique(mask).tolist():
        if not number:
            continue
        region = np.ma.masked_where(mask != number, np.ones_like(mask, dtype=float))
        from matplotlib.colors import ListedColormap

        axes.imshow(
            region, cmap=ListedColormap([colour(int(number))]), alpha=0.35, aspect=aspect, interpolation="nearest"
        )
        # a line of pixels has no contour
        if min(mask.shape) > 1 and not (mask == number).all():
            axes.contour(mask == number, levels=[0.5], colors=[colour(int(number))], linewidths=1.1)


def montage(volume: Volume, labels: NDArray | None = None, *, columns: int = 4, count: int = 8) -> Figure:
    """Slices through the volume, and the distribution of its values."""
    picture, mask, aspect = shown_slices(volume, labels)
    depth = picture.shape[2]
    places = np.unique(np.linspace(0, depth - 1, min(count, depth)).round().astype(int)).tolist()
    rows = -(-len(places) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 1.6), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.0] * rows + [0.55])
    low, high = grey_window(picture, volume.modality)
    for number, k in enumerate(places):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        axes.imshow(picture[:, :, k], cmap="gray", vmin=low, vmax=high, aspect=aspect)
        if mask is not None:
            _overlay(axes, mask[:, :, k], aspect)
        axes.set_axis_off()
        axes.set_title(f"slice {k + 1} of {depth}", fontsize=8)
    axes = figure.add_subplot(grid[rows, :])
    values = picture[np.isfinite(picture)].ravel()
    axes.hist(values[:: max(1, values.size // 100_000)], bins=100, color="#5577aa")
    axes.set_yscale("log")
    axes.set(xlabel="value", ylabel="voxels")
    return figure


def prediction_sheet(
    volume: Volume,
    labels: NDArray[np.uint8],
    classes: Sequence[str],
    path: Path,
    *,
    truth: NDArray[np.uint8] | None = None,
    attention: NDArray[np.float32] | None = None,
    confidence: NDArray | None = None,
    slices: int = 3,
) -> Path:
    """Slices with the mask; beside them the truth, the confidence and the attention, as far as they are there."""
    picture, mask, aspect = shown_slices(volume, labels)
    assert mask is not None
    places = busiest_slices(mask, slices)
    if attention is not None:  # which was computed for some slices only
        shown = shown_slices(volume, attention)[1]
        assert shown is not None
        lit = np.flatnonzero(shown.any((0, 1)))
        if lit.size:
            places = np.unique([int(lit[np.abs(lit - place).argmin()]) for place in places]).tolist()
    low, high = grey_window(picture, volume.modality)
    panels: list[tuple[str, Any]] = [("image", None), ("prediction", mask)]
    if truth is not None:
        panels.append(("truth", shown_slices(volume, truth)[1]))
    if confidence is not None:
        panels.append(("confidence", shown_slices(volume, confidence.astype(np.float32))[1]))
    if attention is not None:
        panels.append(("guided attention", shown_slices(volume, attention)[1]))
    figure = Figure(figsize=(2.7 * len(panels), 2.7 * len(places) * min(aspect, 1.5) + 0.6), layout="constrained")
    grid = np.reshape(figure.subplots(len(places), len(panels)), (len(places), len(panels)))
    for row, k in enumerate(places):
        for axes, (title, layer) in zip(grid[row], panels, strict=True):
            axes.imshow(picture[:, :, k], cmap="gray", vmin=low, vmax=high, aspect=aspect)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10)
            if layer is None:
                continue
            if title in ("confidence", "guided attention"):
                shown = axes.imshow(layer[:, :, k], cmap="inferno", alpha=0.6, aspect=aspect, vmin=0, vmax=1)
                if row == 0 and title == "confidence":
                    figure.colorbar(shown, ax=axes, shrink=0.7)
            else:
                _overlay(axes, layer[:, :, k], aspect)
    figure.legend(
        handles=[Patch(color=colour(number), label=name) for number, name in enumerate(classes) if number],
        loc="outside lower center",
        ncols=min(6, max(1, len(classes) - 1)),
        fontsize=8,
    )
    return save(figure, path)


def busiest_slices(mask: NDArray, count: int) -> list[int]:
    """Slices spread over the part that holds organs."""
    holding = np.flatnonzero((mask > 0).any((0, 1)))
    if not holding.size:
        holding = np.arange(mask.shape[2])
    places = np.linspace(holding[0], holding[-1], count + 2)[1:-1].round().astype(int)
    return np.unique(places).tolist()


def draw_calibration(bins: Sequence[tuple[float, float, int]], ece: float, path: Path) -> Path:
    """How often the class is right at each confidence."""
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    if bins:
        confidence, accuracy, voxels = zip(*bins, strict=True)
        axes.plot(confidence, accuracy, color="tab:blue", linewidth=1)
        axes.scatter(confidence, accuracy, s=10 + 200 * np.array(voxels) / max(voxels), color="tab:blue")
    axes.set(
        xlabel="confidence",
        ylabel="share of voxels that are right",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        title=f"ECE {ece:.3f}\n(voxels that are not surely background)",
    )
    return save(figure, path)


def draw_scores(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The Dice of every case, by class or region."""
    classes = list(dict.fromkeys(row["class"] for row in rows))
    figure = Figure(figsize=(1.4 + 1.3 * max(1, len(classes)), 3.4), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for place, name in enumerate(classes):
        scores = np.array([row["dice"] for row in rows if row["class"] == name and row["dice"] is not None], float)
        axes.scatter(place + rng.uniform(-0.12, 0.12, len(scores)), scores, s=18, color=colour(place + 1), alpha=0.8)
        if scores.size:
            axes.hlines(scores.mean(), place - 0.25, place + 0.25, color="black", linewidth=1.5)
    axes.set_xticks(range(len(classes)), classes, rotation=20)
    axes.set(ylabel="Dice", ylim=(-0.02, 1.02))
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    with writing(path) as part:
        figure.savefig(part, format="png", dpi=110)
    return path
