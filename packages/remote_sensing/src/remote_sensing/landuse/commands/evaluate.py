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
from remote_sensing.landuse.scenes.layouts import Download, TileOptions, TileSet, find_tiles

if TYPE_CHECKING:
    from torch import Tensor

    from remote_sensing.landuse.cohort import KnownTiles
    from remote_sensing.landuse.metrics import Metrics


@options
class EvaluationOptions:
    """Which tiles are evaluated, and how.

    Attributes:
        part: part of the split that the model was trained with if it knows these tiles, else of --split.
        tta: average over the tile and its two mirror images.
    """

    part: Literal["train", "val", "test", "all"] = "test"
    tta: bool = False


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on labelled tiles.

    Attributes:
        out: folder of the tables and pictures.
        origin: the relation of the tiles to the model's training, in words.
    """

    metrics: Metrics
    out: Path
    origin: str

    def facts(self) -> dict[str, Any]:
        return {**self.metrics.plain(), "origin": self.origin}

    def lines(self) -> Iterable[str]:
        yield self.origin
        yield from measure_lines(self.metrics.plain())
        for name, value in self.metrics.recall.items():
            yield f"    {name:22} {value:.3f} of its tiles recognised"
        for true, predicted, count in self.metrics.pairs:
            yield f"  {true} mistaken for {predicted}: {count}"
        pictures = f"{self.out / 'confusion.png'}, {self.out / 'calibration.png'}"
        yield f"Pictures: {pictures}; tile by tile: {self.out / 'predictions.csv'}"


def measure_lines(metrics: Mapping[str, Any]) -> Iterable[str]:
    """The measures of `Metrics.plain`, for the terminal."""
    yield f"Tiles: {metrics['tiles']}"
    names = {
        "accuracy": "accuracy",
        "kappa": "Cohen's kappa",
        "mcc": "Matthews correlation",
        "f1": "macro F1",
        "ece": "ECE",
    }
    for key, name in names.items():
        value = "–"  # undefined
        if metrics[key] is not None:
            value = f"{metrics[key]:.4f}"
        yield f"  {name:22} {value}"
    gap = metrics["confidence_gap"]
    value = "–"
    if gap is not None:
        value = f"{gap:.2f} points"
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
    """Evaluates a model on labelled tiles: accuracy, kappa, per class, confusion, calibration; writes pictures, too.

    Example: remote-sensing landuse evaluate EuroSAT_RGB --model run/model --tta
    """
    from core_runtime.folders import write_text
    from remote_sensing.landuse.cohort import KnownTiles
    from remote_sensing.landuse.metrics import measure
    from remote_sensing.landuse.model.folder import load_model
    from remote_sensing.landuse.model.inference import predict_tiles
    from remote_sensing.landuse.reports.figures import draw_calibration, draw_confusion
    from remote_sensing.landuse.scenes.store import decoded, digests
    from remote_sensing.landuse.scenes.tiles import LandUseTiles

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    use_threads(threads)
    network = load_model(model, device=resolve_device(device))
    kind = tiles.kind
    if kind == "auto":
        kind = "ms"
        if network.preprocessing.is_rgb:
            kind = "rgb"
    download = find_tiles(data, kind)
    if download.classes != network.classes:
        raise UserError(
            f"{data}: its classes ({', '.join(download.classes)}) are not the model's ({', '.join(network.classes)})",
            "the class folders must have the names of the training data",
        )
    store = decoded(download, tiles.cache)
    known = KnownTiles.of(network.provenance, f"{network.path}/config.json")
    numbers, origin = choose_tiles(download, digests(store), known, tiles.split, options.part, seed)
    dataset = LandUseTiles(store, download, numbers, bands=network.preprocessing.bands)
    try:
        probabilities, labels = predict_tiles(network, dataset, tta=options.tta)
    except ValueError as error:
        raise UserError(f"{data}: {error}", "the tiles must have the size of the training data") from None
    metrics = measure(probabilities, labels, network.classes)
    write_text(out / "metrics.json", json.dumps(metrics.plain(), indent=1))
    files = [download.files[number] for number in numbers]
    write_text(out / "predictions.csv", _table(files, probabilities, labels, network.classes))
    draw_confusion(metrics, network.classes, out / "confusion.png", notice=network.notice)
    draw_calibration(metrics, out / "calibration.png", notice=network.notice)
    return Evaluation(metrics, out, origin)


def choose_tiles(
    download: TileSet, contents: Sequence[str], known: "KnownTiles | None", split: str, part: str, seed: int
) -> tuple[list[int], str]:
    """The tiles to evaluate, and their relation to the model's training.

    Args:
        contents: digests of the download's tiles.
        known: the tiles that the model was made from, if it has a record.

    Raises:
        UserError: tiles that the model was trained on are requested as others.
    """
    from remote_sensing.landuse.cohort import split_tiles

    everything = list(range(len(contents)))
    if known is None:
        numbers = everything
        if part != "all":
            numbers = list(split_tiles(download, split, seed).part(part))
        return numbers, "The model has no record of the tiles that it was trained on: some of these may be among them."
    trained, selected = set(known.numbers("train", contents)), set(known.numbers("val", contents))
    # The model's own split outweighs a new one under the same name: another seed would put training tiles into the test.
    if part == "all":
        numbers = everything
    elif split == "auto" and (trained or selected or known.numbers("test", contents)):
        numbers = known.numbers(part, contents)
    else:
        numbers = list(split_tiles(download, split, seed).part(part))
    if not numbers:
        raise UserError(f"{download.root}: no {part} tiles of the model are here", "--part all evaluates every tile")
    trained_on, tuned_on = len(trained & set(numbers)), len(selected & set(numbers))
    if trained_on and part in ("val", "test"):
        raise UserError(
            f"the model was trained on {trained_on} of these {len(numbers)} tiles",
            f"leave out --split to evaluate its own {part} tiles; or request training tiles with --part train",
        )
    if trained_on:
        return (
            numbers,
            f"The model was trained on {trained_on} of these {len(numbers)} tiles: the figures are too good.",
        )
    if tuned_on:
        return numbers, f"{tuned_on} of these {len(numbers)} tiles selected the model's epoch; none trained it."
    return numbers, f"None of these {len(numbers)} tiles trained the model or selected its epoch."


def _table(files: Sequence[str], probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> str:
    """CSV: a row per tile with its label, prediction and the probability of every class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", "predicted", "confidence", *classes])
    for file, row, label in zip(files, probabilities, labels.tolist(), strict=True):
        best = int(row.argmax())
        shares = [round(float(share), 5) for share in row]
        writer.writerow([file, classes[label], classes[best], shares[best], *shares])
    return text.getvalue()
