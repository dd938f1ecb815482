"""The files of a forecast: waveforms, similarities, a picture, a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from core_runtime.folders import write_text, writing
from core_runtime.report import Report
from ieeg.model.forecast import Forecast
from ieeg.model.published import RESEARCH_ONLY

_COLUMNS = ("step", "onset", "similarity", "persistence", "better", "found")


def write_forecast(
    forecast: Forecast,
    out: Path,
    name: str,
    rate: float,
    steps: Sequence[Mapping[str, float]],
    notes: Sequence[str],
) -> None:
    """Writes ``forecast.npz`` (waveforms), ``forecast.tsv`` (each channel's similarity), the picture and ``report.html``."""
    with writing(out / "forecast.npz") as part, part.open("wb") as file:
        np.savez(
            file,
            names=np.array(forecast.names),
            rate=rate,
            context=forecast.context,
            predicted=forecast.predicted,
            truth=forecast.truth,
        )
    lines = ["channel\tstep\tsimilarity\tpersistence"]
    for step in range(len(forecast.truth)):
        measures = zip(forecast.names, forecast.similarity[step], forecast.persistence[step], strict=True)
        for channel, similarity, persistence in measures:
            lines.append(f"{channel}\t{step + 1}\t{similarity:.6f}\t{persistence:.6f}")
    write_text(out / "forecast.tsv", "\n".join(lines) + "\n")
    picture = out / "figures" / "forecast.png"
    with writing(picture) as part:
        draw_forecast(forecast, rate).savefig(part, format="png", dpi=110)
    report = Report("Forecast", lead=f"{name}: forecast of the next segments of every channel")
    report.warning(RESEARCH_ONLY)
    for note in notes:
        report.text(note)
    report.picture(
        picture,
        "Grey: recorded; orange: forecast. The model predicts embeddings; a waveform is the likeliest one with the "
        "predicted embedding, given the spectrum of the segments before.",
    )
    rows = []
    for measures in steps:
        rows.append([measures[column] for column in _COLUMNS])
    report.table(
        _COLUMNS,
        rows,
        caption="Cosine of predicted and true embeddings; persistence repeats the last known segment; better: share of channels above it; "
        "found: share whose true next segment is the nearest of all known ones.",
    )
    report.link("forecast.npz", "Waveforms (microvolts)").link("forecast.tsv", "Similarity of every channel")
    report.write(out / "report.html")


def draw_forecast(forecast: Forecast, rate: float, *, most: int = 6) -> Figure:
    """A figure: forecast and truth of a few channels, and the similarity of all beside that of repeating the last segment."""
    known = len(forecast.truth)
    order = np.arange(len(forecast.names))
    if known:
        order = np.argsort(-forecast.similarity.mean(0))
    # from the best to the worst, evenly: the best alone would flatter
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).astype(int))]
    figure = Figure(figsize=(11, 1.2 * len(shown) + 2.4), layout="constrained")
    grid = figure.add_gridspec(len(shown), 2, width_ratios=(3, 1))
    samples = forecast.context.shape[-1]
    before = np.arange(-samples, 0) / rate
    after = np.arange(len(forecast.predicted) * samples) / rate
    axes = None
    for row, channel in enumerate(shown):
        axes = figure.add_subplot(grid[row, 0], sharex=axes)
        axes.plot(before, forecast.context[channel], color="0.4", lw=0.6)
        if known:
            truth = forecast.truth[:, channel].reshape(-1)
            axes.plot(after[: len(truth)], truth, color="0.4", lw=0.6, label="recorded")
        axes.plot(after, forecast.predicted[:, channel].reshape(-1), color="C1", lw=0.8, label="forecast")
        axes.axvline(0, color="k", lw=0.8)
        axes.set_ylabel(f"{forecast.names[channel]}\nµV", rotation=0, ha="right", va="center", fontsize=8)
        axes.tick_params(labelsize=7, labelbottom=row == len(shown) - 1)
        if row == 0:
            axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    if axes is not None:
        axes.set_xlabel("seconds from the first forecast segment")
    side = figure.add_subplot(grid[:, 1])
    if known:
        side.scatter(forecast.persistence.ravel(), forecast.similarity.ravel(), s=9, color="C1", alpha=0.7)
        low = min(float(forecast.persistence.min()), float(forecast.similarity.min()), 0.0)
        side.plot([low, 1], [low, 1], color="k", lw=0.8)
        side.set_xlabel("similarity of the last segment", fontsize=8)
        side.set_ylabel("similarity of the forecast", fontsize=8)
        side.set_title("above the line: better than\nrepeating the last segment", fontsize=8)
    else:
        side.text(0.5, 0.5, "the recording ends here:\nno truth to compare with", ha="center", va="center")
        side.axis("off")
    return figure
