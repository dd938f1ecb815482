"""``medical-segmentation similar demo``."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError, counted
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from medical_segmentation.similar.commands.evaluate import Evaluation, evaluate
from medical_segmentation.similar.commands.index import index
from medical_segmentation.similar.commands.train import Trained, train
from medical_segmentation.similar.options import EmbeddingOptions, Recipe, SampleOptions


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned; the backbone is small and starts from nothing."""

    images: int
    size: int
    image_size: int
    epochs: int
    patience: int
    backbone: str


QUICK = Plan(images=40, size=32, image_size=48, epochs=20, patience=3, backbone="test_resnet")
FULL = Plan(images=150, size=48, image_size=64, epochs=80, patience=6, backbone="resnet10t")


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws lesions, trains subspace learners, judges them beside raw pixels, finds similar images, draws where the model looks.

    Example: medical-segmentation similar demo /tmp/similar

    Args:
        out: folder for everything that is made.
    """
    from medical_segmentation.similar.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "run", "evaluation", "index"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data = make_samples(out / "data", SampleOptions(images=plan.images, size=plan.size), seed=seed) / "lesions.npz"
    trained = train(
        data,
        embedding=EmbeddingOptions(backbone=plan.backbone, size=32, image_size=plan.image_size, train_norms=True),
        recipe=Recipe(epochs=plan.epochs, lr=2e-3, batch=32, patience=plan.patience),
        run=RunOptions(out=out / "run", seed=seed, device="cpu"),
    )
    judged = evaluate(data, model=str(trained.model), out=out / "evaluation", device="cpu")
    index(data, model=str(trained.model), out=out / "index", device="cpu")
    picture, proxy_dice = _draw_neighbours(out, trained)
    return _report(out, trained, judged, picture, proxy_dice, time.monotonic() - began)


def _draw_neighbours(out: Path, trained: Trained) -> tuple[Path, float]:
    """Test images with their neighbours among the training images, and the Dice of the proxy masks."""
    import numpy as np

    from medical_segmentation.organs.metrics.overlap import dice
    from medical_segmentation.similar.images import find_images
    from medical_segmentation.similar.metrics import nearest
    from medical_segmentation.similar.model.folder import load_model
    from medical_segmentation.similar.proxies import proxy_mask, seen_map
    from medical_segmentation.similar.reports.figures import neighbour_sheet
    from medical_segmentation.similar.samples import CLASSES

    model = load_model(trained.model)
    images = find_images(trained.data)
    test, gallery = images.numbers("test"), images.numbers("train")
    with np.load(out / "data" / "masks.npz") as stored:
        truths = stored["test_masks"]
    result = model([images.read(number) for number in test])
    points, _ = model.embed(images, gallery)
    _, near = nearest(result.embedding, points, 4)
    maps, scores = [], []
    for place, number in enumerate(test):
        picture = images.read(number)
        maps.append(seen_map(result.attention[place], (picture.shape[0], picture.shape[1]), model.image_size))
        scores.append(dice(proxy_mask(maps[-1]), truths[place]))
    labels = np.array(images.labels)
    shown = [int(np.flatnonzero(labels[test] == kind)[0]) for kind in range(len(CLASSES))]
    neighbours, titles, edges = [], [], []
    for place in shown:
        found = [gallery[number] for number in near[place].tolist()]
        neighbours.append([images.read(number) for number in found])
        own = labels[test[place]]
        titles.append([f"query: {CLASSES[own]}", *(CLASSES[labels[number]] for number in found)])
        edges.append(["#2e8b57" if labels[number] == own else "#c0392b" for number in found])
    queries = [images.read(test[place]) for place in shown]
    path = neighbour_sheet(queries, [maps[place] for place in shown], neighbours, titles, edges, out / "neighbours.png")
    return path, float(np.mean(scores))


def _report(
    out: Path, trained: Trained, judged: Evaluation, picture: Path, proxy_dice: float, seconds: float
) -> DemoResult:
    from core_runtime.report import Report

    ours, pixels = judged.measures["embedding"], judged.measures["raw pixels"]
    learners = trained.values["learners"]
    headline = (
        f"The nearest neighbour of an unseen lesion is of its kind in {ours['recall@1']['value']:.0%} of {judged.images} cases "
        f"(raw pixels: {pixels['recall@1']['value']:.0%}); NMI {ours['nmi']['value']:.2f} against {pixels['nmi']['value']:.2f}."
    )
    page = Report("Similar images, and where the model looks", lead=headline)
    shown = (
        picture,
        "Test images, where the model looks, and the nearest training images; the frame tells whether the kind is the same.",
    )
    page.picture(*shown)
    ranges = ", ".join(f"{start}-{stop - 1}" for start, stop in learners)
    page.text(
        f"{counted(len(learners), 'learner')} for the {learners[-1][1]} coordinates of the selected epoch: {ranges}. The attention maps, cut at Otsu's "
        f"threshold, cover the drawn lesions with a mean Dice of {proxy_dice:.2f}; nobody showed the model where they are. Drawn images say nothing "
        f"about real ones."
    )
    rows: list[tuple[Any, ...]] = []
    for name, measures in judged.measures.items():
        row = [name, measures["nmi"]["value"], measures["nmi"]["sd"]]
        for key in ("recall@1", "recall@4", "map@r"):
            row += [measures[key]["value"]]
        rows.append((*row, measures["recall@1"]["low"], measures["recall@1"]["high"]))
    columns = ("points", "NMI", "± sd", "recall@1", "recall@4", "mAP@R", "recall@1 low", "high")
    page.table(columns, rows, caption=f"On {judged.images} test images, every one a query among the others.")
    page.picture(
        out / "run" / "figures" / "training.png", "Loss, NMI of the validation images, and number of learners."
    )
    page.heading("With your own images").command(
        "medical-segmentation similar train IMAGES --pretrained --out run",
        "medical-segmentation similar index IMAGES --model run/model --out index",
        "medical-segmentation similar find CASE.png --index index --picture similar.png",
        "medical-segmentation similar predict IMAGES --model run/model --out proxies",
    )
    page.facts([("seconds", f"{seconds:.0f}")])
    figures = {
        "recall_at_1": ours["recall@1"]["value"],
        "raw_recall_at_1": pixels["recall@1"]["value"],
        "nmi": ours["nmi"]["value"],
        "learners": len(learners),
        "proxy_dice": proxy_dice,
        "seconds": seconds,
    }
    path = page.write(out / "report.html")
    return DemoResult(headline, path, [shown], columns, rows, figures)
