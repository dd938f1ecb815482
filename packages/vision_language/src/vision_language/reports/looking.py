"""Where answers looked, and where sinks lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_language.model.multimodal import Said


def draw_looking(image: Image, answers: Sequence[tuple[str, Said]]) -> Figure:
    """The picture under each answer's attention, on one scale."""
    figure = Figure(figsize=(4 * len(answers), 4.4), layout="constrained")
    top = max(float(reply.looked.max()) for _, reply in answers)
    for place, (name, reply) in enumerate(answers, 1):
        axes = figure.add_subplot(1, len(answers), place)
        extent = (0, image.width, image.height, 0)
        axes.imshow(np.asarray(image), extent=extent)
        axes.imshow(reply.looked, extent=extent, alpha=0.55, cmap="magma", vmin=0, vmax=top)
        axes.set_title(f"{name}: {reply.text[:40]}", fontsize=9)
        axes.set_axis_off()
    return figure


def draw_sinks(image: Image, places: np.ndarray, counts: Sequence[int]) -> Figure:
    """How often each picture token is a sink over layers, and how many sinks each layer has."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    extent = (0, image.width, image.height, 0)
    left.imshow(np.asarray(image), extent=extent)
    left.imshow(places, extent=extent, alpha=0.55, cmap="magma", vmin=0)
    left.set_title("layers in which a picture token is a sink", fontsize=9)
    left.set_axis_off()
    right.bar(range(len(counts)), counts, color="tab:orange")
    right.set(xlabel="layer", ylabel="sinks", title="sinks of each layer")
    return figure
