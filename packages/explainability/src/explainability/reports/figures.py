"""Figures of maps, all of a picture on one colour scale."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from explainability.attribution.attribution import scaled
from explainability.attribution.explaining import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

TITLES = {
    "gradcam": "Grad-CAM",
    "ig": "Integrated gradients",
    "lrp": "LRP",
    "sr": "Salient relevance",
    "rollout": "Rollout",
    "attention": "Raw attention",
    "own": "The model's own map",
    "random": "Random map",
}
SIGNED = ("ig", "lrp")


def draw_maps(image: "Image", explanations: Mapping[str, Explanation], number: int = 0) -> "Figure":
    """The picture and the maps over it: red for the target, blue against it; each divided by its greatest magnitude, then one scale."""
    from matplotlib.figure import Figure

    count = len(explanations) + 1
    figure = Figure(figsize=(2.6 * count, 3.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, count))
    axes[0].imshow(image)
    axes[0].set_title("Picture", fontsize=10)
    grey = np.asarray(image.convert("L"))
    drawn = None
    for axis, (method, explanation) in zip(axes[1:], explanations.items(), strict=True):
        values = scaled(explanation.maps[number : number + 1].cpu(), "percentile")[0].numpy()
        height, width = grey.shape
        axis.imshow(grey, cmap="gray", vmin=-120, vmax=375)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        drawn = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.65, extent=extent)
        area = float(explanation.insertion.area[number])
        lost = float(explanation.deletion.area[number])
        axis.set_title(f"{TITLES.get(method, method)}\ninsertion {area:.2f}, deletion {lost:.2f}", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    if drawn is not None:
        figure.colorbar(drawn, ax=axes.tolist(), shrink=0.7, label="against ← → for the target")
    return figure


def draw_curves(explanations: Mapping[str, Explanation], number: int = 0) -> "Figure":
    """Insertion and deletion curves of all methods."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for method, explanation in explanations.items():
        style: dict[str, Any] = {"color": "0.6", "linestyle": "--"} if method == "random" else {}
        for axis, curve in zip(axes, (explanation.insertion, explanation.deletion), strict=True):
            axis.plot(curve.fractions, curve.probabilities[number].cpu(), label=TITLES.get(method, method), **style)
    for axis, title in zip(axes, ("Insertion: higher is better", "Deletion: lower is better"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("share of the pixels")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("probability of the target")
    axes[1].legend(fontsize=8)
    return figure


def draw_examples(rows: Sequence[tuple["Image", str]]) -> "Figure":
    """Pictures with captions in one row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(rows), 2.6), layout="constrained")
    for axis, (image, caption) in zip(np.atleast_1d(figure.subplots(1, len(rows))), rows, strict=True):
        axis.imshow(image)
        axis.set_title(caption, fontsize=9)
        axis.set_axis_off()
    return figure


def draw_traits(image: "Image", maps: Any, heads: Sequence[int], label: str) -> "Figure":
    """The picture, and what a class's prompt looks at through its most important heads; one colour scale for all.

    Args:
        image: the picture.
        maps: (heads, rows, columns), in the order of `heads`.
        heads: their numbers, the most important first.
        label: name of the class.
    """
    from matplotlib.figure import Figure

    count = len(heads) + 1
    figure = Figure(figsize=(2.5 * count, 2.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, count))
    axes[0].imshow(image)
    axes[0].set_title(label, fontsize=10)
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    top = max(float(maps.max()), 1e-12)
    drawn = None
    for axis, values, head in zip(axes[1:], maps, heads, strict=True):
        axis.imshow(grey, cmap="gray", vmin=-120, vmax=375)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        drawn = axis.imshow(values, cmap="magma", vmin=0, vmax=top, alpha=0.6, extent=extent, interpolation="bilinear")
        axis.set_title(f"head {head}", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    if drawn is not None:
        figure.colorbar(drawn, ax=axes.tolist(), shrink=0.7, label="attention")
    return figure


def draw_boxes(image: "Image", values: Any, box: Sequence[float], truths: Sequence[Sequence[float]]) -> "Figure":
    """A map over its picture with the box found (solid) and the true boxes (dashed)."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(4, 4 * image.size[1] / image.size[0]), layout="constrained")
    axis = figure.subplots()
    width, height = image.size
    axis.imshow(image)
    axis.imshow(values, cmap="magma", alpha=0.45, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    for each, colour, style in [(box, "cyan", "-"), *((truth, "white", "--") for truth in truths)]:
        x0, y0, x1, y1 = each
        shape = Rectangle(
            (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linestyle=style, linewidth=2
        )
        axis.add_patch(shape)
    axis.set_axis_off()
    return figure
