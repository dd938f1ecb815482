"""What a user sees of an arena: one page with the table and curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Picture

from core_runtime.report import Report
from language_models.arena.cells import Budget
from language_models.arena.table import Row, cells_of

STYLES = ("-", "--", ":", "-.")


def _curve(axes: Any, rows: Sequence[Row], read: Any) -> None:
    for number, row in enumerate(rows):
        points = [(x, y) for x, y in read(row) if y is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            color, style = f"C{number % 10}", STYLES[number // 10 % len(STYLES)]
            axes.plot(xs, ys, marker=".", label=row.kind, color=color, linestyle=style, linewidth=1.3)


def draw_curves(rows: Sequence[Row], budget: Budget) -> Picture:
    """Bits per byte, needles, and recall where it was asked."""
    recalls = any(row.recall for row in rows)
    figure = Picture(figsize=(15 if recalls else 10.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 3 if recalls else 2)
    bits, needles = panels[0], panels[1]
    _curve(bits, rows, lambda row: [(c, f.mean) for c, f in row.bits.items()])
    bits.set(title="Held-out text", xlabel="context (tokens)", ylabel="bits per byte")
    _curve(needles, rows, lambda row: [(n, f.mean) for n, f in row.needles.items()])
    needles.axvline(budget.context, color="0.7", linewidth=0.8)
    needles.annotate("training length", (budget.context, 1.03), color="0.5", fontsize=8, ha="center")
    needles.axhline(1 / 16, color="0.85", linewidth=0.8)
    needles.set(title="Needle (chance 1/16)", xlabel="length (tokens)", ylabel="accuracy", ylim=(-0.03, 1.08))
    _doubling(bits, [c for row in rows for c in row.bits])
    _doubling(needles, budget.needle_lengths)
    if recalls:
        recall = panels[2]
        _curve(recall, rows, lambda row: [(n, f.mean) for n, f in row.recall.items()])
        recall.set(title="Associative recall (chance 1/32)", xlabel="pairs", ylabel="accuracy", ylim=(-0.03, 1.08))
        _doubling(recall, [n for row in rows for n in row.recall])
    _legend(figure, panels)
    return figure


def _doubling(axes: Any, values: Sequence[int]) -> None:
    """An axis of powers of two, marked at the values that were measured."""
    axes.set_xscale("log", base=2)
    marks = sorted(set(values))
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.minorticks_off()


def _legend(figure: Picture, panels: Sequence[Any]) -> None:
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)


def draw_speed(rows: Sequence[Row]) -> Picture:
    """Decode time and state by length."""
    figure = Picture(figsize=(11, 4.2), layout="constrained")
    decode, state = figure.subplots(1, 2)
    _curve(decode, rows, lambda row: [(n, at.get("decode_ms_per_token")) for n, at in row.speed.items()])
    decode.set(title="Decoding", xlabel="tokens read", ylabel="ms per token", yscale="log")
    _curve(state, rows, lambda row: [(n, (at.get("state_bytes") or 0) / 1000 or None) for n, at in row.speed.items()])
    state.set(title="State", xlabel="tokens read", ylabel="kB", yscale="log")
    for axes in (decode, state):
        _doubling(axes, [n for row in rows for n in row.speed])
    _legend(figure, (decode, state))
    return figure


def draw_needles(rows: Sequence[Row]) -> Picture | None:
    """Needles by length and depth, one small map a kind."""
    shown = [row for row in rows if row.needle_grid]
    if not shown:
        return None
    across = min(6, len(shown))
    down = -(-len(shown) // across)
    figure = Picture(figsize=(2.3 * across, 2.1 * down + 0.4), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, row in zip(panels.flat, shown, strict=False):
        lengths = list(row.needle_grid)
        depths = list(row.needle_grid[lengths[0]])
        values = [[row.needle_grid[n][depth] for n in lengths] for depth in depths]
        axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_title(row.kind, fontsize=9)
        axes.set_xticks(range(len(lengths)), lengths, fontsize=6, rotation=45)
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=6)
    return figure


def arena_report(rows: Sequence[Row], budget: Budget, facts: dict[str, Any], headline: str) -> Report:
    """The page."""
    report = Report("Language model arena", lead=headline)
    report.facts([(name, value) for name, value in facts.items() if not isinstance(value, (dict, list))])
    report.picture(
        draw_curves(rows, budget), "Every kind has the same parameters and saw the same batches; means over seeds."
    )
    grid = draw_needles(rows)
    if grid is not None:
        report.picture(grid, "Needles by length (across) and depth (down): yellow is found, dark is missed.")
    if any(row.speed for row in rows):
        report.picture(draw_speed(rows), "Time and state after so many tokens, on this machine.")
    titles, body = cells_of(rows, budget)
    report.heading("Table").table(titles, body, caption="± is half of a 95 % interval over seeds.")
    for row in rows:
        for part, why in row.failed.items():
            report.warning(f"{row.kind}, {part}: {why}")
    return report
