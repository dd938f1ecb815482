"""Figures: traces, probabilities, evidence, importance of channels, attention."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ieeg.model.inference import AttentionMap
from ieeg.results.events import SeizureEvent

SEIZURE, FOUND, BAD = "tab:red", "tab:blue", "tab:orange"


def draw_traces(
    x: Float[np.ndarray, "channels samples"],
    rate: float,
    names: Sequence[str],
    *,
    start: float = 0.0,
    seizures: NDArray[np.float64] | None = None,
    bads: Sequence[str] = (),
    shade: Float[np.ndarray, " channels"] | None = None,
    title: str = "",
) -> Figure:
    """Channels one below the other, at most 40 (the title says of how many), with a scale in microvolts; `shade` (0 to 1) colours each channel
    by its importance."""
    import matplotlib

    most = 40
    step = max(1, -(-len(names) // most))  # rounded up
    rows = range(0, len(names), step)
    figure = Figure(figsize=(11, 1.2 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots()
    thin = max(1, x.shape[1] // 4000)  # a page cannot show more points
    times = start + np.arange(0, x.shape[1], thin) / rate
    spread = np.nanmedian(np.nanstd(x, 1)) * 6 or 1.0  # 1.0: all channels are flat
    colours = matplotlib.colormaps["plasma_r"]
    for line, i in enumerate(rows):
        if names[i] in bads:
            colour = BAD
        elif shade is None:
            colour = "black"
        else:
            colour = colours(0.25 + 0.75 * float(shade[i]))  # the palest quarter is hard to see on white
        values = np.clip((x[i, ::thin] - np.nanmedian(x[i])) / spread, -1.6, 1.6)
        axes.plot(times, values - line, linewidth=0.5, color=colour)
    if seizures is not None:
        for onset, offset in seizures:
            if offset > times[0] and onset < times[-1]:
                axes.axvspan(max(onset, times[0]), min(offset, times[-1]), color=SEIZURE, alpha=0.12, linewidth=0)
    axes.set_yticks([-float(line) for line in range(len(rows))], [names[i] for i in rows], fontsize=6)
    if step > 1:
        title = f"{title} ({len(rows)} of {len(names)} channels: one of {step})".strip()
    axes.set(xlabel="seconds", xlim=(times[0], times[-1]), ylim=(-len(rows) - 0.5, 1.5), title=title)
    _draw_scale(axes, spread)
    return figure


def _draw_scale(axes: Axes, spread: float) -> None:
    """A bar beside the traces of a round number of microvolts; one unit of the axis is `spread` microvolts."""
    power = 10.0 ** np.floor(np.log10(spread))
    microvolts = max(step for step in (power, 2 * power, 5 * power) if step <= spread)
    height = microvolts / spread
    right = axes.get_yaxis_transform()  # x in shares of the picture, y in units of the axis
    axes.plot([1.012, 1.012], [-height / 2, height / 2], color="black", linewidth=2, transform=right, clip_on=False)
    axes.text(1.02, 0, f"{microvolts:g} µV", transform=right, va="center", fontsize=7)


def draw_evidence(
    evidence: Float[np.ndarray, "segments channels"],
    names: Sequence[str],
    seconds: float,
    events: Sequence[SeizureEvent],
    marked: NDArray[np.float64] | None = None,
) -> Figure:
    """Each channel's evidence over the recording (red: for a seizure, blue: against), with detected (blue bar) and marked (red bar) seizures."""
    columns = min(len(evidence), 1500)
    edges = np.linspace(0, len(evidence), columns + 1).astype(int)
    # Where several segments share a column, the greatest is drawn, so that no short event is lost.
    strongest = np.stack([evidence[first:last].max(0) for first, last in pairwise(edges)], 1)
    limit = max(float(np.quantile(np.abs(strongest), 0.99)), 1e-6)
    divisor, unit = _time_unit(len(evidence) * seconds)
    duration = len(evidence) * seconds / divisor
    figure = Figure(figsize=(11, 1.4 + 0.13 * len(names)), layout="constrained")
    axes = figure.subplots()
    extent = (0, duration, len(names) - 0.5, -0.5)
    image = axes.imshow(
        strongest, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", extent=extent
    )
    bars = [([(event.onset, event.offset) for event in events], -1.0, FOUND)]
    if marked is not None:
        bars.append((marked.tolist(), -1.7, SEIZURE))
    for spans, height, colour in bars:
        for onset, offset in spans:
            times = [onset / divisor, offset / divisor]
            axes.plot(times, [height, height], color=colour, linewidth=4, solid_capstyle="butt")
    axes.set(xlabel=unit, xlim=(0, duration), ylim=(len(names) - 0.5, -2.2))
    axes.set_yticks(range(len(names)), names, fontsize=6)
    figure.colorbar(image, ax=axes, label="evidence (log-odds)")
    return figure


def _time_unit(seconds: float) -> tuple[int, str]:
    """Seconds per unit of an axis, and its name."""
    if seconds > 3 * 3600:
        return 3600, "hours"
    if seconds > 300:
        return 60, "minutes"
    return 1, "seconds"


def draw_probability(
    probability: NDArray[np.floating],
    seconds: float,
    threshold: float,
    events: Sequence[SeizureEvent],
    marked: NDArray[np.float64] | None = None,
) -> Figure:
    """The probability over the recording, its events (blue) and the marked seizures (red)."""
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    axes = figure.subplots()
    unit, word = _time_unit(len(probability) * seconds)
    edges = np.arange(len(probability) + 1) * seconds / unit
    axes.stairs(probability, edges, color="black", linewidth=0.8)
    axes.axhline(threshold, color="grey", linestyle=":", linewidth=1)
    for event in events:
        axes.axvspan(event.onset / unit, event.offset / unit, ymin=0.93, color=FOUND, linewidth=1)
    if marked is not None:
        for onset, offset in marked:
            axes.axvspan(onset / unit, offset / unit, color=SEIZURE, alpha=0.18, linewidth=1)
    axes.set(xlabel=word, ylabel="probability", ylim=(0, 1.08), xlim=(0, edges[-1]))
    return figure


def draw_importance(importance: Float[np.ndarray, " channels"], names: Sequence[str]) -> Figure:
    """A bar per channel: by how much its evidence, in log-odds, exceeds the mean over channels, which stands at the axis.

    The evidence itself would say little: attention mixes the channels, so that all of them have nearly the mean.
    """
    mean = float(importance.mean())
    beyond = importance - mean
    figure = Figure(figsize=(11, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(names)), beyond, color=np.where(beyond > 0, SEIZURE, "tab:gray"))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(ylabel=f"log-odds beyond\nthe mean of {mean:+.2f}", xlim=(-0.6, len(names) - 0.4))
    return figure


def draw_attention(map: AttentionMap, names: Sequence[str], seconds: float, at: int) -> Figure:
    """Attention of segment `at` over segments and channels, and its share per segment."""
    figure = Figure(figsize=(11, 1.6 + 0.12 * len(names)), layout="constrained")
    top, grid = figure.subplots(2, 1, height_ratios=(1, 4), sharex=True)
    times = (np.arange(len(map.grid)) - len(map.grid) + 1) * seconds
    top.bar(times, map.time, width=0.8 * seconds, color=FOUND)
    top.set(ylabel="share", title=f"attention of the segment at {at * seconds:g} s")
    extent = (times[0] - seconds / 2, times[-1] + seconds / 2, len(names) - 0.5, -0.5)
    image = grid.imshow(map.grid.T, aspect="auto", cmap="viridis", interpolation="nearest", extent=extent)
    grid.set_yticks(range(len(names)), names, fontsize=6)
    grid.set(xlabel="seconds before the segment")
    figure.colorbar(image, ax=grid, label="attention")
    return figure
