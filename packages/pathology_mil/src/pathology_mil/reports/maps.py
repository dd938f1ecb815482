"""Heat maps of slides as files: an overlay, a figure beside the slide and the truth, QuPath tiles, and the tiles with most attention."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core_runtime.bulk import Item, Outcome, bulk
from core_runtime.errors import UserError
from core_runtime.folders import data_fingerprint, write_text
from pathology_mil.reports import figures
from pathology_mil.slides.annotations import find_annotation, overlap, read_annotations, tile_regions, tumour, write_geojson
from pathology_mil.features.bags import BagFile, find_bags
from pathology_mil.reports.heatmaps import n_times_a, percentiles, render
from pathology_mil.model.attention_scores import Scored, auprc, read_scores, score_with
from pathology_mil.slides.reading import Slide, SlideFile


@dataclass(frozen=True)
class MapOptions:
    """How a heat map is drawn.

    Args:
        scale: "n-a": N × attention × zoom, 1 is uniform, above 1 is the darkest red; "percentile": ranks.
        zoom: see `scale`.
        cmap: a colour map of matplotlib.
        alpha: how much the colours cover the slide.
        blur: smooth over about a tile.
        max_side: longest side of the picture, pixels.
        branches: also draw each branch.
        top: how many tiles with most attention are shown.
    """

    scale: Literal["n-a", "percentile"] = "n-a"
    zoom: float = 1.0
    cmap: str = "jet"
    alpha: float = 0.4
    blur: bool = False
    max_side: int = 1600
    branches: bool = False
    top: int = 15

    def __post_init__(self) -> None:
        if not (self.zoom > 0 and math.isfinite(self.zoom)):
            raise UserError(f"zoom is a positive factor, got {self.zoom}")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha lies between 0 and 1, got {self.alpha}")

    def values(self, attention: NDArray) -> NDArray[np.float64]:
        """(N,) attention on the scale of the colours, 0 to 1."""
        scaled = n_times_a(attention, zoom=self.zoom) if self.scale == "n-a" else percentiles(attention) / 100
        return np.clip(scaled, 0, 1)

    @property
    def legend(self) -> tuple[str, float]:
        """What the colours mean, and the value of the highest one."""
        if self.scale == "percentile":
            return "rank of the attention (1: highest)", 1.0
        return f"N × attention (1: uniform; {1 / self.zoom:g} and more: darkest)", 1 / self.zoom


@dataclass(frozen=True)
class MapMade:
    """What was drawn of one slide.

    Attributes:
        files: by kind.
        facts: label, probabilities, tiles, and where there is a truth the AUPRC of the attention and its chance level.
    """

    files: Mapping[str, Path]
    facts: Mapping[str, Any] = field(default_factory=dict)


def draw_map(slide: Slide, scored: Scored, out: Path, options: MapOptions, annotation: Path | None = None) -> MapMade:
    """Draws one slide.

    Writes `SLIDE_overlay.png`, `SLIDE_heatmap.png` (slide, truth where there is one, heat map, legend), `SLIDE_tiles.geojson` for QuPath and
    `SLIDE_top.png`.
    """
    if not len(scored.coords):
        raise UserError(f"{slide.slide_id}: no tiles, so there is nothing to draw")
    if (scored.coords >= np.array(slide.dimensions)).any():
        raise UserError(
            f"{slide.slide_id}: the tiles lie outside the slide of {slide.dimensions[0]}×{slide.dimensions[1]} pixels",
            "the scores belong to another slide",
        )
    truth = tumour(read_annotations(annotation)) if annotation else None
    values = options.values(scored.attention)
    draw = {"cmap": options.cmap, "alpha": options.alpha, "blur": options.blur, "max_side": options.max_side}
    heat = render(slide, scored.coords, values, scored.side, **draw)
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
    inside = overlap(truth, scored.coords, scored.side) if truth is not None else None
    if inside is not None:
        measurements["share drawn as tumour"] = inside
        facts |= {"auprc": auprc(scored.attention, inside >= 0.5), "chance": float((inside >= 0.5).mean())}
    write_geojson(files["qupath"], tile_regions(scored.coords, scored.side, measurements))
    figures.save(
        files["figure"],
        figures.map_panels(
            slide,
            heat,
            options.cmap,
            options.legend[0],
            top=options.legend[1],
            truth=truth,
            title=_title(slide, facts),
            max_side=options.max_side,
        ),
    )
    figures.save(files["top tiles"], _top(slide, scored, options.top, inside))
    if options.branches and scored.branches is not None:
        for m, branch in enumerate(scored.branches):
            files[f"branch {m}"] = stem.with_name(f"{stem.name}_branch{m}.png")
            figures.save(
                files[f"branch {m}"], render(slide, scored.coords, options.values(branch), scored.side, **draw)
            )
    return MapMade(files, facts)


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
    order = np.argsort(-scored.attention, kind="stable")[:n]
    size = min(scored.side, 256)
    tiles = [slide.read_tile(*scored.coords[i].tolist(), side=scored.side, size=size) for i in order]
    values = n_times_a(scored.attention)
    mark = [("" if inside is None else ", tumour" if inside[i] >= 0.5 else "") for i in order]
    return figures.contact_sheet(
        tiles, columns=5, titles=[f"N a = {values[i]:.1f}{m}" for i, m in zip(order, mark, strict=True)]
    )


def draw_maps(
    slides: list[SlideFile],
    out: Path,
    options: MapOptions,
    *,
    model: str | None = None,
    bags: Mapping[str, BagFile] | None = None,
    scores: Path | None = None,
    coords: Path | None = None,
    annotations: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> list[Outcome]:
    """Draws the heat maps of slides, from a model and their features or from files of scores.

    Args:
        slides: what to draw.
        out: folder for the pictures.
        options: how.
        model: model folder or hub name, with `bags`.
        bags: features by slide id.
        scores: a file of scores, or a folder of files named after the slides.
        coords: tiles or features, where the scores have no coordinates.
        annotations: a file, or a folder of files named after the slides.
        device: a torch device.
        overwrite: draw again.

    Raises:
        UserError: neither a model with features nor scores.
    """
    if scores is None and (model is None or bags is None):
        raise UserError(
            "a heat map needs a model and features, or scores", "--model FOLDER --features FOLDER, or --scores FILE"
        )
    predictor = None
    if scores is None:
        from pathology_mil.model.inference import Predictor

        predictor = Predictor(str(model), device=device)

    def work(item: Item) -> dict[str, Any]:
        file: SlideFile = item.source
        if predictor is not None and bags is not None:
            if file.slide_id not in bags:
                raise UserError(f"no features of {file.slide_id}", f"there are: {', '.join(list(bags)[:4])} …")
            scored = score_with(predictor, bags[file.slide_id].open())
        else:
            assert scores is not None
            scored = read_scores(_of(scores, file.slide_id), coords_from=_of(coords, file.slide_id) if coords else None)
        with Slide(file.path, mpp=file.mpp) as slide:
            drawn = _annotation(annotations, file.slide_id)
            made = draw_map(slide, scored, out, options, drawn)
            files = {k: str(v) for k, v in made.files.items()}
            facts = {**made.facts, "files": files, "notes": list(scored.notes), "bad_regions": slide.bad_regions}
        write_text(item.output, json.dumps(facts, ensure_ascii=False))
        return facts

    items = [Item(s.slide_id, s, out / f"{s.slide_id}.json") for s in slides]
    identity = _identity(options, model, scores, annotations)
    mark = out / "heatmaps.json"
    fresh = not any(f != mark for f in out.glob("*.json"))  # settings without a map bind nobody
    if not (overwrite or fresh) and mark.is_file() and mark.read_text(encoding="utf-8") != identity:
        raise UserError(
            f"{out} holds heat maps that were drawn otherwise",
            "--overwrite draws them again, --out names another folder",
        )
    write_text(mark, identity)
    if len(items) == 1:
        outcomes = [Outcome(items[0].name, "done")]
        try:
            if overwrite or not items[0].output.is_file():
                work(items[0])
        except UserError:
            if fresh:
                mark.unlink()
                with suppress(OSError):  # what else is in the folder stays
                    out.rmdir()
            raise
    else:
        again = (lambda item: False) if overwrite else None
        outcomes = bulk(work, items, log=out / "heatmap.jsonl", description="Drawing heat maps", already=again)
    return [
        replace(o, facts=json.loads(i.output.read_text(encoding="utf-8"))) if o.ok else o
        for i, o in zip(items, outcomes, strict=True)
    ]


def prepared(slides: Path, model: str, out: Path, *, device: str, **preparation: Any) -> dict[str, BagFile]:
    """Features of slides made as those that a model was trained on (`preparing.prepare`), kept in `out/slides`."""
    from pathology_mil.model.folder import load
    from pathology_mil.features.preparing import prepare

    features, _ = prepare(slides, load(model, device=device), out / "slides", device=device, **preparation)
    return find_bags(features)


def _identity(options: MapOptions, model: str | None, scores: Path | None, annotations: Path | None) -> str:
    """What decides the pictures: drawing options, weights or scores, and whether there is a truth."""
    weights = Path(model) / "model.safetensors" if model else None
    values = {
        **asdict(options),
        "model": data_fingerprint([weights]) if weights is not None and weights.is_file() else model,
        "scores": str(scores) if scores else None,
        "annotations": str(annotations) if annotations else None,
    }
    return json.dumps(values, sort_keys=True)


def _of(place: Path, slide_id: str) -> Path:
    if not place.is_dir():
        return place
    found = next((p for e in (".h5", "_patches.h5", ".npz", ".npy") if (p := place / f"{slide_id}{e}").is_file()), None)
    if found is None:
        raise UserError(f"{place} holds no file of {slide_id}")
    return found


def _annotation(place: Path | None, slide_id: str) -> Path | None:
    if place is None or not place.is_dir():
        return place
    return find_annotation(place, slide_id)
