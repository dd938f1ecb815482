"""What a reader looks at: numbered paths on the picture, how likely objects are, steps as an animation, predictors side by side."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from core_runtime.errors import clean
from gaze.scenes.scene import Scene

_CROWDED = 40  # fixations; of longer paths every tenth is numbered
_BESIDE = 12.0  # points between the first and the second look at one place
_GOLDEN = np.pi * (3 - 5**0.5)  # turns by this angle never fall together
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart by colour-blind readers too


def draw_path(
    scene: Scene,
    points: NDArray[np.float64],
    *,
    durations: NDArray[np.float64] | None = None,
    target: int | None = None,
    title: str = "",
) -> Figure:
    """One path, numbered; circles as large as fixations are long.

    Args:
        scene: with its picture, or its boxes alone.
        points: (fixations, 2), in pixels.
        durations: (fixations,), in ms.
        target: index of the searched object, framed.
        title: above.
    """
    figure, axes = _screen(scene)
    show_path(axes, points, durations=durations, colour=_COLOURS[0])
    _frame(axes, scene, target)
    axes.set_title(clean(title or scene.name), fontsize=10)
    return figure


def draw_prediction(scene: Scene, prediction: Any, target: int | None) -> Figure:
    """Where the model expects people to look (shaded by the share of samples that visit an object), and the likeliest path."""
    figure, axes = _screen(scene)
    shares = np.asarray(prediction.looked_at)
    _shade(axes, scene.boxes, 0.7 * shares / max(shares.max(initial=0), 1e-9))
    points = np.column_stack([prediction.x, prediction.y])
    durations = None
    if prediction.durations is not None:
        durations = np.asarray(prediction.durations)
    show_path(axes, points, durations=durations, colour=_COLOURS[0])
    _frame(axes, scene, target)
    aim = ""
    if prediction.target:
        aim = f", searching {prediction.target}"
    kind = "greedy path"
    if prediction.beams:
        kind = f"likeliest path of {prediction.beams} beams"
    cut = "" if prediction.stopped else f", cut at {prediction.longest}"
    most = max(prediction.looked_at, default=0.0)
    axes.set_title(
        f"{scene.name}{aim}: {kind}{cut}\nshaded: share of {len(prediction.samples)} sampled paths that look there (darkest: {most:.0%})",
        fontsize=9,
    )
    return figure


def draw_compared(scene: Scene, paths: Mapping[str, Sequence[NDArray[np.float64]]], target: int | None) -> Figure:
    """Paths of people and of models beside each other, one panel for each name."""
    width, height = scene.size
    figure = Figure(figsize=(4.2 * len(paths), 4.2 * height / width + 0.5), layout="constrained")
    for axes, (name, drawn) in zip(np.atleast_1d(figure.subplots(1, len(paths))), paths.items(), strict=True):
        _show_scene(axes, scene)
        for number, points in enumerate(drawn):
            show_path(axes, points, colour=_COLOURS[number % len(_COLOURS)], numbers=len(drawn) == 1)
        _frame(axes, scene, target)
        axes.set_title(name, fontsize=10)
    return figure


def draw_steps(scene: Scene, prediction: Any, target: int | None, *, milliseconds: int = 500) -> bytes:
    """The likeliest path as a GIF: at each step how likely each object is next, then the fixation."""
    from PIL import Image

    frames = []
    points = np.column_stack([prediction.x, prediction.y])
    steps = min(len(points), len(prediction.step_probabilities))
    for step in range(steps):
        figure, axes = _screen(scene, inches=5.0)
        probabilities = np.asarray(prediction.step_probabilities[step][:-1])
        _shade(axes, scene.boxes, 0.7 * probabilities / probabilities.max())
        show_path(axes, points[: step + 1], colour=_COLOURS[0])
        _frame(axes, scene, target)
        axes.set_title(f"step {step + 1} of {steps}", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
        frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE))
    out = io.BytesIO()
    last = [milliseconds] * (len(frames) - 1) + [3 * milliseconds]
    frames[0].save(out, format="GIF", save_all=True, append_images=frames[1:], duration=last, loop=0)
    return out.getvalue()


def draw_measures(table: Mapping[str, Mapping[str, Any]], measures: Sequence[str]) -> Figure:
    """Predictors side by side with their intervals, a panel for each measure.

    Args:
        table: predictor → measure → {"value", "low", "high"}.
        measures: which.
    """
    figure = Figure(figsize=(3.1 * len(measures), 0.45 * len(table) + 1.2), layout="constrained")
    names = list(table)
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures), sharey=True)), measures, strict=True):
        for row, name in enumerate(names):
            entry = table[name].get(measure)
            if entry is None or entry["value"] is None or np.isnan(entry["value"]):
                continue
            axes.plot([entry["low"], entry["high"]], [row, row], color=_COLOURS[0], linewidth=2)
            axes.plot(entry["value"], row, "o", color=_COLOURS[1])
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_title(measure.replace("_", " "), fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    return figure


def show_path(
    axes: Axes,
    points: NDArray[np.float64],
    *,
    durations: NDArray[np.float64] | None = None,
    colour: str = _COLOURS[0],
    numbers: bool = True,
) -> None:
    """Adds a path to axes: lines, circles and numbers. Looks at one place that come again stand beside the first."""
    left, right = axes.get_xlim()
    figure = axes.figure
    panel = figure.bbox.width / figure.dpi * 72 / len(figure.axes)  # its width in points, nearly
    points = _beside_each_other(points, _BESIDE / panel * abs(right - left))
    axes.plot(points[:, 0], points[:, 1], "-", color=colour, linewidth=1.6, alpha=0.8)
    sizes = np.full(len(points), 130.0)
    if durations is not None and np.isfinite(durations).any():
        known = np.where(np.isfinite(durations), durations, np.nanmedian(durations))
        sizes = 60 + 0.5 * known.clip(0, 1500)
    axes.scatter(points[:, 0], points[:, 1], s=sizes, color=colour, alpha=0.85, edgecolor="white", zorder=3)
    if not numbers:
        return
    every = 10
    if len(points) <= _CROWDED:
        every = 1
    for number, (x, y) in enumerate(points, 1):
        if number in (1, len(points)) or number % every == 0:
            size = 5
            if number < 100:
                size = 7
            axes.annotate(str(number), (x, y), color="white", fontsize=size, ha="center", va="center", zorder=4)


def _beside_each_other(points: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Points that are there several times, moved apart on a spiral: a model's fixations are all at the middles of objects."""
    visits: Counter[tuple[float, float]] = Counter()
    moved = points.copy()
    for number, (x, y) in enumerate(points.tolist()):
        earlier = visits[x, y]
        visits[x, y] += 1
        if earlier:
            angle, radius = _GOLDEN * earlier, step * np.sqrt(earlier)
            moved[number] = x + radius * np.cos(angle), y + radius * np.sin(angle)
    return moved


def _screen(scene: Scene, inches: float = 7.0) -> tuple[Figure, Axes]:
    width, height = scene.size
    figure = Figure(figsize=(inches, inches * height / width + 0.4), layout="constrained")
    axes = figure.subplots()
    _show_scene(axes, scene)
    return figure, axes


def _show_scene(axes: Axes, scene: Scene) -> None:
    width, height = scene.size
    if scene.picture is not None:
        axes.imshow(_pixels(scene.picture, scene.picture.stat().st_mtime_ns), extent=(0, width, height, 0), alpha=0.75)
    else:
        outlines = PolyCollection(list(_corners(scene.boxes)), facecolors="none", edgecolors="0.75", linewidths=0.7)
        axes.add_collection(outlines, autolim=False)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])


def _shade(axes: Axes, boxes: NDArray[np.float64], shares: NDArray[np.float64]) -> None:
    """Boxes filled by how much each counts, from 0 (clear) to 1; one artist for all, as there may be thousands."""
    colours = np.tile(to_rgba("#D55E00"), (len(boxes), 1))
    colours[:, 3] = shares
    axes.add_collection(PolyCollection(list(_corners(boxes)), facecolors=colours, linewidths=0), autolim=False)


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(boxes, 4, 2): the corners in turn."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return np.stack([low, np.stack([high[:, 0], low[:, 1]], 1), high, np.stack([low[:, 0], high[:, 1]], 1)], 1)


@lru_cache(4)  # a page shows one picture many times
def _pixels(picture: Path, changed: int) -> NDArray[np.uint8]:
    """A picture as large as figures need it; `changed` is the time of its last change."""
    from PIL import Image

    with Image.open(picture) as image:
        image.thumbnail((900, 900))
        return np.asarray(image.convert("RGB"))


def _frame(axes: Axes, scene: Scene, target: int | None) -> None:
    if target is None:
        return
    left, top, width, height = scene.boxes[target]
    axes.add_patch(Rectangle((left, top), width, height, fill=False, color="#009E73", linewidth=2.5, zorder=2))
