"""``remote-sensing landuse evaluate``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, Seed, Threads, options, resolve_device, use_threads
from remote_sensing.landuse.scenes.layouts import Download, TileOptions, find_tiles

if TYPE_CHECKING:
    from torch import Tensor

    from remote_sensing.landuse.metrics import Metrics


@options
class EvaluationOptions:
    """What is judged.

    Attributes:
        part: which part of the split.
        tta: average over the tile and its two mirror images.
    """

    part: Literal["train", "val", "test", "all"] = "test"
    tta: bool = False


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on labelled tiles, and where the pictures are."""

    metrics: Metrics
    out: Path

    def facts(self) -> dict[str, Any]:
        return self.metrics.plain()

    def lines(self) -> Iterable[str]:
        yield from measure_lines(self.metrics.plain())
        for name, value in self.metrics.recall.items():
            yield f"    {name:22} {value:.3f} of its tiles found"
        for true, predicted, count in self.metrics.pairs:
            yield f"  {true} taken for {predicted}: {count}"
        pictures = f"{self.out / 'confusion.png'}, {self.out / 'calibration.png'}"
        yield f"Pictures: {pictures}; tile by tile: {self.out / 'predictions.csv'}"


def measure_lines(metrics: Mapping[str, Any]) -> Iterable[str]:
    """The measures of `Metrics.plain`, for the terminal."""
    yield f"Test tiles: {metrics['tiles']}"
    names = {"accuracy": "accuracy", "kappa": "Cohen's kappa", "mcc": "Matthews correlation", "f1": "macro F1"}
    for key, name in (names | {"ece": "ECE"}).items():
        value = "–" if metrics[key] is None else f"{metrics[key]:.4f}"
        yield f"  {name:22} {value}"
    gap = metrics["confidence_gap"]
    value = "–" if gap is None else f"{gap:.2f} points"
    yield f"  {'confidence gap':22} {value}"


def evaluate(
    data: Download,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    tiles: TileOptions = TileOptions(),
    options: EvaluationOptions = EvaluationOptions(),
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model on labelled tiles: accuracy, kappa, per class, confusion, calibration; pictures beside.

    Example: remote-sensing landuse evaluate EuroSAT_RGB --model run/model --tta
    """
    from core_runtime.folders import write_text
    from remote_sensing.landuse.cohort import split_tiles
    from remote_sensing.landuse.metrics import measure
    from remote_sensing.landuse.model.folder import load_model
    from remote_sensing.landuse.model.inference import predict_tiles
    from remote_sensing.landuse.reports.figures import draw_calibration, draw_confusion
    from remote_sensing.landuse.scenes.store import decoded
    from remote_sensing.landuse.scenes.tiles import LandUseTiles

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    use_threads(threads)
    network = load_model(model, device=resolve_device(device))
    kind = tiles.kind
    if kind == "auto":
        kind = "rgb" if network.preprocessing.is_rgb else "ms"
    download = find_tiles(data, kind)
    if download.classes != network.classes:
        raise UserError(
            f"{data}: its classes ({', '.join(download.classes)}) are not the model's ({', '.join(network.classes)})",
            "the class folders must have the names of the training data",
        )
    numbers: Sequence[int] = range(len(download.files))
    if options.part != "all":
        numbers = split_tiles(download, tiles.split, seed).part(options.part)
    dataset = LandUseTiles(decoded(download, tiles.cache), download, numbers, bands=network.preprocessing.bands)
    try:
        probabilities, labels = predict_tiles(network, dataset, tta=options.tta)
    except ValueError as error:
        raise UserError(f"{data}: {error}", "the tiles must have the size of the training data") from None
    metrics = measure(probabilities, labels, network.classes)
    write_text(out / "metrics.json", json.dumps(metrics.plain(), indent=1))
    files = [download.files[number] for number in numbers]
    write_text(out / "predictions.csv", _table(files, probabilities, labels, network.classes))
    draw_confusion(metrics, network.classes, out / "confusion.png")
    draw_calibration(metrics, out / "calibration.png")
    return Evaluation(metrics, out)


def _table(files: Sequence[str], probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", "predicted", "confidence", *classes])
    for file, row, label in zip(files, probabilities, labels.tolist(), strict=True):
        best = int(row.argmax())
        shares = [round(float(share), 5) for share in row]
        writer.writerow([file, classes[label], classes[best], shares[best], *shares])
    return text.getvalue()
