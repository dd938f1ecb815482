"""``pathology-mil demo``: slides are drawn, tiled, encoded; three models learn, are judged by label and by where they look; a report shows it."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed, Workers
from core_runtime.terminal import note
from pathology_mil.cohort.options import SplitOptions
from pathology_mil.commands.train import train
from pathology_mil.features.options import COMPUTED, EncoderOptions
from pathology_mil.reports.options import MapOptions
from pathology_mil.slides.options import TileOptions, Tiling
from pathology_mil.training.recipe import ModelName, NetworkOptions, Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from shapely import MultiPolygon

    from pathology_mil.cohort.labels import Labels
    from pathology_mil.cohort.splits import Split
    from pathology_mil.features.bags import BagFile
    from pathology_mil.reports.demo import Judged
    from pathology_mil.reports.maps import DrawnMap

TILING = Tiling(TileOptions(patch_size=128, mag=20.0, min_tissue=0.75))


@dataclass(frozen=True)
class Plan:
    """How much is made and learned."""

    slides: int
    epochs: int
    models: tuple[ModelName, ...]


QUICK = Plan(slides=14, epochs=20, models=("acmil", "mean"))
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
    split: "Split"
    names: Mapping[str, str]


def demo(
    out: Path, /, *, full: Full = False, seed: Seed = 0, workers: Workers = 1, overwrite: Overwrite = False
) -> DemoResult:
    """Draws slides, learns from their labels, and shows where the model looks: sample, tile, encode, train, heat maps, report.html.

    An interrupted demo goes on where it stopped.

    Example: pathology-mil demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from pathology_mil.cohort.labels import read_labels
    from pathology_mil.cohort.splits import write_splits
    from pathology_mil.features.encoding import Storage, encode_slides
    from pathology_mil.reports.demo import Story, tell
    from pathology_mil.samples.samples import make_samples
    from pathology_mil.slides.reading import find_slides
    from pathology_mil.slides.tiling import tile_slides

    plan = FULL if full else QUICK
    _claim(out, {"full": full, "seed": seed}, overwrite)
    clock = _Clock()
    data, job = out / "data", out / "job"
    with _pool(workers) as pool:
        with clock("drawing slides"):
            if not _drawn(data, plan):
                make_samples(data, slides=plan.slides, seed=seed, executor=pool)
        with clock("tiling"):
            folder, tiled = tile_slides(find_slides(data / "slides"), job, TILING, executor=pool)
        with clock("encoding"):
            features, encoded = encode_slides(folder, EncoderOptions(encoder=COMPUTED), Storage(), executor=pool)
    failed = [attempt.name for attempt in (*tiled, *encoded) if not attempt.ok]
    if failed:
        raise RuntimeError(f"the drawn slides {', '.join(failed)} could not be used")
    labels = read_labels(data / "labels.csv")
    split = _split(labels, seed)
    write_splits(out / "splits", [split], labels)
    classes = {slide: labels.classes[number] for slide, number in labels.label.items()}
    begun = _Begun(out, data, features, split, classes)
    with clock("training and judging"):
        judged, chance = _learn(plan, begun, seed)
    with clock("drawing heat maps"):
        maps = _maps(begun, judged[0])
    return tell(Story(out, data, folder, features, split, classes, judged, chance, maps, clock.seconds))


@contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    """One pool of processes for all steps, as each start of a process costs seconds; None, to work in this process, where one is enough."""
    if workers <= 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool


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
    """Makes sure that the folder is free: empty, or what an interrupted demo of the same settings left."""
    from core_runtime.folders import write_text

    mark = out / "demo.json"
    if overwrite:
        for part in ("data", "job", "runs", "heatmaps", "splits"):
            shutil.rmtree(out / part, ignore_errors=True)
        (out / "report.html").unlink(missing_ok=True)
    elif (out / "report.html").exists():
        raise UserError(f"{out} already holds a demo", "--overwrite makes it anew, another folder keeps both")
    elif mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != settings:
        raise UserError(f"{out} holds an unfinished demo of other settings", "--overwrite begins anew")
    write_text(mark, json.dumps(settings))


def _drawn(data: Path, plan: Plan) -> bool:
    return (data / "labels.csv").exists() and len(list((data / "slides").glob("sample_*"))) == plan.slides


def _split(labels: "Labels", seed: int) -> "Split":
    """Half of the patients train, a sixth choose the epoch, a third judge; no patient is in two parts, both labels are in each."""
    import numpy as np

    from pathology_mil.cohort.splits import Split

    slides: dict[str, list[str]] = {}
    for slide, case in labels.case.items():
        slides.setdefault(case, []).append(slide)
    cases_by_kind: dict[bool, list[str]] = {}
    for case in sorted(slides):
        has_tumour = any(labels.label[slide] for slide in slides[case])
        cases_by_kind.setdefault(has_tumour, []).append(case)
    rng = np.random.default_rng(seed)
    parts: list[list[str]] = [[], [], []]
    for cases in cases_by_kind.values():
        order = [cases[i] for i in rng.permutation(len(cases))]
        test, val = max(1, round(len(order) / 3)), max(1, round(len(order) / 6))
        drawn = (order[test + val :], order[test : test + val], order[:test])
        for part, part_cases in zip(parts, drawn, strict=True):
            for case in part_cases:
                part += slides[case]
    train, val, test = (tuple(sorted(part)) for part in parts)
    return Split(train, val, test)


def _learn(plan: Plan, begun: _Begun, seed: int) -> "tuple[list[Judged], float]":
    """Trains each model and judges it on the test slides: by label, and by where it looks."""
    import numpy as np

    from pathology_mil.features.bags import find_bags
    from pathology_mil.model.attention_scores import auprc, score_with
    from pathology_mil.model.inference import Predictor
    from pathology_mil.reports.demo import Judged

    bags = find_bags(begun.features)
    tumours = [slide for slide in begun.split.test if begun.names[slide] == "tumour"]
    truth = {slide: _truth(begun.data, slide, bags) for slide in tumours}
    recipe = Recipe(epochs=plan.epochs, lr=1e-3, weight_decay=1e-4)
    judged = []
    for model in plan.models:
        run = begun.out / "runs" / model
        trained = train(
            begun.features,
            begun.data / "labels.csv",
            network=NetworkOptions(model=model),
            recipe=recipe,
            splitting=SplitOptions(splits=begun.out / "splits" / "splits_0.csv"),
            resamples=0,  # a handful of test slides: the report shows no intervals
            run=RunOptions(out=run, resume=(run / "config.yaml").exists(), seed=seed, device="cpu"),
        )
        metrics = trained.folds[0].test
        assert metrics is not None
        predictor = Predictor(trained.model)
        scored = {slide: score_with(predictor, bags[slide].open()) for slide in begun.split.test}
        precisions = [auprc(scored[slide].attention, truth[slide]) for slide in tumours]
        top10 = [np.sort(scored[slide].attention)[-10:].sum() for slide in tumours]
        mean_precision, mean_top10 = float(np.mean(precisions)), float(np.mean(top10))
        judged.append(Judged(NAMES[model], trained.model, metrics, mean_precision, mean_top10, scored))
    return judged, float(np.mean([tiles.mean() for tiles in truth.values()]))


def _truth(data: Path, slide_id: str, bags: "Mapping[str, BagFile]") -> "NDArray[np.bool_]":
    """(N,) whether a tile is at least half tumour."""
    from pathology_mil.slides.annotations import overlap

    bag = bags[slide_id].open()
    nests = _nests(data, slide_id)
    assert nests is not None
    assert bag.coords is not None
    assert bag.side is not None
    return overlap(nests, bag.coords, bag.side) >= 0.5


def _nests(data: Path, slide_id: str) -> "MultiPolygon | None":
    """The drawn nests of a slide; None where it has none."""
    from pathology_mil.slides.annotations import find_annotation, read_annotations
    from pathology_mil.slides.regions import truth_area

    file = find_annotation(data / "annotations", slide_id)
    return None if file is None else truth_area(read_annotations(file), where=file.name).shape


def _maps(begun: _Begun, judged: "Judged") -> "dict[str, DrawnMap]":
    """Heat maps of test slides: two with tumour (one of each scan resolution, where there are), one without."""
    from pathology_mil.reports.maps import draw_map
    from pathology_mil.slides.reading import Slide, find_slides

    places = {slide.slide_id: slide for slide in find_slides(begun.data / "slides")}
    tumours = [slide for slide in begun.split.test if begun.names[slide] == "tumour"]
    others = [slide for slide in begun.split.test if begun.names[slide] != "tumour"]
    tumours.sort(key=lambda slide: places[slide].path.suffix)
    shown = list(dict.fromkeys([tumours[0], tumours[-1], *tumours[1:2]]))[:2] + others[:1]
    maps = {}
    for slide_id in shown:
        with Slide(places[slide_id].path) as slide:
            options = MapOptions(max_side=1000, zoom=0.5)
            maps[slide_id] = draw_map(
                slide, judged.scored[slide_id], begun.out / "heatmaps", options, _nests(begun.data, slide_id)
            )
    return maps
