"""Sample data: small synthetic slides in the field's file formats, with labels and annotations."""

import csv
import io
import json
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from core_runtime.bulk import Attempt, Item, bulk
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.options import BulkOptions
from pathology_mil.samples import synthesis
from pathology_mil.samples.pyramid import write_pyramid
from pathology_mil.slides.annotations import Region, write_asap, write_geojson
from pathology_mil.slides.tissue import polygonal

LABELS = ("normal", "tumour")


@dataclass(frozen=True)
class _Plan:
    slide_id: str
    case_id: str
    label: str
    mpp: float
    pen: bool
    seed: tuple[int, int]

    @property
    def file(self) -> str:
        ending = ".svs" if self.mpp == synthesis.MPP else ".tif"
        return f"{self.slide_id}{ending}"


def make_samples(
    out: Path,
    *,
    slides: int = 12,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
) -> list[Attempt]:
    """Makes `out/slides`, `out/annotations` and `out/labels.csv`.

    One slide in four is a 40× scan (0.25 µm per pixel, `.tif`, truth as QuPath GeoJSON), the others 20× (0.5 µm per pixel, Aperio-like
    `.svs`, truth as ASAP XML). One in five has pen marks. Patients have one or two slides.

    An interrupted run is finished by the same call.
    The same call completes an interrupted run.

    Raises:
        UserError: the folder holds complete samples, or other ones, and `overwrite` is off.
    """
    settings = out / "sample.json"
    request = {"slides": slides, "seed": seed}
    plans = _plans(slides, seed)
    if overwrite:
        for folder in ("slides", "annotations"):
            for old in (out / folder).glob("sample_*"):
                old.unlink()
    elif settings.exists():
        same = json.loads(settings.read_text()) == request
        complete = all((out / "slides" / plan.file).exists() for plan in plans)
        if not same:
            raise UserError(f"{out} already holds other samples", "--overwrite replaces them")
        if complete:
            raise UserError(f"{out} already holds these samples", "--overwrite replaces them")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case_id", "slide_id", "label"])
    for plan in plans:
        writer.writerow([plan.case_id, plan.slide_id, plan.label])
    write_text(settings, json.dumps(request) + "\n")
    write_text(out / "labels.csv", table.getvalue())
    items = []
    for plan in plans:
        items.append(Item(plan.slide_id, (plan, out), out / "slides" / plan.file, key={"plan": plan}))
    log = out / "sample.jsonl"
    attempts = bulk(
        _make, items, BulkOptions(workers=workers), log=log, description="Drawing slides", executor=executor, parts=True
    )
    if all(attempt.ok for attempt in attempts):
        log.unlink()  # times differ from run to run, samples do not
    return attempts


def _plans(slides: int, seed: int) -> list[_Plan]:
    rng = np.random.default_rng(seed)
    tumour = rng.permutation(np.arange(slides) % 2 == 1)
    plans, case = [], 0
    for i in range(slides):
        if i == 0 or rng.random() < 0.75:
            case += 1
        is_40x = i % 4 == 3
        plans.append(
            _Plan(
                slide_id=f"sample_{i + 1:03d}",
                case_id=f"patient_{case:03d}",
                label=LABELS[int(tumour[i])],
                mpp=0.25 if is_40x else synthesis.MPP,
                pen=i % 5 == 2,
                seed=(seed, i),  # a slide is the same however many there are
            )
        )
    return plans


def _make(item: Item) -> dict[str, Any]:
    plan: _Plan
    plan, out = item.source
    drawing = synthesis.draw(np.random.default_rng(plan.seed), tumour=plan.label == "tumour", pen=plan.pen)
    scale = synthesis.MPP / plan.mpp
    image = drawing.image
    if scale != 1:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    if drawing.nests:
        pieces = []
        for nest in drawing.nests:
            holes = []
            if nest.hole is not None:
                holes.append(nest.hole * scale)
            pieces.append(shapely.make_valid(shapely.Polygon(nest.outline * scale, holes)))
        truth = polygonal(shapely.union_all(pieces))
        stem = out / "annotations" / plan.slide_id
        if plan.mpp == synthesis.MPP:
            write_asap(stem.with_suffix(".xml"), truth)
        else:
            regions = [Region(polygon, "Tumor") for polygon in truth.geoms]
            write_geojson(stem.with_suffix(".geojson"), regions)
    # the annotation before the slide: the slide means "done"
    write_pyramid(item.output, image, downsamples=(4, 16), mpp=plan.mpp, aperio=plan.mpp == synthesis.MPP)
    return {"label": plan.label, "mpp": plan.mpp, "nests": len(drawing.nests), "pen": drawing.pen}
