"""What a user looks at."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from newdomain.signals.reading import WINDOW, Signal


def draw_signal(signal: Signal, weights: Sequence[float] | None = None) -> Figure:
    """The trace, and behind it the windows shaded by attention weight."""
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axes = figure.subplots()
    if weights is not None:
        for i, weight in enumerate(weights):
            begin = signal.seconds[i * WINDOW]
            end = signal.seconds[min((i + 1) * WINDOW, len(signal.seconds) - 1)]
            axes.axvspan(begin, end, color="tab:orange", alpha=0.8 * weight / max(weights), linewidth=0)
    axes.plot(signal.seconds, signal.values, linewidth=0.8, color="black")
    axes.set(title=signal.name, xlabel="seconds", xlim=(signal.seconds[0], signal.seconds[-1]))
    return figure
