"""The page of a model's attention heads."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_importance(summary: Mapping[str, Any], drawn: Mapping[str, Any]) -> "Figure":
    """Layers × heads, and importance beside how far heads look."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    matrix, scatter = figure.subplots(1, 2)
    values = drawn["importance"]
    top = max(float(values.abs().max()), 1e-12)
    image = matrix.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    matrix.set_xticks(range(values.shape[1]))
    matrix.set_yticks(range(values.shape[0]))
    matrix.set_xlabel("head")
    matrix.set_ylabel("layer")
    matrix.set_title(summary["measure"].replace("_", " "), fontsize=10)
    figure.colorbar(image, ax=matrix, shrink=0.8)
    layers = values.shape[0]
    colours = [layer / max(1, layers - 1) for layer in range(layers) for _ in range(values.shape[1])]
    points = scatter.scatter(drawn["distance"].flatten(), values.flatten(), c=colours, cmap="viridis", s=18)
    scatter.set_xlabel("mean distance of attention, patches")
    scatter.set_ylabel(summary["measure"].replace("_", " "))
    scatter.set_title("Do important heads look far?", fontsize=10)
    figure.colorbar(points, ax=scatter, shrink=0.8, label="first → last layer", ticks=[])
    return figure


def draw_trends(summary: Mapping[str, Any], drawn: Mapping[str, Any]) -> "Figure":
    """Distance, entropy and local mass by layer; accuracy while heads are pruned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.subplots(1, 4)
    titles = {"distance": "distance, patches", "entropy": "entropy (1: uniform)", "within_1": "mass within one patch"}
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        trend = summary["trends"][name]
        layers = range(len(trend["mean"]))
        low = [m - s for m, s in zip(trend["mean"], trend["sd"], strict=True)]
        high = [m + s for m, s in zip(trend["mean"], trend["sd"], strict=True)]
        axis.fill_between(layers, low, high, alpha=0.25)
        axis.plot(layers, trend["mean"])
        axis.set_title(title, fontsize=10)
        axis.set_xticks(list(layers)[:: max(1, len(trend["mean"]) // 8)])
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)
    styles = {"least_first": "-", "random": "--", "most_first": "-"}
    for name, curve in summary["pruning"].items():
        axes[3].plot(range(len(curve)), curve, styles[name], label=name.replace("_", " "))
    axes[3].set_title("accuracy while heads are pruned", fontsize=10)
    axes[3].set_xlabel("heads gone")
    axes[3].set_ylim(0, 1.02)
    axes[3].legend(fontsize=8)
    axes[3].grid(alpha=0.3)
    return figure


def draw_patterns(drawn: Mapping[str, Any]) -> "Figure":
    """The latents of all maps, and the map in the middle of each cluster."""
    from matplotlib.figure import Figure

    patterns = drawn["patterns"]
    columns = (len(patterns) + 1) // 2
    figure = Figure(figsize=(4 + 1.5 * columns, 3.6), layout="constrained")
    grid = figure.add_gridspec(2, columns + 2)
    axis = figure.add_subplot(grid[:, :2])
    x, y = drawn["points"].T
    axis.scatter(x, y, c=drawn["clusters"], cmap="tab20", vmin=0, vmax=19, s=8)
    axis.set_title("maps by pattern", fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    for place, (pattern, medoid) in enumerate(zip(patterns, drawn["medoids"], strict=True)):
        small = figure.add_subplot(grid[place % 2, 2 + place // 2])
        small.imshow(medoid, cmap="magma", vmin=0, vmax=max(float(medoid.max()), 1e-6))
        small.set_title(f"{pattern.number} {pattern.suggestion}\n{100 * pattern.share:.0f} %", fontsize=8)
        small.set_axis_off()
    return figure


def write_heads(folder: Path, summary: Mapping[str, Any], drawn: Mapping[str, Any]) -> Path:
    """Writes ``report.html`` into a folder."""
    best = summary["ranking"][0]
    lead = f"Layer {best['layer']}, head {best['head']} matters most; {summary['pictures']} pictures."
    page = Report("What the attention heads do", lead=lead)
    page.picture(draw_importance(summary, drawn), "Red: the answer is worse without the head; blue: it is better.")
    areas = summary["pruning_areas"]
    if not areas["most_first"] <= areas["random"] <= areas["least_first"]:
        page.warning("Pruning in this ranking's order is no better than a random order: do not trust the ranking.")
    page.heading("Layers").picture(draw_trends(summary, drawn), "Band: standard deviation over heads.")
    page.heading("Patterns").picture(
        draw_patterns(drawn),
        f"Maps of queries (rows) by keys (columns). The clusters' silhouette is {summary['silhouette']:.2f}: near 1 they are apart, near 0 they touch.",
    )
    rows = [
        (h["layer"], h["head"], h["mean"], h["sd"], h["distance"], h["entropy"], h["purity"])
        for h in summary["ranking"][:20]
    ]
    page.heading("Heads").table(
        [
            "layer",
            "head",
            summary["measure"].replace("_", " "),
            "sd over pictures",
            "distance",
            "entropy",
            "purity of its pattern",
        ],
        rows,
    )
    agreement = [(name.replace("_", " "), value) for name, value in summary["agreement"].items()]
    page.heading("Agreement of the measures (Spearman)").facts(agreement)
    return page.write(folder / "report.html")
