"""The report of the demo: what was found, shown before it is told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core_runtime.domains import DemoResult
from core_runtime.report import Report
from pathology_mil.cohort.splits import Split
from pathology_mil.metrics import Metrics
from pathology_mil.model.attention_scores import Scored
from pathology_mil.reports import figures
from pathology_mil.reports.maps import DrawnMap
from pathology_mil.slides.reading import RGB, Slide, find_slides
from pathology_mil.slides.tiles import read_tiles


@dataclass(frozen=True)
class Judged:
    """One model on the test slides.

    Attributes:
        name: for people.
        folder: its model folder.
        metrics: of the slide labels.
        auprc: mean over the test slides with tumour, of the attention against the tiles that are at least half tumour.
        top10: mean share of the attention on the ten tiles with most of it, over the same slides.
        scored: what it says of each test slide.
    """

    name: str
    folder: Path
    metrics: Metrics
    auprc: float
    top10: float
    scored: Mapping[str, Scored]


@dataclass(frozen=True)
class Story:
    """Everything that is told.

    Attributes:
        out: the demo's folder.
        data, tiles, features: where each step's files are.
        split: which slides trained, chose and judged.
        labels: name of the class of each slide.
        judged: the models, the one that is shown first.
        chance: AUPRC of blind attention: the mean share of tumour tiles.
        maps: heat maps by slide.
        seconds: of each step.
    """

    out: Path
    data: Path
    tiles: Path
    features: Path
    split: Split
    labels: Mapping[str, str]
    judged: Sequence[Judged]
    chance: float
    maps: Mapping[str, DrawnMap]
    seconds: Mapping[str, float]


def tell(story: Story) -> DemoResult:
    """Writes `report.html` and returns what the suite shows of it."""
    first = story.judged[0]
    headline = (
        f"{first.name} labels {_right(first.metrics)} of {first.metrics.slides} unseen slides rightly; its attention finds the drawn nests with "
        f"AUPRC {first.auprc:.2f} where blind attention would have {story.chance:.2f}."
    )
    tiles = {s: len(read_tiles(p).coords) for p in sorted((story.tiles / "patches").glob("*.h5")) if (s := p.stem)}
    report = Report("From whole slides to a label and a heat map", lead=headline)
    report.text(
        f"{len(story.labels)} slides were drawn (synthetic tissue, half of them with tumour-like nests), cut into {sum(tiles.values()):,} tiles and "
        "described by colour-texture, a computed baseline that needs no downloaded weights. The models saw one label a slide and never a drawn "
        "outline: where they look is compared with the outlines only afterwards."
    )
    report.heading("Where the model looks")
    for slide_id, drawn in story.maps.items():
        report.picture(drawn.files["figure"], _caption(slide_id, story, drawn))
    shown = next(iter(story.maps))
    report.picture(
        story.maps[shown].files["top tiles"],
        f"The tiles of {shown} with most attention (N a: how many times uniform attention), and whether they lie in a drawn nest.",
        width=720,
    )
    report.heading("The models side by side")
    columns, rows = _table(story)
    report.table(
        columns,
        rows,
        caption=f"Judged on {first.metrics.slides} slides of patients that no model saw. {len(story.split.train)} slides trained, "
        f"{len(story.split.val)} chose the epoch. Attention is judged on the slides with nests.",
    )
    report.picture(
        _curves(story),
        "How fast each model's attention runs out: the share held by its K strongest tiles (mean over test slides with nests).",
    )
    report.heading("The slides")
    report.picture(
        figures.encoded(_gallery(story), ".png"),
        "Some of the slides with tissue (green) and tiles (frames). Pen marks are left out.",
    )
    report.heading("How to do this with your own slides").command(*_commands(story))
    report.text(
        "Take a pathology encoder instead of colour-texture (pathology-mil models lists them). The file SLIDE_tiles.geojson beside each heat map opens "
        "in QuPath by dragging it onto the slide."
    )
    report.heading("How long it took").facts([(step, f"{seconds:.0f} s") for step, seconds in story.seconds.items()])
    path = report.write(story.out / "report.html")
    metrics = {"auprc": first.auprc, "chance": story.chance}
    for judged in story.judged:
        key = judged.folder.parent.name
        metrics |= {
            f"{key}_auroc": judged.metrics.auroc,
            f"{key}_accuracy": judged.metrics.accuracy,
            f"{key}_auprc": judged.auprc,
        }
    picture = (story.maps[shown].files["figure"], _caption(shown, story, story.maps[shown]))
    return DemoResult(headline, path, [picture], columns, rows, metrics)


def _right(metrics: Metrics) -> int:
    return round(metrics.accuracy * metrics.slides)


def _caption(slide_id: str, story: Story, drawn: DrawnMap) -> str:
    label = drawn.facts["label"]
    words = f"{slide_id}, drawn as {story.labels[slide_id]}, labelled {label} with probability {drawn.facts['probabilities'][label]:.2f}"
    if not math.isnan(drawn.facts.get("auprc", math.nan)):
        words += (
            f". Attention against the outlines: AUPRC {drawn.facts['auprc']:.2f}, by chance {drawn.facts['chance']:.2f}"
        )
    return words + "."


def _table(story: Story) -> tuple[list[str], list[list[object]]]:
    columns = ["model", "AUROC", "accuracy", "macro F1", "AUPRC of attention", "by chance", "attention on top 10 tiles"]
    rows: list[list[object]] = [
        [j.name, j.metrics.auroc, j.metrics.accuracy, j.metrics.f1_macro, j.auprc, story.chance, j.top10]
        for j in story.judged
    ]
    return columns, rows


def _curves(story: Story) -> object:
    """Cumulative attention of the K strongest tiles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    tumours = [s for s in story.split.test if story.labels[s] == "tumour"]
    for judged in story.judged:
        curves = [np.cumsum(np.sort(judged.scored[s].attention)[::-1]) for s in tumours]
        length = min(map(len, curves))
        ax.plot(range(1, length + 1), np.mean([c[:length] for c in curves], axis=0), label=judged.name)
    ax.set(xlabel="K strongest tiles", ylabel="share of the attention", xscale="log", ylim=(0, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def _gallery(story: Story, n: int = 8) -> RGB:
    """Thumbnails with their tiles, four a row."""

    shown = [*story.maps, *(s for s in sorted(story.labels) if s not in story.maps)][:n]
    places = {s.slide_id: s.path for s in find_slides(story.data / "slides")}
    pictures, titles = [], []
    for slide_id in sorted(shown):
        tiles = read_tiles(story.tiles / "patches" / f"{slide_id}_patches.h5")
        with Slide(places[slide_id]) as slide:
            drawn = figures.draw_tiles(slide.thumbnail(512), slide.dimensions, tiles.coords, tiles.side)
            titles.append(f"{slide_id}: {story.labels[slide_id]}, {slide.mpp:g} um/px")
        pictures.append(drawn)
    return figures.contact_sheet(pictures, columns=4, side=280, titles=titles)


def _commands(story: Story) -> list[str]:
    return [
        "pathology-mil tile SLIDES --out job --mag 20 --patch-size 256",
        "pathology-mil encode job --encoder timm:NAME --weights FILE",
        "pathology-mil train job/20x_256px_0px_overlap/features_NAME labels.csv --out run",
        "pathology-mil heatmap SLIDE --features job/20x_256px_0px_overlap/features_NAME --model run/model",
    ]
