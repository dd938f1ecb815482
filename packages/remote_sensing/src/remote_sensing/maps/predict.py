"""Sheets in; masks, probabilities, polygons, centre-lines and a picture out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.enums import Resampling

from core_runtime.bulk import Item, Outcome, bulk
from core_runtime.cli import note
from core_runtime.errors import UserError
from core_runtime.folders import writing
from remote_sensing.maps.features import in_crs, read_layer
from remote_sensing.maps.model_folders import COLOURS, SheetModel
from remote_sensing.maps.segment import Part, SegmentOptions, Tiles, segment
from remote_sensing.maps.sheets import Grid, Sheet, overlay, preview_shape
from remote_sensing.maps.vectors import to_map
from remote_sensing.rasters import open_raster


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the mask.

    Attributes:
        bbox: (left, bottom, right, top) in map coordinates.
        roi: a vector file of polygons outside of which nothing is looked at (the map frame without collar and legend).
        stretch: how more than 8 bits become 8.
    """

    bbox: tuple[float, float, float, float] | None = None
    roi: Path | None = None
    stretch: str = "percentile"


def part_of(grid: Grid, wanted: Wanted) -> Part:
    """The part of a sheet that is asked for.

    Raises:
        UserError: an extent or region without area, or beside the sheet.
    """
    rows, columns, roi = slice(0, grid.height), slice(0, grid.width), ()
    if wanted.bbox is not None:
        left, bottom, right, top = wanted.bbox
        if not (left < right and bottom < top):
            raise UserError(f"--bbox {wanted.bbox} has no area", "give left,bottom,right,top in map coordinates")
        rows, columns = _bounds(_to_pixels(shapely.box(left, bottom, right, top), grid), grid, "--bbox")
    if wanted.roi is not None:
        shapes = in_crs(read_layer(wanted.roi), grid.crs)
        areas = [_to_pixels(s, grid) for s in shapes if s.area > 0]
        if not areas:
            raise UserError(
                f"{wanted.roi}: its geometries have no area", "--roi takes polygons around what is to be looked at"
            )
        roi = tuple(areas)
        ys, xs = _bounds(shapely.union_all(areas), grid, f"--roi {wanted.roi}")
        rows = slice(max(rows.start, ys.start), min(rows.stop, ys.stop))
        columns = slice(max(columns.start, xs.start), min(columns.stop, xs.stop))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise UserError("--bbox and --roi have nothing in common", "check their coordinates")
    return Part(rows, columns, roi)


def _to_pixels(shape: Any, grid: Grid) -> Any:
    if grid.transform.determinant == 0:
        raise UserError("the sheet's transform is degenerate", "mend its georeferencing")
    return to_map(shape, ~grid.transform)


def _bounds(shape: Any, grid: Grid, what: str) -> tuple[slice, slice]:
    left, top, right, bottom = shape.bounds
    rows = slice(max(0, int(np.floor(top))), min(grid.height, int(np.ceil(bottom))))
    columns = slice(max(0, int(np.floor(left))), min(grid.width, int(np.ceil(right))))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise UserError(
            f"{what} lies beside the sheet", "it must be in the sheet's coordinates (or have its own coordinate system)"
        )
    return rows, columns


def estimate(
    model: SheetModel, sheets: Sequence[Path], wanted: Wanted, options: SegmentOptions
) -> list[dict[str, Any]]:
    """What `predict` would do: size and tiles of every sheet."""
    rows = []
    for path in sheets:
        with Sheet(path, stretch=wanted.stretch) as sheet:
            part = part_of(sheet.grid, wanted)
            tiles = Tiles(sheet.grid, model.side, options)
            rows.append({"sheet": path.name, "tiles": tiles.count(part), "tile_side": tiles.side, **sheet.facts})
    return rows


def predict_sheet(
    model: SheetModel, path: Path, out: Path, wanted: Wanted, options: SegmentOptions, *, progress: bool = True
) -> dict[str, Any]:
    """Segments one sheet; writes mask, probabilities and a picture.

    Raises:
        UserError: a sheet that cannot be read, or without data.
    """
    with Sheet(path, stretch=wanted.stretch) as sheet:
        part = part_of(sheet.grid, wanted)
        facts = segment(model, sheet, out, path.stem, part, options, progress=progress)
        warnings = list(sheet.warnings)
        picture = sheet.preview(1400)
        grid = sheet.grid
    facts["picture"] = str(_picture(picture, Path(facts["mask"]), part, grid, out / f"{path.stem}.png"))
    if not any(facts["shares"].values()):
        with open_raster(facts["mask"]) as file:
            if (
                file.read_masks(
                    1, out_shape=preview_shape(Grid(file.height, file.width, file.transform, file.crs), 500)
                ).max()
                == 0
            ):
                warnings.append("no pixel holds data: the mask is all nodata")
    return {"sheet": path.name, **facts, "warnings": warnings}


def _picture(picture: Any, mask: Path, part: Part, grid: Grid, path: Path) -> Path:
    """The sheet with the mask laid over it."""
    from PIL import Image

    h, w = picture.shape[:2]
    top, bottom = (round(v * h / grid.height) for v in (part.rows.start, part.rows.stop))
    left, right = (round(v * w / grid.width) for v in (part.columns.start, part.columns.stop))
    top, left = min(top, h - 1), min(left, w - 1)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    with open_raster(mask) as file:
        small = file.read(1, out_shape=(bottom - top, right - left), resampling=Resampling.nearest)
    shown = picture.copy()
    shown[top:bottom, left:right] = overlay(picture[top:bottom, left:right], small, COLOURS)
    with writing(path) as temporary:
        Image.fromarray(shown).save(temporary, format="PNG")
    return path


def predict(
    model: SheetModel,
    sheets: Sequence[Path],
    out: Path,
    wanted: Wanted,
    options: SegmentOptions,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], list[Outcome]]:
    """Segments sheets: one that is done stays (of several; of one alone it is an error without `overwrite`), one that fails is named.

    Raises:
        UserError: the only sheet cannot be used, or is done already.
    """
    targets = {p: out / f"{p.stem}_mask.tif" for p in sheets}
    if len(set(targets.values())) < len(targets):
        raise UserError("two sheets have the same name but for their endings", "predict them into different folders")
    if len(sheets) == 1:
        if targets[sheets[0]].exists() and not overwrite:
            raise UserError(
                f"{targets[sheets[0]]} is already there", "--overwrite replaces it, --out names another folder"
            )
        return [predict_sheet(model, sheets[0], out, wanted, options, progress=progress)], []
    rows: list[dict[str, Any]] = []

    def work(item: Item) -> dict[str, Any]:
        rows.append(predict_sheet(model, item.source, out, wanted, options, progress=False))
        return {"mask": rows[-1]["mask"]}

    items = [Item(p.name, p, targets[p]) for p in sheets]
    already = (lambda item: False) if overwrite else None
    outcomes = bulk(work, items, log=out / "predict.jsonl", description="Sheets", already=already)
    if all(o.status == "already done" for o in outcomes):
        note.print("All sheets were done before; --overwrite makes them anew.")
    return rows, outcomes


def identity_if_none(grid: Grid) -> Affine:
    """The transform of results: the sheet's, or pixels."""
    return grid.transform
