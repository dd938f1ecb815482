"""Figures: confusion, calibration, training with the fused α, contact sheets, land-use maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from core_runtime.folders import writing
from remote_sensing.landuse.scenes.classes import NODATA, colours

if TYPE_CHECKING:
    from remote_sensing.landuse.metrics import Metrics


def save(figure: Figure, path: Path, notice: str = "") -> Path:
    """Writes a figure as PNG, whole or not at all; `notice` is what pictures of this model must carry, at the top."""
    if notice:
        figure.suptitle(notice, fontsize=9, color="tab:red")
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def draw_confusion(metrics: Metrics, classes: Sequence[str], path: Path, *, notice: str = "") -> Path:
    """The confusion matrix, with rows scaled to the class's tiles and counts written in."""
    counts = np.array(metrics.confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            shade = "white" if share[i, j] > 0.5 else "black"  # readable on dark and on light blue
            axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=shade)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"{metrics.tiles} tiles, accuracy {metrics.accuracy:.1%}, κ {metrics.kappa:.3f}",
    )
    return save(figure, path, notice)


def draw_calibration(metrics: Metrics, path: Path, *, notice: str = "") -> Path:
    """The reliability diagram."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    confidence, accuracy, tiles = zip(*metrics.bins, strict=True)
    axes.plot(confidence, accuracy, color="tab:blue", linewidth=1)
    axes.scatter(confidence, accuracy, s=10 + 200 * np.array(tiles) / max(tiles), color="tab:blue")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    title = f"ECE {metrics.ece:.3f}"
    if not np.isnan(metrics.confidence_gap):
        title += f", confidence gap {metrics.confidence_gap:.1f} points"
    axes.set_title(title)
    return save(figure, path, notice)


def draw_history(history: Sequence[Mapping[str, float]], path: Path, *, notice: str = "") -> Path:
    """Loss, accuracy, and for the balanced network each block's α over the epochs."""
    alphas = [name for name in history[0] if name.startswith("alpha_")]
    panels = 3 if alphas else 2
    figure = Figure(figsize=(4 * panels, 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, panels))
    epochs = [row["epoch"] for row in history]
    for ax, names in ((axes[0], ("train_loss", "val_loss")), (axes[1], ("train_accuracy", "val_accuracy"))):
        for name in names:
            ax.plot(epochs, [row[name] for row in history], label=name.replace("_", " "))
        ax.set(xlabel="epoch")
        ax.legend(frameon=False)
    for i, name in enumerate(alphas):
        axes[2].plot(epochs, [row[name] for row in history], color=f"{0.8 * i / len(alphas):.2f}", linewidth=1)
    if alphas:
        mean = np.mean([[row[name] for row in history] for name in alphas], 0)
        axes[2].plot(epochs, mean, color="tab:red", linewidth=2, label=f"mean, ends at {mean[-1]:.3f}")
        axes[2].set(xlabel="epoch", title="α: weight of the spatial branch, by block")
        axes[2].legend(frameon=False)
    return save(figure, path, notice)


def contact_sheet(
    pictures: Sequence[NDArray],
    titles: Sequence[str],
    edges: Sequence[str],
    path: Path,
    *,
    columns: int = 12,
    notice: str = "",
) -> Path:
    """Tiles side by side, each with its title and a frame of its class's colour."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)  # rounded up
    figure = Figure(figsize=(1.15 * columns, 1.4 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, picture, title, edge in zip(axes, pictures, titles, edges, strict=False):
        ax.imshow(picture)
        ax.set_axis_on()
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(title, fontsize=6.5, pad=2)
        for side in ax.spines.values():
            side.set(color=edge, linewidth=3)
    return save(figure, path, notice)


def attention_sheet(
    pictures: Sequence[NDArray], maps: Sequence[NDArray], titles: Sequence[str], path: Path, *, notice: str = ""
) -> Path:
    """Tiles above the same tiles with the attention laid over them."""
    figure = Figure(figsize=(1.6 * len(pictures), 3.6), layout="constrained")
    axes = np.reshape(figure.subplots(2, len(pictures)), (2, -1))
    for i, (picture, gate, title) in enumerate(zip(pictures, maps, titles, strict=True)):
        height, width = picture.shape[:2]
        axes[0, i].imshow(picture)
        axes[0, i].set_title(title, fontsize=7)
        axes[1, i].imshow(picture)
        over = (-0.5, width - 0.5, height - 0.5, -0.5)  # the whole tile: pixels are centred on whole numbers
        axes[1, i].imshow(gate, cmap="inferno", alpha=0.55, extent=over, interpolation="bilinear")
    for ax in axes.ravel():
        ax.set_axis_off()
    return save(figure, path, notice)


def draw_map(
    picture: NDArray,
    classes_map: NDArray,
    classes: Sequence[str],
    path: Path,
    *,
    more: Sequence[tuple[str, NDArray]] = (),
    notice: str = "",
) -> Path:
    """The scene, its land use with a legend, and further maps side by side."""
    parts: list[tuple[str, Any]] = [("scene", picture), ("land use", classes_map), *more]
    figure = Figure(figsize=(4.6 * len(parts), 5.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(parts)))
    own = colours(classes)
    for ax, (title, image) in zip(axes, parts, strict=True):
        ax.set_axis_off()
        ax.set_title(title)
        if title == "scene":
            ax.imshow(image)
        elif image.dtype == np.uint8:
            shown = np.ma.masked_equal(image, NODATA)
            ax.imshow(shown, cmap=ListedColormap(own), vmin=-0.5, vmax=len(own) - 0.5, interpolation="nearest")
        elif title == "attention":
            _draw_attention(figure, ax, image)
        else:
            figure.colorbar(ax.imshow(image, cmap="viridis"), ax=ax, shrink=0.6)
    present = [number for number in np.unique(classes_map) if number != NODATA]
    figure.legend(
        handles=[Patch(color=own[number], label=classes[number]) for number in present],
        loc="outside lower center",
        ncols=min(5, len(present)) or 1,
    )
    return save(figure, path, notice)


def _draw_attention(figure: Figure, axes: Axes, attention: NDArray) -> None:
    """How much more or less of its features a pixel keeps than its tile does on average, in percent; the colour bar says the whole range.

    Few pixels keep much more or less than the others. They would take all of the colours, so these end where 98 % of the pixels lie.
    """
    percent = 100 * (np.ma.filled(attention, np.nan) - 1)
    limit = max(float(np.nanpercentile(np.abs(percent), 98)), 1e-3)
    image = axes.imshow(np.ma.masked_invalid(percent), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_title("attention: features kept, against the mean of the tile", fontsize=9)
    label = f"% (98 % of the pixels; all: {np.nanmin(percent):+.1f} to {np.nanmax(percent):+.1f})"
    figure.colorbar(image, ax=axes, shrink=0.6, extend="both", label=label)
