"""Sheets of dark pictures: as taken, as the detector's input after enhancement, with drawn and found boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.boxes import BoxedImage
from vision_models.detect.model.inference import ReadyDetector, before_and_after, read_tensor
from vision_models.detect.reports.figures import brightened, scene_sheet, stretched
from vision_models.detect.results import FoundBox


def draw_scenes(
    path: Path,
    images: Sequence[BoxedImage],
    found: Sequence[Sequence[FoundBox]],
    model: ReadyDetector,
    *,
    threshold: float,
) -> Path:
    """A row per picture: as taken, brightened for the eye with the drawn boxes, after enhancement, with the found boxes.

    Args:
        threshold: score from which found boxes are drawn.
    """
    rows = []
    for image, boxes in zip(images, found, strict=True):
        rows.append(scene_row(image, boxes, model, threshold))
    return scene_sheet(rows, path)


def scene_row(image: BoxedImage, boxes: Sequence[FoundBox], model: ReadyDetector, threshold: float) -> list[Any]:
    """One row of `draw_scenes`."""
    tensor = read_tensor(image.file)
    taken = (tensor.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    bright = brightened(taken)
    row: list[Any] = [("as taken", taken, [], False)]
    enhanced = before_and_after(model.network, tensor)
    if enhanced is not None:
        row.append(("what the enhancer makes of it", stretched(enhanced[1]), [], False))
    drawn = [(box, label, model.classes[label]) for box, label in zip(image.boxes, image.labels, strict=True)]
    if drawn:
        row.append(("brightened for the eye, drawn boxes", bright, drawn, True))
    shown = []
    for each in boxes:
        if each.score >= threshold:
            shown.append((each.box, each.label, f"{model.classes[each.label]} {each.score:.2f}"))
    row.append((f"boxes found (score ≥ {threshold:g})", bright, shown, False))
    return row
