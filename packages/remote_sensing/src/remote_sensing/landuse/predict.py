"""Tiles or scenes in, land use out: a table and a contact sheet of tiles, a map of a scene."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core_runtime.bulk import FAILED, Outcome
from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from remote_sensing.landuse.attention_maps import with_attention
from remote_sensing.landuse.data import shown
from remote_sensing.landuse.figures import attention_sheet, colours, contact_sheet
from remote_sensing.landuse.layouts import PICTURES, RASTERS
from remote_sensing.landuse.mapping import Mapped, map_scene
from remote_sensing.landuse.networks import LandUseModel
from remote_sensing.landuse.scenes import Scene, is_scene_folder
from remote_sensing.landuse.store import decode
from remote_sensing.rasters import open_raster

SHEET = 180  # tiles on a contact sheet


@dataclass(frozen=True)
class TilePrediction:
    """What a model says of one tile."""

    file: str
    label: str
    confidence: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Predicted:
    """Results of a call: of tiles, of scenes, and files that could not be used."""

    tiles: list[TilePrediction]
    scenes: list[Mapped]
    files: dict[str, str]
    outcomes: list[Outcome]


def inputs(path: Path) -> tuple[list[Path], list[Path]]:
    """The tiles and the scenes that a path means, by size: what is more than twice a EuroSAT tile on a side is a scene.

    Raises:
        UserError: nothing that can be read.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "give tiles, a scene (GeoTIFF) or a .SAFE folder")
    if is_scene_folder(path):
        return [], [path]
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES | RASTERS)
    if not files:
        raise UserError(f"{path} holds no pictures or rasters", "tiles are .jpg, .png or .tif; scenes GeoTIFF or .SAFE")
    tiles, scenes = [], []
    for file in files:
        (scenes if _is_large(file, alone=len(files) == 1) else tiles).append(file)
    return tiles, scenes


def _is_large(file: Path, *, alone: bool) -> bool:
    from rasterio.errors import RasterioError

    if file.suffix.lower() not in PICTURES | RASTERS | {".jp2", ".vrt"}:
        raise UserError(
            f"{file} is no picture or raster by its ending", "tiles are .jpg, .png or .tif; scenes GeoTIFF or .SAFE"
        )
    try:
        with open_raster(file) as raster:
            return max(raster.width, raster.height) > 2 * 64
    except RasterioError as error:
        if alone:
            raise UserError(f"{file} cannot be read: {error}", "the file is damaged or no raster") from None
        return False  # named later, when it is decoded


def predict(
    model: LandUseModel,
    path: Path,
    out: Path,
    *,
    bands: Sequence[str] | None = None,
    stride: int | None = None,
    tta: bool = False,
    batch: int = 128,
    overwrite: bool = False,
    progress: bool = True,
) -> Predicted:
    """Predicts tiles (``predictions.csv``, ``tiles.png``, ``attention.png``) and maps scenes (`mapping.map_scene`).

    Raises:
        UserError: nothing usable, or results that are already there.
    """
    tiles, scenes = inputs(path)
    if tiles and (out / "predictions.csv").exists() and not overwrite:
        raise UserError(f"{out} already holds predictions", "--overwrite replaces them, --out names another folder")
    outcomes: list[Outcome] = []
    mapped: list[Mapped] = []
    options = {"bands": bands, "stride": stride, "batch": batch, "overwrite": overwrite, "progress": progress}
    for scene in scenes:
        try:
            mapped.append(map_scene(model, scene, out, **options))
        except UserError as error:
            if len(scenes) + len(tiles) == 1:
                raise
            outcomes.append(Outcome(scene.name, FAILED, error.message))
    made, files = _tiles(model, tiles, path, out, tta, batch, outcomes, progress) if tiles else ([], {})
    if not made and not mapped:
        raise UserError(f"{path}: nothing could be predicted", "; ".join(o.message for o in outcomes[:2]))
    return Predicted(made, mapped, files, outcomes)


def read_tile(file: Path, model: LandUseModel) -> NDArray:
    """A tile in the bands that the model takes.

    Raises:
        UserError: another size, or bands that are missing.
    """
    wanted, side = model.preprocessing.bands, model.tile_size
    raw = decode(file.name, file.read_bytes())
    if file.suffix.lower() in RASTERS:
        with Scene(file) as scene:
            scene.check(wanted)
            raw = scene.read(wanted, slice(0, scene.height))[0]
    elif not model.preprocessing.is_rgb:
        raise UserError(
            f"{file.name} is an RGB picture, the model takes {len(wanted)} bands", "give the 13-band GeoTIFFs"
        )
    if raw.shape[1:] != (side, side):
        raise UserError(f"{file.name} has {raw.shape[2]} × {raw.shape[1]} pixels, the model takes {side} × {side}")
    return raw


def _tiles(
    model: LandUseModel,
    files: Sequence[Path],
    root: Path,
    out: Path,
    tta: bool,
    batch: int,
    outcomes: list[Outcome],
    progress: bool,
) -> tuple[list[TilePrediction], dict[str, str]]:
    names, made, kept = [], [], list[NDArray]()
    pending: list[NDArray] = []

    def flush() -> None:
        if pending:
            made.extend(model(np.stack(pending).astype(np.float32), tta=tta))
            pending.clear()

    for file in track(files, "Predicting tiles") if progress else files:
        try:
            raw = read_tile(file, model)
        except UserError as error:
            if len(files) == 1:
                raise
            outcomes.append(Outcome(file.name, FAILED, error.message))
            continue
        names.append(str(file.relative_to(root)) if root.is_dir() else file.name)
        pending.append(raw)
        if len(kept) < SHEET:
            kept.append(raw)
        if len(pending) == batch:
            flush()
    flush()
    rows = [_row(n, p, model.classes) for n, p in zip(names, made, strict=True)]
    if not rows:
        return [], {}
    write_text(out / "predictions.csv", _table(rows, model.classes))
    shades = dict(zip(model.classes, colours(model.classes), strict=True))
    pictures = [shown(raw, model.preprocessing.bands) for raw in kept]
    titles = [f"{r.label[:14]}\n{r.confidence:.2f}" for r in rows[: len(pictures)]]
    sheet = contact_sheet(
        pictures, titles, [shades[r.label] for r in rows[: len(pictures)]], out / "tiles.png", columns=18
    )
    written = {"table": str(out / "predictions.csv"), "picture": str(sheet)}
    some = list(range(0, len(kept), max(1, len(kept) // 8)))[:8]
    device = next(model.network.parameters()).device
    x = model.preprocessing(torch.from_numpy(np.stack([kept[i] for i in some]).astype(np.float32)).to(device))
    maps = with_attention(model.network, x, 32)[1]
    if maps is not None:
        sheet = attention_sheet(
            [pictures[i] for i in some], list(maps.cpu().numpy()), [rows[i].label for i in some], out / "attention.png"
        )
        written["attention"] = str(sheet)
    return rows, written


def _row(name: str, probabilities: Any, classes: Sequence[str]) -> TilePrediction:
    values = {c: round(float(p), 5) for c, p in zip(classes, probabilities, strict=True)}
    label = classes[int(probabilities.argmax())]
    return TilePrediction(name, label, values[label], values)


def _table(rows: Sequence[TilePrediction], classes: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "predicted", "confidence", *classes])
    writer.writerows([r.file, r.label, r.confidence, *r.probabilities.values()] for r in rows)
    return text.getvalue()
