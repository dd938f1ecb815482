"""How well a network tells land use: accuracy, kappa, confusion, calibration, on labelled tiles."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional import classification as measures

from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from remote_sensing.landuse.data import LandUseTiles
from remote_sensing.landuse.layouts import find_tiles
from remote_sensing.landuse.networks import LandUseModel
from remote_sensing.landuse.splits import choose
from remote_sensing.landuse.store import decoded


@dataclass(frozen=True)
class Measured:
    """What the labels say of the predictions.

    Attributes:
        kappa: Cohen's, (p_o − p_e) / (1 − p_e).
        recall: share of each class's tiles that is found (the published "per-class accuracy" is none).
        confusion: rows are the true classes.
        pairs: the largest off-diagonal entries: (true, predicted, tiles).
        confidence_gap: mean highest probability of right answers minus that of wrong ones, in percent; NaN where all are right or wrong.
        ece: expected calibration error over 15 bins.
        bins: (confidence, accuracy, tiles) of each bin of the reliability diagram.
    """

    tiles: int
    accuracy: float
    kappa: float
    mcc: float
    precision: float
    recall_macro: float
    f1: float
    recall: dict[str, float]
    confusion: list[list[int]]
    pairs: list[tuple[str, str, int]]
    confidence_gap: float
    ece: float
    bins: list[tuple[float, float, int]]

    def plain(self) -> dict[str, Any]:
        return {k: (None if isinstance(v, float) and v != v else v) for k, v in asdict(self).items()}


def measure(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Measured:
    """All measures from probabilities (tiles, classes) and labels (tiles,)."""
    classes, n = list(classes), len(classes)
    predicted = probabilities.argmax(1)
    options: Any = {"num_classes": n, "average": "macro"}
    confusion = measures.multiclass_confusion_matrix(predicted, labels, n)
    recall = measures.multiclass_recall(predicted, labels, n, average="none")
    confidence, right = probabilities.max(1).values, predicted == labels
    gap = 100 * (confidence[right].mean() - confidence[~right].mean()).item()
    off = confusion.clone().fill_diagonal_(0)
    order = off.flatten().argsort(descending=True)[:5].tolist()
    pairs = [(classes[i // n], classes[i % n], int(off.flatten()[i])) for i in order if off.flatten()[i] > 0]
    return Measured(
        tiles=len(labels),
        accuracy=right.double().mean().item(),
        kappa=cohen_kappa(confusion),
        mcc=measures.multiclass_matthews_corrcoef(predicted, labels, n).item(),
        precision=measures.multiclass_precision(predicted, labels, **options).item(),
        recall_macro=measures.multiclass_recall(predicted, labels, **options).item(),
        f1=measures.multiclass_f1_score(predicted, labels, **options).item(),
        recall={c: float(r) for c, r in zip(classes, recall, strict=True)},
        confusion=confusion.tolist(),
        pairs=pairs,
        confidence_gap=gap,
        ece=measures.multiclass_calibration_error(probabilities, labels, n, n_bins=15).item(),
        bins=_reliability(confidence, right),
    )


def cohen_kappa(confusion: Tensor) -> float:
    """``(p_o − p_e) / (1 − p_e)`` of a confusion matrix; NaN where only one class occurs on either side."""
    share = confusion.double() / confusion.sum()
    expected = float(share.sum(1) @ share.sum(0))
    return float("nan") if expected == 1 else (float(share.trace()) - expected) / (1 - expected)


def _reliability(confidence: Tensor, right: Tensor, bins: int = 15) -> list[tuple[float, float, int]]:
    number = (confidence * bins).long().clamp(max=bins - 1)
    found = []
    for i in range(bins):
        here = number == i
        if here.any():
            found.append((confidence[here].mean().item(), right[here].double().mean().item(), int(here.sum())))
    return found


def predictions(
    model: LandUseModel,
    tiles: LandUseTiles,
    *,
    batch: int = 128,
    tta: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of all tiles, in order."""
    loader = DataLoader(tiles, batch, num_workers=workers)
    found, labels = [], []
    for one in track(loader, "Predicting", len(loader)) if progress else loader:
        found.append(model(one["image"], tta=tta))
        labels.append(one["label"])
    return torch.cat(found), torch.cat(labels)


def judge(model: LandUseModel, tiles: LandUseTiles, **options: Any) -> Measured:
    """Measures a model on tiles; options of `predictions`."""
    return measure(*predictions(model, tiles, **options), model.classes)


def evaluate(
    model: LandUseModel,
    data: Path,
    out: Path,
    *,
    part: str = "test",
    split: str = "auto",
    kind: str = "auto",
    tta: bool = False,
    cache: Path | None = None,
    seed: int = 42,
    overwrite: bool = False,
    progress: bool = True,
) -> Measured:
    """Judges a model on one part of a download and writes metrics, predictions and pictures.

    Raises:
        UserError: tiles that the model cannot take, other classes, or an evaluation that is already there.
    """
    import json

    from remote_sensing.landuse.figures import draw_calibration, draw_confusion

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    wanted = kind if kind != "auto" else ("rgb" if model.preprocessing.is_rgb else "ms")
    tiles = find_tiles(data, wanted)
    if tiles.classes != model.classes:
        raise UserError(
            f"{data}: its classes ({', '.join(tiles.classes)}) are not the model's ({', '.join(model.classes)})",
            "the class folders must have the names of the training data",
        )
    numbers = range(len(tiles.files)) if part == "all" else choose(tiles, split, seed).part(part)
    store = decoded(tiles, cache, progress=progress)
    dataset = LandUseTiles(store, tiles, list(numbers), bands=model.preprocessing.bands)
    try:
        probabilities, labels = predictions(model, dataset, tta=tta, progress=progress)
    except ValueError as error:
        raise UserError(f"{data}: {error}", "the tiles must have the size of the training data") from None
    measured = measure(probabilities, labels, model.classes)
    write_text(out / "metrics.json", json.dumps(measured.plain(), indent=1))
    write_text(out / "predictions.csv", _table(tiles.files, list(numbers), probabilities, labels, model.classes))
    draw_confusion(measured, model.classes, out / "confusion.png")
    draw_calibration(measured, out / "calibration.png")
    return measured


def _table(
    files: Sequence[str], numbers: Sequence[int], probabilities: Tensor, labels: Tensor, classes: Sequence[str]
) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "label", "predicted", "confidence", *classes])
    for number, row, label in zip(numbers, probabilities, labels.tolist(), strict=True):
        best = int(row.argmax())
        shares = [round(float(p), 5) for p in row]
        writer.writerow([files[number], classes[label], classes[best], shares[best], *shares])
    return out.getvalue()
