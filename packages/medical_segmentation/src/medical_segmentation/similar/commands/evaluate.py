"""``medical-segmentation similar evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, Seed, Threads, resolve_device, use_threads
from medical_segmentation.similar.images import find_images
from medical_segmentation.similar.results import judgement_lines


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of an embedding beside raw pixels.

    Attributes:
        out: folder of the results.
        measures: of the embedding, of its penultimate features, and of raw pixels.
        images: how many were judged.
        origin: their relation to the model's training, in words.
    """

    out: Path
    measures: Mapping[str, Mapping[str, Any]]
    images: int
    origin: str

    def facts(self) -> dict[str, Any]:
        return {"images": self.images, "origin": self.origin, **self.measures}

    def lines(self) -> Iterable[str]:
        yield f"{self.origin}; every one is a query and the others are the gallery; 95 % intervals by image"
        for name, rows in self.measures.items():
            yield judgement_lines(name, rows)
        yield f"Report: {self.out / 'report.html'}"


def evaluate(
    data: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    part: Literal["test", "val", "all"] = "test",
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges an embedding: NMI of clusters, Recall@K and mAP@R with intervals, beside penultimate features and raw pixels.

    Example: medical-segmentation similar evaluate breastmnist.npz --model run/model

    Args:
        data: labelled images, as for train.
        part: which of them; of a source without parts, test is what the model was neither trained nor selected on.
    """
    images = find_images(data)
    import numpy as np

    from core_runtime.folders import write_text
    from core_runtime.report import Report
    from medical_segmentation.similar.cohort import unseen_images
    from medical_segmentation.similar.images import require_classes
    from medical_segmentation.similar.judging import judge, raw_pixels
    from medical_segmentation.similar.model.folder import load_model

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    use_threads(threads)
    loaded = load_model(model, device=resolve_device(device))
    numbers, origin = list(range(len(images))), f"all {len(images)} images, whatever the model was trained on"
    if part != "all":
        numbers, origin = unseen_images(images, part, loaded.provenance)
    require_classes(images, numbers, "evaluation")
    embeddings, features = loaded.embed(images, numbers)
    labels = np.array([images.labels[number] for number in numbers])
    pixels = raw_pixels([images.read(number) for number in numbers])
    measures = {}
    for name, points in (("embedding", embeddings), ("penultimate features", features), ("raw pixels", pixels)):
        measures[name] = judge(points, labels, images.classes, seed=seed)
    result = Evaluation(out, measures, len(numbers), origin)
    page = Report("Similar images: evaluation", lead=judgement_lines("", measures["embedding"]).strip())
    page.text(origin + ".")
    rows = []
    for name, entry in measures.items():
        for key, value in entry.items():
            if isinstance(value, dict) and "value" in value:
                rows.append((name, key, value["value"], value.get("low"), value.get("high"), value.get("sd")))
    page.table(("points", "measure", "value", "low", "high", "sd over clusterings"), rows)
    by_class = [(name, rate) for name, rate in measures["embedding"]["recall@1 by class"].items()]
    page.table(("class", "recall@1"), by_class, caption="Recall@1 of the embedding, class by class.")
    page.write(out / "report.html")
    write_text(out / "metrics.json", json.dumps(result.facts(), indent=1).replace("NaN", "null") + "\n")
    return result
