"""Boxes of many pictures by one detector."""

from __future__ import annotations

from collections.abc import Sequence

from core_runtime.boxes import BoxedImage
from core_runtime.terminal import track
from vision_models.detect.model.inference import ReadyDetector, read_tensor
from vision_models.detect.results import FoundBox


def find_boxes(
    model: ReadyDetector, images: Sequence[BoxedImage], *, batch: int = 4, most: int = 100
) -> list[list[FoundBox]]:
    """The boxes found in each picture, in order, whatever their scores.

    Raises:
        UserError: a picture cannot be used.
    """
    boxes: list[list[FoundBox]] = []
    for start in track(range(0, len(images), batch), "Finding boxes"):
        pictures = [read_tensor(image.file) for image in images[start : start + batch]]
        boxes += model(pictures, most=most)
    return boxes
