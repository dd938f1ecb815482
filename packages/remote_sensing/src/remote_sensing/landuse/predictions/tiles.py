"""The files of tiles: a table with a row for each, even for those that cannot be used, and sheets of pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.predictions.scenes import check_resolution
from remote_sensing.landuse.results import TilePrediction

SHEET = 180  # tiles on a contact sheet


def write_tile_predictions(
    files: Sequence[Path], root: Path, model: Any, folder: Path, options: PredictionOptions
) -> dict[str, Any]:
    """Writes a folder with ``predictions.csv``, ``tiles.png`` and ``attention.png``, whole or not at all.

    Args:
        files: of the tiles.
        root: folder that their names are relative to.
        model: a `LandUseModel`.
        folder: of the results.
        options: how tiles are read.

    Returns:
        The number of tiles with a prediction, and of those that could not be used.

    Raises:
        UserError: no tile can be used.
    """
    import numpy as np

    from core_runtime.folders import writing
    from core_runtime.terminal import track

    names: list[str] = []
    rows: list[Any] = []  # probabilities
    pictured: list[Any] = []  # the first tiles, for the sheets
    pending: list[Any] = []  # tiles of the next batch
    failed: dict[str, str] = {}

    def classify() -> None:
        if pending:
            rows.extend(model(np.stack(pending).astype(np.float32), tta=options.tta))
            pending.clear()

    for file in track(files, "Predicting tiles"):
        name = file.name
        if root.is_dir():
            name = file.relative_to(root).as_posix()
        try:
            raw = read_tile(file, model, options)
        except UserError as error:
            failed[name] = error.message
            continue
        names.append(name)
        pending.append(raw)
        if len(pictured) < SHEET:
            pictured.append(raw)
        if len(pending) == options.batch:
            classify()
    classify()
    if not rows:
        raise UserError("; ".join(list(failed.values())[:2]), "no tile can be used")
    predictions = []
    for name, row in zip(names, rows, strict=True):
        predictions.append(_prediction(name, row, model.classes))
    with writing(folder) as part:
        part.mkdir()
        _write_table(part / "predictions.csv", predictions, failed, model.classes)
        _draw_tiles(part, model, pictured, predictions[: len(pictured)])
    return {"tiles": len(predictions), "failed": len(failed)}


def read_tile(file: Path, model: Any, options: PredictionOptions = PredictionOptions()) -> Any:
    """A tile in the bands that the model takes, (bands, height, width).

    Raises:
        UserError: another size, missing bands, or pixels without data.
    """
    from remote_sensing.landuse.scenes.formats import RASTERS
    from remote_sensing.landuse.scenes.scene import Scene
    from remote_sensing.landuse.scenes.store import decode, refuse_missing

    bands, side = model.preprocessing.bands, model.tile_size
    raw = decode(file.name, file.read_bytes())
    if file.suffix.lower() in RASTERS:
        with Scene(file, options.bands, quantification=options.quantification) as scene:
            scene.check(bands)
            check_resolution(scene, model, options)
            raw, has_data = scene.read(bands, slice(0, scene.height))
            refuse_missing(file.name, has_data)
    elif not model.preprocessing.is_rgb:
        raise UserError(
            f"{file.name} is an RGB picture, the model takes {len(bands)} bands", "give the 13-band GeoTIFFs"
        )
    if raw.shape[1:] != (side, side):
        raise UserError(f"{file.name} has {raw.shape[2]} × {raw.shape[1]} pixels, the model takes {side} × {side}")
    return raw


def _draw_tiles(folder: Path, model: Any, pictured: Sequence[Any], predictions: Sequence[TilePrediction]) -> None:
    """A sheet of the tiles with their classes, and of some with the network's attention."""
    import numpy as np
    import torch

    from remote_sensing.landuse.model.attention_maps import with_attention
    from remote_sensing.landuse.reports.figures import attention_sheet, contact_sheet
    from remote_sensing.landuse.scenes.bands import natural_colours
    from remote_sensing.landuse.scenes.classes import colours

    shades = dict(zip(model.classes, colours(model.classes), strict=True))
    pictures = [natural_colours(raw, model.preprocessing.bands) for raw in pictured]
    titles = [f"{tile.label[:14]}\n{tile.confidence:.2f}" for tile in predictions]
    edges = [shades[tile.label] for tile in predictions]
    contact_sheet(pictures, titles, edges, folder / "tiles.png", columns=18, notice=model.notice)
    # eight of them, spread over all: neighbours are often of one class
    some = range(0, len(pictured), max(1, len(pictured) // 8))[:8]
    device = next(model.network.parameters()).device
    raw = torch.from_numpy(np.stack([pictured[i] for i in some]).astype(np.float32)).to(device)
    maps = with_attention(model.network, model.preprocessing(raw), 32)[1]
    if maps is not None:
        labels = [predictions[i].label for i in some]
        shown = [pictures[i] for i in some]
        attention_sheet(shown, list(maps.cpu().numpy()), labels, folder / "attention.png", notice=model.notice)


def _prediction(name: str, probabilities: Any, classes: Sequence[str]) -> TilePrediction:
    values = {}
    for name_of_class, probability in zip(classes, probabilities, strict=True):
        values[name_of_class] = round(float(probability), 5)
    label = classes[int(probabilities.argmax())]
    return TilePrediction(name, label, values[label], values)


def _write_table(
    path: Path, predictions: Sequence[TilePrediction], failed: Mapping[str, str], classes: Sequence[str]
) -> None:
    """A row per tile; those that could not be used have empty cells and the reason."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "predicted", "confidence", *classes, "problem"])
        for tile in predictions:
            writer.writerow([tile.file, tile.label, tile.confidence, *tile.probabilities.values(), ""])
        for name, reason in failed.items():
            writer.writerow([name, "", "", *[""] * len(classes), reason])


def read_table(path: Path) -> tuple[list[TilePrediction], dict[str, str]]:
    """Reads a table of `_write_table`: predictions, and the tiles that could not be used."""
    predictions: list[TilePrediction] = []
    failed: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            # what is left after these four columns is the probabilities
            name, label, confidence, reason = (row.pop(c) for c in ("file", "predicted", "confidence", "problem"))
            if reason:
                failed[name] = reason
            else:
                shares = {name_of_class: float(share) for name_of_class, share in row.items()}
                predictions.append(TilePrediction(name, label, float(confidence), shares))
    return predictions, failed
