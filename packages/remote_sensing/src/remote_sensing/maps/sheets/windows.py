"""Windows of a user's own sheet for training and validation, with its polygons or lines rasterised."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.identity import identity
from core_runtime.terminal import warn
from remote_sensing.maps.sheets.examples import Example, Examples
from remote_sensing.maps.sheets.formats import is_vector, split_layer
from remote_sensing.maps.sheets.labels import rasterised, read_label
from remote_sensing.maps.sheets.options import LabelOptions, SheetOptions
from remote_sensing.maps.sheets.sheet import Sheet


def windows(
    sheet_path: Path,
    labels: Path,
    *,
    side: int = 224,
    options: LabelOptions = LabelOptions(),
    reading: SheetOptions = SheetOptions(),
) -> tuple[Examples, Examples]:
    """Training and validation windows of a sheet: those that hold a feature, a quarter as many without; no pixel is in both.

    Raises:
        UserError: labels that are not on the sheet, or too few windows.
    """
    classes = options.classes
    with Sheet(sheet_path, reading) as sheet:
        grid = sheet.grid
        notice = sheet.file.tags().get("NOTICE", "")
        for warning in sheet.warnings:
            warn(f"{sheet_path.name}: {warning}")
        if is_vector(labels):
            truth = rasterised(labels, grid, options)
        else:
            truth = read_label(labels, len(classes), grid)
    corners, filled = _choose_windows(truth, side)
    train, val = split_windows(corners, filled, side)
    if not train or not val:
        raise UserError(
            f"{sheet_path.name} gives {len(train)} windows of {side} pixels to train on and {len(val)} apart from them",
            "more labels, or a smaller --side, are needed",
        )
    sheet_digest = identity(sheet_path, full=True)["sha256"][:16]

    def read(name: str) -> Example:
        y, x = map(int, name.split("_"))
        with Sheet(sheet_path, reading) as opened:
            pixels, valid = opened.read(slice(y, y + side), slice(x, x + side))
        label = np.zeros((side, side), np.uint8)
        # a window may reach beyond the sheet: background there
        cut = truth[y : y + side, x : x + side]
        label[: cut.shape[0], : cut.shape[1]] = cut
        return pixels, np.where(valid, label, 0).astype(np.uint8)

    files = sheet_path, split_layer(labels)[0]
    pixel = 0.0
    if grid.georeferenced:
        pixel = grid.pixel
    parts = []
    for part in (train, val):
        names = tuple(f"{y}_{x}" for y, x in part)
        parts.append(Examples(names, read, classes, side, files, pixel, notice, lambda name: f"{sheet_digest}:{name}"))
    return parts[0], parts[1]


Corner = tuple[int, int]


def _choose_windows(truth: NDArray[np.uint8], side: int) -> tuple[list[Corner], set[Corner]]:
    """Upper left corners (y, x) of windows, half a side apart: all that hold a feature (the set), and a quarter as many that do not."""
    height, width = truth.shape
    tops = range(0, max(height - side // 2, 1), side // 2)
    lefts = range(0, max(width - side // 2, 1), side // 2)
    corners = list(product(tops, lefts))
    filled, empty = set(), []
    for y, x in corners:
        if truth[y : y + side, x : x + side].any():
            filled.add((y, x))
        else:
            empty.append((y, x))
    # spread over the whole sheet, not its first rows
    step = max(1, 4 * len(empty) // max(len(filled), 1))
    some_empty = empty[::step][: max(1, len(filled) // 4)]
    selection = filled.union(some_empty)
    return [corner for corner in corners if corner in selection], filled


def split_windows(chosen: Sequence[Corner], filled: set[Corner], side: int) -> tuple[list[Corner], list[Corner]]:
    """Windows for training and for validation. They never overlap: a window that touches one of validation is not trained on.

    Every fifth block of two by two windows that holds a feature validates; where there are few blocks, the lower or the right end of the sheet.
    """
    blocks: dict[Corner, list[Corner]] = {}
    for y, x in chosen:
        blocks.setdefault((y // (2 * side), x // (2 * side)), []).append((y, x))
    # neighbouring windows overlap by half: whole blocks validate, so that few windows at their borders are lost
    with_features = sorted(block for block, members in blocks.items() if filled & set(members))
    if len(with_features) > 4:
        validating = with_features[::5]
    else:
        validating = with_features[-1:]
    val = []
    for block in validating:
        val += blocks[block]
    train = _apart(chosen, val, side)
    if _usable(train, filled) and len(with_features) > 1:
        return train, val
    for axis in (0, 1):
        # the last fifth of the windows along an axis, or fewer
        positions = sorted({corner[axis] for corner in chosen})
        for begin in positions[len(positions) * 4 // 5 :] or positions[-1:]:
            val = [corner for corner in chosen if corner[axis] >= begin]
            train = _apart(chosen, val, side)
            if _usable(train, filled) and _usable(val, filled):
                return train, val
    return [], []


def _usable(corners: Sequence[Corner], filled: set[Corner]) -> bool:
    return bool(filled & set(corners))


def _apart(chosen: Sequence[Corner], val: Sequence[Corner], side: int) -> list[Corner]:
    """The windows that share no pixel with any of `val`."""
    if not val:
        return list(chosen)
    others = np.array(val)
    apart = []
    for corner in chosen:
        overlapping = (np.abs(others - corner) < side).all(1)
        if not overlapping.any():
            apart.append(corner)
    return apart
