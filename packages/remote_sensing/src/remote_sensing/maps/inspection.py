"""The first look at a sheet, a folder of sheets, training tiles or a vector file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.suite import Glance
from remote_sensing.maps.labels import siegfried
from remote_sensing.maps.sheets import SUFFIXES, Sheet, find_sheets
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
    if (path / "annotation").is_dir():
        return _tiles(path)
    sheets = find_sheets(path)
    return _sheet(sheets[0]) if path.is_file() else _folder(path, sheets)


def _tiles(path: Path) -> Findings:
    facts: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        if (path / part).is_dir():
            examples = siegfried(path, part)
            labels = [examples.read(n)[1] for n in examples.names]
            share = float(np.mean([(label > 0).mean() for label in labels]))
            facts[part] = f"{len(labels)} tiles of {examples.side} pixels, {share:.1%} of them feature"
    if not facts:
        raise UserError(
            f"{path}: annotation/ but none of train/, val/, test/", "the layout of dataset_railway is expected"
        )
    command = f"remote-sensing maps train '{path}' --sam sam_vit_b_01ec64.pth --out run"
    return Findings("training tiles", ", ".join(f"{k}: {v}" for k, v in facts.items()), facts, next_commands=[command])


def _sheet(path: Path) -> Findings:
    with Sheet(path) as sheet:
        facts, warnings = sheet.facts, list(sheet.warnings)
        small = sheet.file.dataset_mask(out_shape=(64, 64)) if sheet.file.width > 1 else np.array([[255]])
        facts["holds data"] = f"{(small > 0).mean():.0%}"
        if not small.any():
            warnings.append("no pixel holds data: the mask would be all nodata")
    summary = f"{facts['size']}, {facts['bands']}, {facts['coordinate system']}"
    return Findings("map sheet", summary, facts, warnings=warnings, next_commands=[_next(path)])


def _folder(path: Path, sheets: list[Path]) -> Findings:
    facts: dict[str, Any] = {}
    warnings = []
    for sheet in sheets[:50]:
        try:
            facts[sheet.name] = _sheet(sheet).summary
        except UserError as error:
            warnings.append(error.message)
    if not facts:
        raise UserError(f"{path}: none of its {len(sheets)} rasters can be read", warnings[0])
    return Findings("map sheets", f"{len(sheets)} sheets", facts, warnings=warnings, next_commands=[_next(path)])


def _next(path: Path) -> str:
    return f"remote-sensing maps predict '{path}' --model run/model --vector gpkg"


def glance(path: Path) -> Glance:
    """For ``attention-suite try``."""
    found = inspect(path)
    return Glance(
        title=f"{found.kind.capitalize()} {path.name}",
        usable=found.usable,
        summary=found.summary,
        facts=list(found.facts.items()),
        pictures=[(_picture(path), "Preview")],
        next_commands=found.next_commands,
        warnings=found.warnings,
    )


def _picture(path: Path) -> Image.Image:
    file = path if path.is_file() else find_sheets(path / "train" if (path / "annotation").is_dir() else path)[0]
    with Sheet(file) as sheet:
        return Image.fromarray(sheet.preview())


def recognises(path: Path) -> str | None:
    """What a path is to this group: training tiles, or a picture or GeoTIFF of up to four bands; not small tiles of satellite data."""
    if path.is_dir():
        return "map tiles with labels" if (path / "annotation").is_dir() else None
    if path.suffix.lower() not in SUFFIXES:
        return None
    from rasterio.errors import RasterioError

    try:
        with open_raster(path) as file:
            if file.count > 4 or (file.width, file.height) == (64, 64):
                return None
            where = "georeferenced map sheet" if file.crs is not None else "map sheet"
            return where if np.dtype(file.dtypes[0]).kind in "uif" else None
    except RasterioError:
        return None
