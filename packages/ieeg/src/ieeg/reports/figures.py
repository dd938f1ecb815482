"""What a person looks at: traces, probabilities, importance of channels, attention, curves."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
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
    """Channels one below the other, at most 40; `shade` (0 to 1) colours each by its importance."""
    most = 40
    step = max(1, -(-len(names) // most))
    rows = range(0, len(names), step)
    figure = Figure(figsize=(11, 1.2 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots()
    thin = max(1, x.shape[1] // 4000)
    times = start + np.arange(0, x.shape[1], thin) / rate
    spread = np.nanmedian(np.nanstd(x, 1)) * 6 or 1.0
    import matplotlib

    colours = matplotlib.colormaps["plasma_r"]
    for line, i in enumerate(rows):
        colour = BAD if names[i] in bads else "black" if shade is None else colours(0.25 + 0.75 * float(shade[i]))
        values = np.clip((x[i, ::thin] - np.nanmedian(x[i])) / spread, -1.6, 1.6)
        axes.plot(times, values - line, linewidth=0.5, color=colour)
    for a, b in seizures if seizures is not None else ():
        if b > times[0] and a < times[-1]:
            axes.axvspan(max(a, times[0]), min(b, times[-1]), color=SEIZURE, alpha=0.12, linewidth=0)
    axes.set_yticks([-float(i) for i in range(len(rows))], [names[i] for i in rows], fontsize=6)
    axes.set(xlabel="seconds", xlim=(times[0], times[-1]), ylim=(-len(rows) - 0.5, 1.5), title=title)
    return figure


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
    unit, word = (
        (3600, "hours")
        if len(probability) * seconds > 3 * 3600
        else (60, "minutes")
        if len(probability) * seconds > 300
        else (1, "seconds")
    )
    edges = np.arange(len(probability) + 1) * seconds / unit
    axes.stairs(probability, edges, color="black", linewidth=0.8)
    axes.axhline(threshold, color="grey", linestyle=":", linewidth=1)
    for e in events:
        axes.axvspan(e.onset / unit, e.offset / unit, ymin=0.93, color=FOUND, linewidth=1)
    for a, b in marked if marked is not None else ():
        axes.axvspan(a / unit, b / unit, color=SEIZURE, alpha=0.18, linewidth=1)
    axes.set(xlabel=word, ylabel="probability", ylim=(0, 1.08), xlim=(0, edges[-1]))
    return figure


def draw_importance(importance: Float[np.ndarray, " channels"], names: Sequence[str]) -> Figure:
    """A bar a channel: its evidence, in log-odds."""
    figure = Figure(figsize=(11, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(names)), importance, color=np.where(importance > 0, SEIZURE, "tab:gray"))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(ylabel="evidence (log-odds)", xlim=(-0.6, len(names) - 0.4))
    return figure


def draw_attention(map: AttentionMap, names: Sequence[str], seconds: float, at: int) -> Figure:
    """Attention of segment `at` over segments and channels, and its share a segment and a channel."""
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
