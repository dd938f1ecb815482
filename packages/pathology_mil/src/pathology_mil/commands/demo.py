"""The demo: slides are drawn, tiled, encoded; three models learn, are judged by label and by where they look; a report shows it."""

import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.cli import note
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.suite import DemoResult
from pathology_mil.slides.annotations import find_annotation, overlap, read_annotations, tumour
from pathology_mil.reports.demo import Judged, Story, tell
from pathology_mil.features.encoders import EncoderChoice
from pathology_mil.features.encoding import EncodeParams, encode_slides
from pathology_mil.features.bags import BagFile, find_bags
from pathology_mil.cohort.labels import Labels, read_labels
from pathology_mil.reports.maps import MapMade, MapOptions, draw_map
from pathology_mil.model.inference import Predictor
from pathology_mil.training.recipe import ModelName, Recipe
from pathology_mil.commands.train import train
from pathology_mil.samples.samples import SampleParams, make_samples
from pathology_mil.model.attention_scores import auprc, score_with
from pathology_mil.slides.reading import Slide, find_slides
from pathology_mil.cohort.splits import Split
from pathology_mil.slides.tiles import TileParams
from pathology_mil.slides.tiling import tile_slides

TILES = TileParams(patch_size=128, mag=20.0, min_tissue=0.25)


@dataclass(frozen=True)
class Plan:
    """How much is made and learned."""

    slides: int
    epochs: int
    models: tuple[ModelName, ...]


QUICK = Plan(slides=24, epochs=30, models=("acmil", "abmil", "mean"))
FULL = Plan(slides=72, epochs=60, models=("acmil", "acmil-mha", "abmil", "mean"))
NAMES: Mapping[str, str] = {
    "acmil": "ACMIL (gated)",
    "acmil-mha": "ACMIL (multi-head)",
    "abmil": "ABMIL",
    "mean": "mean pooling",
}


@dataclass(frozen=True)
class _Begun:
    """What is there before the models learn."""

    out: Path
    data: Path
    features: Path
    split: Split
    names: Mapping[str, str]


def demo(out: Path, *, full: bool = False, seed: int = 0, workers: int = 2, overwrite: bool = False) -> DemoResult:
    """Runs the whole way on drawn slides; an interrupted demo goes on where it stopped.

    Args:
        out: folder for everything.
        full: more slides, longer training, ACMIL's multi-head form too.
        seed: of the slides, the split and the training.
        workers: processes for slides.
        overwrite: begin anew.

    Raises:
        UserError: the folder holds a finished demo, or one of other settings.
    """
    plan = FULL if full else QUICK
    _claim(out, {"full": full, "seed": seed}, overwrite)
    clock = _Clock()
    data, job = out / "data", out / "job"
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn")
    ) as pool:  # one for all steps: starting costs seconds
        with clock("drawing slides"):
            if not _drawn(data, plan):
                make_samples(data, SampleParams(plan.slides, seed), executor=pool)
        with clock("tiling"):
            folder, tiled = tile_slides(find_slides(data / "slides"), job, TILES, executor=pool)
        with clock("encoding"):
            features, encoded = encode_slides(folder, EncodeParams(EncoderChoice("colour-texture")), executor=pool)
    if failed := [o.name for o in (*tiled, *encoded) if not o.ok]:
        raise RuntimeError(f"the drawn slides {', '.join(failed)} could not be used")
    labels = read_labels(data / "labels.csv")
    story = _Begun(out, data, features, _split(labels, seed), {s: labels.classes[n] for s, n in labels.label.items()})
    with clock("training and judging"):
        judged, chance = _learn(plan, story, seed)
    with clock("drawing heat maps"):
        maps = _maps(story, judged[0])
    return tell(Story(out, data, folder, features, story.split, story.names, judged, chance, maps, clock.seconds))


class _Clock:
    """Seconds by step; says each step when it begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str) -> "_Clock":
        note.print(f"  {step} …", markup=False)
        self.step = step
        return self

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.step] = round(time.monotonic() - self.began, 1)


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder ours: empty, or what an interrupted demo of the same settings left."""
    mark = out / "demo.json"
    if overwrite:
        for part in ("data", "job", "runs", "heatmaps"):
            shutil.rmtree(out / part, ignore_errors=True)
        (out / "report.html").unlink(missing_ok=True)
    elif (out / "report.html").exists():
        raise UserError(f"{out} already holds a demo", "--overwrite makes it anew, another folder keeps both")
    elif mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != settings:
        raise UserError(f"{out} holds an unfinished demo of other settings", "--overwrite begins anew")
    write_text(mark, json.dumps(settings))


def _drawn(data: Path, plan: Plan) -> bool:
    return (data / "labels.csv").exists() and len(list((data / "slides").glob("sample_*"))) == plan.slides


def _split(labels: Labels, seed: int) -> Split:
    """Half of the patients train, a sixth choose the epoch, a third judge; no patient is in two parts, both labels are in each."""
    slides: dict[str, list[str]] = {}
    for slide, case in labels.case.items():
        slides.setdefault(case, []).append(slide)
    kinds: dict[bool, list[str]] = {}
    for case in sorted(slides):
        kinds.setdefault(any(labels.label[s] for s in slides[case]), []).append(case)
    rng = np.random.default_rng(seed)
    parts: list[list[str]] = [[], [], []]
    for cases in kinds.values():
        order = [cases[i] for i in rng.permutation(len(cases))]
        test, val = max(1, round(len(order) / 3)), max(1, round(len(order) / 6))
        for part, chosen in zip(parts, (order[test + val :], order[test : test + val], order[:test]), strict=True):
            part += [s for case in chosen for s in slides[case]]
    return Split(*(tuple(sorted(p)) for p in parts))


def _learn(plan: Plan, story: "_Begun", seed: int) -> tuple[list[Judged], float]:
    """Trains each model and judges it on the test slides: by label, and by where it looks."""
    bags = find_bags(story.features)
    truth = {s: _truth(story.data, s, bags) for s in story.split.test if story.names[s] == "tumour"}
    recipe = Recipe(epochs=plan.epochs, lr=1e-3, weight_decay=1e-4)
    judged = []
    for model in plan.models:
        run = story.out / "runs" / model
        options = {"resume": (run / "config.yaml").exists(), "seed": seed, "progress": False}
        made = train(
            story.features, story.data / "labels.csv", run, model=model, recipe=recipe, splits=[story.split], **options
        )
        metrics = made.folds[0].test
        assert metrics is not None
        predictor = Predictor(made.model)
        scored = {s: score_with(predictor, bags[s].open()) for s in story.split.test}
        found = [auprc(scored[s].attention, truth[s]) for s in truth]
        top10 = [np.sort(scored[s].attention)[-10:].sum() for s in truth]
        judged.append(Judged(NAMES[model], made.model, metrics, float(np.mean(found)), float(np.mean(top10)), scored))
    return judged, float(np.mean([t.mean() for t in truth.values()]))


def _truth(data: Path, slide_id: str, bags: Mapping[str, BagFile]) -> NDArray[np.bool_]:
    """(N,) whether a tile is at least half tumour."""
    bag = bags[slide_id].open()
    file = find_annotation(data / "annotations", slide_id)
    assert file is not None
    assert bag.coords is not None
    assert bag.side is not None
    return overlap(tumour(read_annotations(file)), bag.coords, bag.side) >= 0.5


def _maps(story: "_Begun", judged: Judged) -> dict[str, MapMade]:
    """Heat maps of test slides: two with tumour (one of each scan resolution, where there are), one without."""
    places = {s.slide_id: s for s in find_slides(story.data / "slides")}
    tumours = sorted((s for s in story.split.test if story.names[s] == "tumour"), key=lambda s: places[s].path.suffix)
    chosen = list(dict.fromkeys([tumours[0], tumours[-1], *tumours[1:2]]))[:2]
    chosen += [s for s in story.split.test if story.names[s] != "tumour"][:1]
    made = {}
    for slide_id in chosen:
        with Slide(places[slide_id].path) as slide:
            annotation = find_annotation(story.data / "annotations", slide_id)
            made[slide_id] = draw_map(
                slide, judged.scored[slide_id], story.out / "heatmaps", MapOptions(max_side=1000, zoom=0.5), annotation
            )
    return made
