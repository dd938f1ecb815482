"""A sheet to a mask: tiles slide over it, their logits are blended by a taper, and finished strips of rows are kept on disk.

Memory does not grow with the height of a sheet, and only by some rows with its width. A strip that is on disk is done: a run that was killed goes on
with the next. Tiles lie on a grid that is anchored in the sheet, so a part of it gives what the whole would give there.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from core_runtime.cli import progress as progress_bar
from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, write_text, writing
from remote_sensing.maps.model_folders import COLOURS, SheetModel
from remote_sensing.maps.sheets import Grid, Sheet
from remote_sensing.rasters import open_raster, write_cog

NODATA = 255


@dataclass(frozen=True)
class SegmentOptions:
    """How a sheet is segmented.

    Attributes:
        overlap: share of a tile's side that neighbours have in common, 0 to 0.75.
        scale: how many times larger symbols are in this sheet's pixels than in the training tiles.
        threshold: probability from which a pixel is a feature.
        abstain: pixels whose decision is right with a (calibrated) probability below this are marked as unsure.
        batch: tiles a step.
        shift: pixels by which the tile grid is moved (to see that it does not matter).
    """

    overlap: float = 0.25
    scale: float = 1.0
    threshold: float = 0.5
    abstain: float = 0.75
    batch: int = 4
    shift: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.75:
            raise UserError(f"--overlap {self.overlap} must be from 0 to 0.75", "0.25 is usual")
        if not self.scale > 0 or not 0 < self.threshold < 1:
            raise UserError(f"--scale {self.scale} must be above 0, --threshold {self.threshold} between 0 and 1")


@dataclass(frozen=True)
class Part:
    """The rows and columns of a sheet that are asked for, and polygons (in pixels) outside of which nothing is looked at."""

    rows: slice
    columns: slice
    roi: tuple[BaseGeometry, ...] = ()


def taper(side: int) -> NDArray[np.float32]:
    """(side, side) weights of a tile: a Hann bell that never reaches zero, so that every pixel is covered, at the sheet's edge too."""
    bell = 0.02 + 0.98 * np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.outer(bell, bell).astype(np.float32)


class Tiles:
    """Where tiles lie on a sheet: starts of rows and columns, strips of rows that become final together."""

    def __init__(self, grid: Grid, side: int, options: SegmentOptions) -> None:
        self.side = max(8, round(side * options.scale))
        self.stride = max(1, round(self.side * (1 - options.overlap)))
        self.around = math.ceil(self.side / self.stride) - 1  # tile rows above that reach into a strip
        self.shift, self.grid = options.shift, grid

    def strip(self, number: int) -> slice:
        """Rows of the sheet that become final after the tile row of that number."""
        top = number * self.stride - self.shift
        return slice(max(top, 0), min(top + self.stride, self.grid.height))

    def strips_of(self, rows: slice) -> range:
        """Numbers of the strips that touch some rows."""
        return range((rows.start + self.shift) // self.stride, (rows.stop - 1 + self.shift) // self.stride + 1)

    def start(self, number: int) -> int:
        """Where the tile row (or column) of that number begins; may be outside of the sheet."""
        return number * self.stride - self.shift

    def columns_of(self, columns: slice) -> range:
        """Numbers of the tile columns that touch some columns."""
        return range(
            (columns.start + self.shift) // self.stride - self.around,
            (columns.stop - 1 + self.shift) // self.stride + 1,
        )

    def count(self, part: Part) -> int:
        """How many tiles a part needs."""
        return (len(self.strips_of(part.rows)) + self.around) * len(self.columns_of(part.columns))


def segment(
    model: SheetModel,
    sheet: Sheet,
    out: Path,
    name: str,
    part: Part,
    options: SegmentOptions,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes ``NAME_mask.tif`` (class numbers, 255 no data, colour table) and ``NAME_prob.tif`` (a band of probabilities a class, then unsure), COGs.

    Returns:
        Facts: tiles, skipped tiles, share of each class, files.
    """
    grid = sheet.grid
    tiles = Tiles(grid, model.side, options)
    work = out / f".{name}.work"
    key = fingerprint(
        {
            "sheet": [sheet.path.name, sheet.path.stat().st_size, sheet.path.stat().st_mtime_ns],
            "model": [*model.classes, model.temperature, model.side, model.channel_order, _digest(model)],
            "options": asdict(options) | {"batch": 0},
            "part": str(part),
        }
    )
    mark = work / "run.json"
    if not mark.exists() or json.loads(mark.read_text(encoding="utf-8")).get("key") != key:
        shutil.rmtree(work, ignore_errors=True)
        write_text(mark, json.dumps({"key": key}))
    numbers = tiles.strips_of(part.rows)
    todo = [i for i in numbers if not (work / f"{i:07}.npy").exists()]
    skipped = 0
    with progress_bar(f"Segmenting {name}", len(numbers)) as bar:
        bar.advance(bar.task_ids[0], len(numbers) - len(todo))
        for run in _runs(todo):
            for number, made, empty in _strips(model, sheet, tiles, part, options, run):
                with writing(work / f"{number:07}.npy") as temporary, temporary.open("wb") as file:
                    np.save(file, made)
                skipped += empty
                bar.advance(bar.task_ids[0])
    files, shares = _assemble(work, out, name, numbers, tiles, part, model, sheet)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "tiles": tiles.count(part),
        "skipped_tiles": skipped,
        "resumed_strips": len(numbers) - len(todo),
        "shares": shares,
        **files,
    }


def _digest(model: SheetModel) -> list[float]:
    """A few numbers that tell one network from another."""
    return [round(float(p.detach().double().abs().mean()), 12) for p in list(model.network.parameters())[::37]]


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Neighbouring numbers together."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield range(numbers[start], numbers[i - 1] + 1)
            start = i


def _strips(
    model: SheetModel, sheet: Sheet, tiles: Tiles, part: Part, options: SegmentOptions, run: range
) -> Iterator[tuple[int, NDArray[np.uint8], int]]:
    """Finished strips (2 + K, rows, columns): class, unsure, and probabilities of 0 to 254; 255 is no data everywhere. And tiles left out."""
    side, stride, k = tiles.side, tiles.stride, len(model.classes)
    columns = tiles.columns_of(part.columns)
    left = tiles.start(columns[0])
    width = tiles.start(columns[-1]) + side - left
    depth = stride * (tiles.around + 1)
    weight = taper(side)
    sums = np.zeros((k + 1, max(depth, side), width), np.float32)
    valid = np.zeros((sums.shape[1], width), bool)
    inner = slice(part.columns.start - left, part.columns.stop - left)
    for row in range(run[0] - tiles.around, run[-1] + 1):
        top = tiles.start(row)
        pixels, there = (
            sheet.read(slice(top, top + side), slice(left, left + width))
            if _touches(top, side, sheet.grid)
            else (None, None)
        )
        empty = 0
        if pixels is not None and there is not None:
            if part.roi:
                there &= _inside(part.roi, slice(top, top + side), slice(left, left + width))
            valid[:side] |= there
            starts = [c * stride for c in range(len(columns))]
            chosen = [c for c in starts if there[:, c : c + side].any()]
            empty = len(starts) - len(chosen)
            for i in range(0, len(chosen), options.batch):
                some = chosen[i : i + options.batch]
                batch = np.stack([pixels[:, :, c : c + side] for c in some])
                for c, logits in zip(some, model.logits(torch.from_numpy(batch)).numpy(), strict=True):
                    sums[:k, :side, c : c + side] += weight * logits
                    sums[k, :side, c : c + side] += weight
        if row >= run[0]:
            rows = tiles.strip(row)
            offset = slice(rows.start - top, rows.stop - top)
            yield row, _finished(sums[:, offset, inner], valid[offset, inner], options), empty
        sums = np.concatenate([sums[:, stride:], np.zeros_like(sums[:, :stride])], 1)
        valid = np.concatenate([valid[stride:], np.zeros_like(valid[:stride])])


def _touches(top: int, side: int, grid: Grid) -> bool:
    return top < grid.height and top + side > 0


def _inside(roi: Sequence[BaseGeometry], rows: slice, columns: slice) -> NDArray[np.bool_]:
    from affine import Affine

    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return ~geometry_mask(list(roi), shape, Affine.translation(columns.start, rows.start))


def _finished(sums: NDArray, valid: NDArray, options: SegmentOptions) -> NDArray[np.uint8]:
    there = valid & (sums[-1] > 0)
    logits = sums[:-1] / np.maximum(sums[-1], 1e-12)
    probability = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    best = probability.argmax(0)
    top = probability.max(0)
    feature = top >= options.threshold
    decided = np.where(feature, top, 1 - top)
    layers = [np.where(feature, best + 1, 0), decided < options.abstain, *np.rint(probability * 254)]
    return np.stack([np.where(there, layer, NODATA) for layer in layers]).astype(np.uint8)


def _assemble(
    work: Path, out: Path, name: str, numbers: range, tiles: Tiles, part: Part, model: SheetModel, sheet: Sheet
) -> tuple[dict[str, str], dict[str, float]]:
    """The strips as two COGs."""
    grid = sheet.grid.window(part.rows, part.columns)
    common: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "dtype": "uint8",
        "nodata": NODATA,
        "crs": grid.crs,
        "transform": grid.transform if sheet.grid.georeferenced else None,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "BIGTIFF": "IF_SAFER",
    }
    mask, prob = out / f"{name}_mask.tif", out / f"{name}_prob.tif"
    counts = np.zeros(256, np.int64)
    with writing(mask) as mask_to, writing(prob) as prob_to:
        plain = [p.with_suffix(".plain.part") for p in (mask_to, prob_to)]
        try:
            with (
                open_raster(plain[0], "w", count=1, **common) as a,
                open_raster(plain[1], "w", count=len(model.classes) + 1, **common) as b,
            ):
                for number in numbers:
                    rows = tiles.strip(number)
                    here = slice(max(rows.start, part.rows.start), min(rows.stop, part.rows.stop))
                    made = np.load(work / f"{number:07}.npy")[:, here.start - rows.start : here.stop - rows.start]
                    at = ((here.start - part.rows.start, here.stop - part.rows.start), (0, grid.width))
                    a.write(made[0], 1, window=at)
                    b.write(np.concatenate([made[2:], made[1:2]]), window=at)
                    counts += np.bincount(made[0].ravel(), minlength=256)
                a.write_colormap(
                    1, {0: (255, 255, 255, 0), **{i: (*c, 255) for i, c in enumerate(COLOURS[: len(model.classes)], 1)}}
                )
                a.update_tags(CLASS_0="background", **{f"CLASS_{i}": c for i, c in enumerate(model.classes, 1)})
                for i, c in enumerate((*(f"probability of {c} (0 to 254)" for c in model.classes), "unsure"), 1):
                    b.set_band_description(i, c)
            write_cog(plain[0], mask_to)
            write_cog(plain[1], prob_to)
        finally:
            for p in plain:
                p.unlink(missing_ok=True)
    total = max(int(counts[:NODATA].sum()), 1)
    shares = {c: float(counts[i] / total) for i, c in enumerate(model.classes, 1)}
    return {"mask": str(mask), "probability": str(prob)}, shares
