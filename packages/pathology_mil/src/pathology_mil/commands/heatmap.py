"""``pathology-mil heatmap``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, require_results
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.options import BulkOptions, Device, Model, Out, resolve_device
from pathology_mil.features.options import EncoderOptions
from pathology_mil.model.published import NO_CLASSIFIERS
from pathology_mil.reports.notes import note_lines, slide_facts
from pathology_mil.reports.options import MapOptions
from pathology_mil.slides.options import ExcludeOptions, ScanOptions, TruthOptions

if TYPE_CHECKING:
    from shapely import MultiPolygon

    from pathology_mil.features.bags import BagFile
    from pathology_mil.model.attention_scores import Scored
    from pathology_mil.slides.reading import Slide, SlideFile


@dataclass(frozen=True)
class Heatmaps(BulkOutcome):
    """Pictures of slides.

    Attributes:
        folder: holds, per slide, SLIDE_heatmap.png, SLIDE_overlay.png, SLIDE_top.png, SLIDE_tiles.geojson and SLIDE.json.
        attempts: the result of each slide; its facts name the files.
    """

    folder: Path
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "slides": slide_facts(self.attempts)}

    def lines(self) -> Iterable[str]:
        for attempt in self.attempts:
            if not attempt.ok:
                continue
            facts = attempt.facts
            parts = [f"{facts['tiles']:,} tiles"]
            if "label" in facts:
                parts.insert(0, f"{facts['label']} ({facts['probabilities'][facts['label']]:.3f})")
            if "encoder" in facts:
                parts.append(f"encoder {facts['encoder']}")
            if facts.get("auprc") is not None:
                parts.append(f"AUPRC of the attention {facts['auprc']:.3f}, chance {facts['chance']:.3f}")
            yield f"{attempt.name}: {', '.join(parts)}"
            yield f"  {facts['files']['figure']}"
            yield f"  for QuPath: {facts['files']['qupath']}"
        yield from note_lines(self.attempts)


@dataclass(frozen=True)
class _Work:
    """What a process needs to draw one slide: a model and features, or scores."""

    slide: "SlideFile"
    out: Path
    options: MapOptions
    model: str | None
    bag: "BagFile | None"
    scores: Path | None
    coords: Path | None
    annotation: Path | None
    truth_class: Sequence[str]
    exclude_class: Sequence[str]
    device: str


def heatmap(
    slides: Path,
    /,
    *,
    model: Model = None,
    features: Path | None = None,
    encoder: EncoderOptions = EncoderOptions(),
    scores: Path | None = None,
    coords: Path | None = None,
    annotations: Path | None = None,
    out: Out = Path("heatmaps"),
    truth: TruthOptions = TruthOptions(),
    excluding: ExcludeOptions = ExcludeOptions(),
    drawing: MapOptions = MapOptions(),
    scan: ScanOptions = ScanOptions(),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Heatmaps:
    """Draws where the attention is: picture, QuPath tiles, and the tiles with most of it.

    Example: pathology-mil heatmap slide.svs --features job/20x_256px_0px_overlap/features_uni_v1 --model run/model

    Args:
        slides: a slide, a folder (searched to any depth) or a CSV (columns wsi, mpp).
        features: features of the slide, or a folder of them, for --model; computed if not given.
        scores: your own scores instead (.h5, .npz, .npy), or a folder of them.
        coords: tiles or features with the coordinates of --scores.
        annotations: annotated truth (ASAP XML, GeoJSON), or a folder of it.
    """
    from core_runtime.models import choose_model
    from pathology_mil.slides.reading import find_slides

    if scores is None:
        model = choose_model(model, advice=NO_CLASSIFIERS)
    else:
        model = None  # the user's own scores are drawn instead
    where = resolve_device(device)
    bags = None
    if model is not None:
        bags = _bags(slides, model, features, out, encoder, scan, where, run)
    files = find_slides(slides, mpp=scan.mpp)
    items = []
    for file in files:
        slide_id = file.slide_id
        bag = None
        if bags is not None:
            bag = _bag_of(bags, slide_id)
        work = _Work(
            slide=file,
            out=out,
            options=drawing,
            model=model,
            bag=bag,
            scores=_file_of(scores, slide_id),
            coords=_file_of(coords, slide_id),
            annotation=_annotation_of(annotations, slide_id),
            truth_class=truth.truth_class,
            exclude_class=excluding.exclude_class,
            device=where,
        )
        items.append(_item(work))
    attempts = bulk(_draw, items, run.on(where), log=out / "heatmap.jsonl", description="Drawing heat maps")
    if len(attempts) == 1:
        require_results(attempts)
    return Heatmaps(out, [_with_facts(item, attempt) for item, attempt in zip(items, attempts, strict=True)])


def _bags(
    slides: Path,
    model: str,
    features: Path | None,
    out: Path,
    encoder: EncoderOptions,
    scan: ScanOptions,
    device: str,
    run: BulkOptions,
) -> "Mapping[str, BagFile]":
    """The features of the slides: those given, or new ones made as those that the model was trained on."""
    from pathology_mil.features.bags import find_bags
    from pathology_mil.model.folder import load
    from pathology_mil.model.preparing import prepare

    if features is None:
        how = {"encoder": encoder, "mpp": scan.mpp, "run": run}
        features, _ = prepare(slides, load(model, device=device), out / "slides", device=device, **how)
    return find_bags(features)


def _bag_of(bags: "Mapping[str, BagFile]", slide_id: str) -> "BagFile":
    if slide_id not in bags:
        raise UserError(f"{slide_id} has no features", f"slides with features: {', '.join(list(bags)[:4])} …")
    return bags[slide_id]


def _file_of(place: Path | None, slide_id: str) -> Path | None:
    """The file that was given, or the file in a folder that is named after the slide."""
    if place is None or not place.is_dir():
        return place
    for ending in (".h5", "_patches.h5", ".npz", ".npy"):
        path = place / f"{slide_id}{ending}"
        if path.is_file():
            return path
    raise UserError(f"{place} holds no file for {slide_id}")


def _annotation_of(place: Path | None, slide_id: str) -> Path | None:
    from pathology_mil.slides.annotations import find_annotation

    if place is None or not place.is_dir():
        return place
    return find_annotation(place, slide_id)


def _item(work: _Work) -> Item:
    from core_runtime.identity import identity, model_identity

    sources = {
        "slide": work.slide.path,
        "features": work.bag.path if work.bag is not None else None,
        "scores": work.scores,
        "coords": work.coords,
        "annotations": work.annotation,
    }
    inputs = []
    key: dict[str, Any] = {}
    for name, path in sources.items():
        key[name] = None
        if path is None:
            continue
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        key[name] = identity(path)
        inputs.append(path)
    key |= {"slide_mpp": work.slide.mpp, "options": work.options}
    key |= {"truth_class": list(work.truth_class), "exclude_class": list(work.exclude_class)}
    key["model"] = None
    if work.model is not None:
        key["model"] = model_identity(Path(work.model))
    return Item(work.slide.slide_id, work, work.out / f"{work.slide.slide_id}.json", key=key, inputs=inputs)


@keep_latest
def _predictor(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from pathology_mil.model.inference import Predictor

    return Predictor(model, device=device)


def _scored(work: _Work) -> "Scored":
    from pathology_mil.model.attention_scores import read_scores, score_with

    if work.bag is not None:
        return score_with(_predictor(str(work.model), work.device), work.bag.open())
    assert work.scores is not None
    return read_scores(work.scores, coords_from=work.coords)


def _draw(item: Item) -> dict[str, Any]:
    """Writes the pictures of one slide, and then the JSON file that lists them: its presence means that all are there."""
    from core_runtime.folders import write_text
    from pathology_mil.reports.maps import draw_map
    from pathology_mil.slides.reading import Slide

    work: _Work = item.source
    scored = _scored(work)
    with Slide(work.slide.path, mpp=work.slide.mpp) as slide:
        truth, notes = _truth(work, slide)
        drawn = draw_map(slide, scored, work.out, work.options, truth)
        files = {kind: str(path) for kind, path in drawn.files.items()}
        facts = {
            **drawn.facts,
            "files": files,
            "notes": [*scored.notes, *notes, *drawn.notes],
            "bad_regions": slide.bad_regions,
        }
    write_text(item.output, json.dumps(facts, ensure_ascii=False))
    return facts


def _truth(work: _Work, slide: "Slide") -> "tuple[MultiPolygon | None, list[str]]":
    """The annotated truth, and in words which classes it holds."""
    from pathology_mil.slides.annotations import read_annotations
    from pathology_mil.slides.regions import outside, truth_area

    if work.annotation is None:
        return None, []
    regions, name = read_annotations(work.annotation), work.annotation.name
    outside_slide = outside(regions, slide.dimensions, name)
    area = truth_area(regions, truth_class=work.truth_class, exclude_class=work.exclude_class, where=name)
    notes = [area.words("truth", slide.mpp)]
    if outside_slide:
        notes.append(outside_slide)
    return area.shape, notes


def _with_facts(item: Item, attempt: Attempt) -> Attempt:
    """The attempt with the facts of the map, also where an earlier run drew it."""
    if not attempt.ok:
        return attempt
    return replace(attempt, facts=json.loads(item.output.read_text(encoding="utf-8")))
