"""From a sheet to a mask: tiles slide over it, their logits are blended by a taper, and finished strips of rows are stored on disk.

Memory does not grow with the height of a sheet, and only by some rows with its width. A strip on disk is done: a run that was killed continues with
the next. Tiles are on a grid anchored to the coordinates, so a part of a sheet, even one cut out as a file, gives the same as the whole gives there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from core_runtime.folders import fingerprint, write_text, writing
from core_runtime.terminal import progress as progress_bar
from remote_sensing.maps.model.folder import SheetModel
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.model.tiling import Tiles, taper
from remote_sensing.maps.results import COLOURS, NODATA, Segmentation
from remote_sensing.maps.sheets.parts import Part
from remote_sensing.maps.sheets.sheet import Sheet
from remote_sensing.rasters import open_raster, write_cog


def segment(
    model: SheetModel,
    sheet: Sheet,
    out: Path,
    name: str,
    part: Part,
    options: SegmentOptions,
    *,
    key: Mapping[str, Any],
    progress: bool = True,
) -> Segmentation:
    """Writes ``NAME_mask.tif`` (class numbers, 255 no data, colour table) and ``NAME_prob.tif`` (a band of probabilities per class, then unsure), COGs.

    Args:
        key: everything that the result depends on; strips of a killed run with another key are not used.
    """
    tiles = Tiles(sheet.grid, model.side, options)
    work = out / f".{name}.work"
    _open_work_folder(work, fingerprint({"key": key, "part": str(part)}))
    numbers = tiles.strips_of(part.rows)
    todo = [number for number in numbers if not _strip_file(work, number).exists()]
    skipped = 0
    bar_of_run: Any = nullcontext()
    if progress:
        bar_of_run = progress_bar(f"Segmenting {name}", len(numbers))
    with bar_of_run as bar:
        if bar is not None:
            bar.advance(bar.task_ids[0], len(numbers) - len(todo))
        for run in _runs(todo):
            for number, layers, empty in _strips(model, sheet, tiles, part, options, run):
                with writing(_strip_file(work, number)) as temporary, temporary.open("wb") as file:
                    np.save(file, layers)
                skipped += empty
                if bar is not None:
                    bar.advance(bar.task_ids[0])
    mask, probability, counts = _assemble(work, out, name, numbers, tiles, part, model, sheet)
    shutil.rmtree(work, ignore_errors=True)
    shares = shares_of_area(counts, model.classes)
    holds_data = bool(counts[:NODATA].any())
    resumed = len(numbers) - len(todo)
    return Segmentation(mask, probability, tiles.count(part), skipped, resumed, shares, holds_data=holds_data)


def shares_of_area(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """The share of each class in the pixels with data.

    Args:
        counts: (256,), pixels of each number in the mask: 0 background, then the classes, `NODATA` without data.
        classes: names.
    """
    total = int(counts[:NODATA].sum())
    return {label: float(counts[number] / max(total, 1)) for number, label in enumerate(classes, 1)}


def _open_work_folder(work: Path, key: str) -> None:
    """Empties the folder of finished strips, unless they were made with the same key."""
    mark = work / "run.json"
    try:
        same = json.loads(mark.read_text(encoding="utf-8"))["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        write_text(mark, json.dumps({"key": key}))


def _strip_file(work: Path, number: int) -> Path:
    return work / f"{number:07}.npy"


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Consecutive numbers together."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield range(numbers[start], numbers[i - 1] + 1)
            start = i


def _strips(
    model: SheetModel, sheet: Sheet, tiles: Tiles, part: Part, options: SegmentOptions, run: range
) -> Iterator[tuple[int, NDArray[np.uint8], int]]:
    """Finished strips (2 + K, rows, columns): class, unsure, and probabilities of 0 to 254; 255 is "no data" in all layers. And the number of
    tiles left out.

    The sums hold the rows of one tile and of the strips below it; after each row of tiles they move up by a stride.
    """
    side, stride, k = tiles.side, tiles.stride, len(model.classes)
    columns = tiles.columns_of(part.columns)
    left = tiles.column(columns[0])
    width = tiles.column(columns[-1]) + side - left
    depth = max(stride * (tiles.around + 1), side)
    weight = taper(side)
    sums = np.zeros((k + 1, depth, width), np.float32)  # of weighted logits, then of weights
    valid = np.zeros((depth, width), bool)
    inner = slice(part.columns.start - left, part.columns.stop - left)
    # a strip is complete when all rows of tiles that reach into it are done: the first of them begin above the run
    for row in range(run[0] - tiles.around, run[-1] + 1):
        top = tiles.row(row)
        window = slice(top, top + side), slice(left, left + width)
        skipped = 0
        if top < sheet.grid.height and top + side > 0:
            pixels, there = sheet.read(*window)
            if part.roi:
                there &= _inside(part.roi, *window)
            valid[:side] |= there
            starts = [number * stride for number in range(len(columns))]
            # tiles without data, which old sheets have in plenty around their frame, need no network
            starts_with_data = [start for start in starts if there[:, start : start + side].any()]
            skipped = len(starts) - len(starts_with_data)
            for i in range(0, len(starts_with_data), options.batch):
                batch_starts = starts_with_data[i : i + options.batch]
                batch = np.stack([pixels[:, :, start : start + side] for start in batch_starts])
                batch_logits = model.logits(torch.from_numpy(batch)).numpy()
                for start, logits in zip(batch_starts, batch_logits, strict=True):
                    sums[:k, :side, start : start + side] += weight * logits
                    sums[k, :side, start : start + side] += weight
        if row >= run[0]:
            rows = tiles.strip(row)
            offset = slice(rows.start - top, rows.stop - top)
            yield row, _finish(sums[:, offset, inner], valid[offset, inner], options), skipped
        sums = np.concatenate([sums[:, stride:], np.zeros_like(sums[:, :stride])], 1)
        valid = np.concatenate([valid[stride:], np.zeros_like(valid[:stride])])


def _inside(roi: Sequence[BaseGeometry], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """The pixels of a window inside a region of interest (in pixels of the sheet)."""
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return ~geometry_mask(list(roi), shape, Affine.translation(columns.start, rows.start))


def _finish(sums: NDArray, valid: NDArray, options: SegmentOptions) -> NDArray[np.uint8]:
    """The layers of a strip from its sums of weighted logits and of weights."""
    there = valid & (sums[-1] > 0)
    logits = sums[:-1] / np.maximum(sums[-1], 1e-12)
    probability = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))  # clipped: exp overflows in float32 from 89
    best = probability.argmax(0)
    highest = probability.max(0)
    feature = highest >= options.threshold
    # probability that the decision is right: for background, that no class is there
    certainty = np.where(feature, highest, 1 - highest)
    layers = [np.where(feature, best + 1, 0), certainty < options.abstain, *np.rint(probability * 254)]
    return np.stack([np.where(there, layer, NODATA) for layer in layers]).astype(np.uint8)


def _assemble(
    work: Path, out: Path, name: str, numbers: range, tiles: Tiles, part: Part, model: SheetModel, sheet: Sheet
) -> tuple[Path, Path, NDArray[np.int64]]:
    """Writes the strips as two COGs, and counts the pixels of each class number."""
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
        # strips are written to plain files first: a COG cannot be written piece by piece
        plain = [part_file.with_suffix(".plain.part") for part_file in (mask_to, prob_to)]
        try:
            with (
                open_raster(plain[0], "w", count=1, **common) as mask_file,
                open_raster(plain[1], "w", count=len(model.classes) + 1, **common) as prob_file,
            ):
                for number in numbers:
                    rows = tiles.strip(number)
                    # the first and the last strip may extend beyond the part
                    first, stop = max(rows.start, part.rows.start), min(rows.stop, part.rows.stop)
                    layers = np.load(_strip_file(work, number))[:, first - rows.start : stop - rows.start]
                    window = ((first - part.rows.start, stop - part.rows.start), (0, grid.width))
                    mask_file.write(layers[0], 1, window=window)
                    prob_file.write(np.concatenate([layers[2:], layers[1:2]]), window=window)
                    counts += np.bincount(layers[0].ravel(), minlength=256)
                _name_classes(mask_file, prob_file, model)
            write_cog(plain[0], mask_to)
            write_cog(plain[1], prob_to)
        finally:
            for file in plain:
                file.unlink(missing_ok=True)
    return mask, prob, counts


def _name_classes(mask_file: Any, prob_file: Any, model: SheetModel) -> None:
    """Writes colour table, class names and the model's notice into the files, so that other programs show them."""
    classes = model.classes
    colours = {0: (255, 255, 255, 0)}
    tags = {"CLASS_0": "background"}
    for number, name in enumerate(classes, 1):
        tags[f"CLASS_{number}"] = name
        if number <= len(COLOURS):
            colours[number] = (*COLOURS[number - 1], 255)
    mask_file.write_colormap(1, colours)
    mask_file.update_tags(**tags)
    if model.notice:
        mask_file.update_tags(NOTICE=model.notice)
        prob_file.update_tags(NOTICE=model.notice)
    descriptions = [f"probability of {name} (0 to 254)" for name in classes]
    descriptions.append("unsure")
    for band, description in enumerate(descriptions, 1):
        prob_file.set_band_description(band, description)
