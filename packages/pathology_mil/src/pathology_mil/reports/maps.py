"""Heat maps of slides as files: an overlay, a figure beside the slide and the truth, QuPath tiles, and the tiles with most attention."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from core_runtime.errors import UserError
from pathology_mil.model.attention_scores import Scored, auprc
from pathology_mil.reports import figures
from pathology_mil.reports.heatmaps import n_times_a, percentiles, render
from pathology_mil.reports.options import MapOptions
from pathology_mil.slides.annotations import overlap, tile_regions, write_geojson
from pathology_mil.slides.pictures import shows_glass
from pathology_mil.slides.reading import Slide

TISSUE_SHARE = 0.05  # of a tile's picture: with less it is glass


def colour_values(attention: NDArray, options: MapOptions) -> NDArray[np.float64]:
    """(N,) attention on the scale of the colours, 0 to 1."""
    if options.scale == "n-a":
        scaled = n_times_a(attention, zoom=options.zoom)
    else:
        scaled = percentiles(attention) / 100
    return np.clip(scaled, 0, 1)


@dataclass(frozen=True)
class DrawnMap:
    """The pictures of one slide.

    Attributes:
        files: by kind.
        facts: label, probabilities, tiles, and where there is a truth the AUPRC of the attention and its chance level.
        notes: what a user should know about the pictures.
    """

    files: Mapping[str, Path]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def draw_map(
    slide: Slide, scored: Scored, out: Path, options: MapOptions, truth: shapely.MultiPolygon | None = None
) -> DrawnMap:
    """Draws one slide.

    Writes `SLIDE_overlay.png`, `SLIDE_heatmap.png` (slide, truth if known, heat map, legend), `SLIDE_tiles.geojson` for QuPath and
    `SLIDE_top.png`.
    """
    if not len(scored.coords):
        raise UserError(f"{slide.slide_id}: no tiles, so there is nothing to draw")
    if (scored.coords >= np.array(slide.dimensions)).any():
        raise UserError(
            f"{slide.slide_id}: the tiles lie outside the slide of {slide.dimensions[0]}×{slide.dimensions[1]} pixels",
            "the scores belong to another slide",
        )
    values = colour_values(scored.attention, options)
    draw = {"cmap": options.cmap, "alpha": options.alpha, "blur": options.blur, "max_side": options.max_side}
    shown = ~_on_glass(slide, scored, options.max_side)
    heat = render(slide, scored.coords[shown], values[shown], scored.side, **draw)
    stem = out / slide.slide_id
    files = {
        "overlay": stem.with_name(f"{stem.name}_overlay.png"),
        "figure": stem.with_name(f"{stem.name}_heatmap.png"),
        "qupath": stem.with_name(f"{stem.name}_tiles.geojson"),
        "top tiles": stem.with_name(f"{stem.name}_top.png"),
    }
    figures.save(files["overlay"], heat)
    facts: dict[str, Any] = {"slide_id": slide.slide_id, "tiles": len(scored.attention), **scored.facts}
    measurements = {"attention": scored.attention, "N x attention": n_times_a(scored.attention)}
    if scored.label is not None:
        facts |= {"label": scored.label, "probabilities": dict(scored.probabilities)}
    inside = None
    if truth is not None:
        inside = overlap(truth, scored.coords, scored.side)
        is_tumour = inside >= 0.5  # tiles on the border count by their larger part
        measurements["share drawn as tumour"] = inside
        facts |= {"auprc": auprc(scored.attention, is_tumour), "chance": float(is_tumour.mean())}
    write_geojson(files["qupath"], tile_regions(scored.coords, scored.side, measurements))
    legend, highest = options.legend
    panels = figures.map_panels(
        slide,
        heat,
        options.cmap,
        legend,
        top=highest,
        truth=truth,
        title=_title(slide, facts),
        max_side=options.max_side,
    )
    figures.save(files["figure"], panels)
    figures.save(files["top tiles"], _top(slide, scored, options.top, inside))
    if options.branches and scored.branches is not None:
        for m, branch in enumerate(scored.branches):
            files[f"branch {m}"] = stem.with_name(f"{stem.name}_branch{m}.png")
            values = colour_values(branch, options)[shown]
            figures.save(files[f"branch {m}"], render(slide, scored.coords[shown], values, scored.side, **draw))
    return DrawnMap(files, facts, _glass_notes(scored, shown))


def _on_glass(slide: Slide, scored: Scored, max_side: int) -> NDArray[np.bool_]:
    """The tiles of which the picture shows hardly anything but glass, (N,): a colour there would look like tissue. Not if all tiles do."""
    thumbnail = slide.thumbnail(max_side)
    scale = np.array([thumbnail.shape[1], thumbnail.shape[0]]) / slide.dimensions
    glass = shows_glass(thumbnail)
    corners = np.floor(scored.coords * scale).astype(int).clip(0)
    ends = np.maximum(np.ceil((scored.coords + scored.side) * scale).astype(int), corners + 1)
    on_glass = np.zeros(len(corners), bool)
    for i, ((x, y), (right, bottom)) in enumerate(zip(corners, ends, strict=True)):
        on_glass[i] = glass[y:bottom, x:right].mean() > 1 - TISSUE_SHARE
    if on_glass.all():
        return np.zeros(len(corners), bool)
    return on_glass


def _glass_notes(scored: Scored, shown: NDArray[np.bool_]) -> tuple[str, ...]:
    """How many tiles were left uncoloured, and how much attention lies on them."""
    count = int((~shown).sum())
    if not count:
        return ()
    share = float(scored.attention[~shown].sum())
    return (
        f"{count:,} of {len(shown):,} tiles show glass alone and are not coloured; {share:.0%} of the attention lies on them",
    )


def _title(slide: Slide, facts: Mapping[str, Any]) -> str:
    parts = [slide.slide_id]
    if "label" in facts:
        parts.append(f"{facts['label']} ({facts['probabilities'][facts['label']]:.2f})")
    parts.append(f"{facts['tiles']:,} tiles")
    if slide.mpp is not None:
        parts.append(f"{slide.mpp:g} µm per pixel")
    if not math.isnan(facts.get("auprc", float("nan"))):
        parts.append(f"AUPRC {facts['auprc']:.2f} (chance {facts['chance']:.2f})")
    return " · ".join(parts)


def _top(slide: Slide, scored: Scored, n: int, inside: NDArray | None) -> NDArray[np.uint8]:
    """The n tiles with the most attention side by side, with N a and whether they are tumour."""
    order = np.argsort(-scored.attention, kind="stable")[:n]
    size = min(scored.side, 256)
    values = n_times_a(scored.attention)
    tiles, titles = [], []
    for i in order:
        tiles.append(slide.read_tile(*scored.coords[i].tolist(), side=scored.side, size=size))
        title = f"N a = {values[i]:.1f}"
        if inside is not None and inside[i] >= 0.5:
            title += ", tumour"
        titles.append(title)
    return figures.contact_sheet(tiles, columns=5, titles=titles)
