"""The first look: what a folder of tiles, a tile or a scene holds, whether it can be used, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core_runtime.errors import UserError
from core_runtime.suite import Glance
from remote_sensing.landuse.bands import RGB
from remote_sensing.landuse.data import shown
from remote_sensing.landuse.layouts import NoTiles, find_tiles
from remote_sensing.landuse.predict import inputs
from remote_sensing.landuse.scenes import Scene, is_scene_folder
from remote_sensing.landuse.splits import choose
from remote_sensing.landuse.store import decode
from remote_sensing.rasters import open_raster


@dataclass(frozen=True)
class Findings:
    """What was found at a path."""

    kind: str
    summary: str
    facts: dict[str, Any]
    usable: bool = True
    warnings: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)


def inspect(path: Path) -> Findings:
    """Looks at a path.

    Raises:
        UserError: nothing there that can be read.
    """
    if path.is_dir() and not is_scene_folder(path):
        try:
            return _tile_folder(path)
        except NoTiles:
            return _pictures(path)
    if path.suffix.lower() == ".zip":
        return _tile_folder(path)
    tiles, _ = inputs(path)
    return _tile(path) if tiles else _scene(path)


def _tile_folder(path: Path) -> Findings:
    tiles = find_tiles(path)
    counts = {c: tiles.labels.count(i) for i, c in enumerate(tiles.classes)}
    first = decode(tiles.files[0], next(iter(tiles.read(tiles.files[:1]))))
    facts: dict[str, Any] = {
        "layout": tiles.layout,
        "tiles": len(tiles.files),
        "size": f"{first.shape[2]} × {first.shape[1]}, {len(first)} bands of {first.dtype}",
        "classes": counts,
        "split lists": ", ".join(tiles.lists) or "none (a stratified split is made)",
    }
    for name in tiles.lists:
        split = choose(tiles, name)
        facts[f"split {name}"] = f"{len(split.train)} train, {len(split.val)} validate, {len(split.test)} test"
    warnings = [f"few tiles of {c} ({n})" for c, n in counts.items() if n < 20]
    return Findings(
        "labelled tiles",
        f"{len(tiles.files)} tiles of {len(tiles.classes)} classes ({tiles.layout})",
        facts,
        warnings=[f"few tiles (under 20) of {len(warnings)} classes"] if warnings else [],
        next_commands=[f"remote-sensing landuse train '{path}' --out run"],
    )


def _pictures(path: Path) -> Findings:
    """A folder of tiles that nobody has labelled."""
    tiles, scenes = inputs(path)
    facts = {"tiles": len(tiles), "scenes": len(scenes), "labels": "none: no class folders"}
    summary = f"{len(tiles)} tiles and {len(scenes)} scenes without labels: to predict, not to train on"
    return Findings("pictures", summary, facts, next_commands=[_predict(path)])


def _tile(path: Path) -> Findings:
    raw = decode(path.name, path.read_bytes())
    facts = {"size": f"{raw.shape[2]} × {raw.shape[1]}", "bands": len(raw), "type": str(raw.dtype)}
    warnings = (
        []
        if raw.shape[1:] == (64, 64)
        else ["EuroSAT's tiles have 64 × 64 pixels: networks must be trained on this size"]
    )
    summary = f"one tile of {raw.shape[2]} × {raw.shape[1]} pixels, {len(raw)} bands"
    return Findings("tile", summary, facts, warnings=warnings, next_commands=[_predict(path)])


def _scene(path: Path) -> Findings:
    with Scene(path) as scene:
        size = abs(scene.transform.a)
        facts = {
            "kind": scene.kind,
            "size": f"{scene.width} × {scene.height}",
            "bands": ", ".join(scene.bands),
            "coordinate system": scene.crs.to_string() if scene.crs else "none",
            "pixel": f"{size:g} map units",
        }
        warnings = list(scene.warnings)
        if scene.crs and scene.crs.is_projected and not 8 <= size <= 12:
            warnings.append(
                f"pixels of {size:g} m: EuroSAT's networks know pixels of 10 m; resample first (gdalwarp -tr 10 10)"
            )
    summary = f"a scene of {facts['size']} pixels with {facts['bands']}"
    return Findings("scene", summary, facts, warnings=warnings, next_commands=[_predict(path)])


def _predict(path: Path) -> str:
    return f"remote-sensing landuse predict '{path}' --model run/model"


def glance(path: Path) -> Glance:
    """For ``attention-suite try``."""
    found = inspect(path)
    return Glance(
        title=f"{found.kind.capitalize()} {path.name}",
        usable=found.usable,
        summary=found.summary,
        facts=[
            (k, v if not isinstance(v, dict) else ", ".join(f"{a} {b}" for a, b in v.items()))
            for k, v in found.facts.items()
        ],
        pictures=[(_picture(path, found), "In natural colours")],
        next_commands=found.next_commands,
        warnings=found.warnings,
    )


def _picture(path: Path, found: Findings) -> Figure:
    figure = Figure(figsize=(6, 6), layout="constrained")
    if found.kind == "labelled tiles":
        tiles = find_tiles(path)
        some = [tiles.labels.index(i) for i in range(len(tiles.classes))]
        images = [
            decode(tiles.files[i], data)
            for i, data in zip(some, tiles.read([tiles.files[i] for i in some]), strict=True)
        ]
        axes = np.atleast_1d(figure.subplots(-(-len(some) // 4), 4)).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, image, name in zip(axes, images, tiles.classes, strict=False):
            ax.imshow(shown(image, tiles.bands))
            ax.set_title(name, fontsize=8)
        return figure
    ax = figure.subplots()
    ax.set_axis_off()
    if found.kind == "tile" and path.suffix.lower() not in (".tif", ".tiff"):
        ax.imshow(shown(decode(path.name, path.read_bytes()), RGB))
    else:
        with Scene(path) as scene:
            ax.imshow(scene.preview())
    return figure


def recognises(path: Path) -> str | None:
    """What a path is to this group: a labelled download, a EuroSAT tile, a multispectral scene; None for other pictures."""
    if path.is_dir():
        if is_scene_folder(path):
            return "Sentinel-2 scene"
        try:
            return f"EuroSAT download ({find_tiles(path).layout})"
        except UserError:
            return None
    return _file(path)


def _file(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".png"):
        from PIL import Image

        try:
            with Image.open(path) as image:
                return "EuroSAT tile" if image.size == (64, 64) else None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
    if suffix in (".tif", ".tiff", ".jp2"):
        from rasterio.errors import RasterioError

        try:
            with open_raster(path) as raster:
                return "multispectral scene or tile" if raster.count >= 10 else None
        except RasterioError:
            return None
    return None
