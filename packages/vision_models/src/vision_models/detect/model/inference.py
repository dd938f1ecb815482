"""A detector with its classes: pictures in, boxes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core_runtime.pictures import open_picture
from vision_models.detect.model.detectors import Detector
from vision_models.detect.results import FoundBox
from vision_models.detect.scenes.sizes import check_size


@dataclass(frozen=True)
class ReadyDetector:
    """A detector ready to predict.

    Attributes:
        classes: names; a box's label is a place in them.
        provenance: how its weights were made.
        path: of its folder.
    """

    network: Detector
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    path: Path | None = None

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor], *, threshold: float = 0.0, most: int = 100) -> list[list[FoundBox]]:
        """The boxes of pictures (3, height, width) from 0 to 1, the surest first; boxes are in pixels of the picture."""
        device = next(self.network.parameters()).device
        boxes_of_images = []
        for output in self.network([image.to(device) for image in images]):
            order = output["scores"].argsort(descending=True)[:most]
            boxes = []
            for box, label, score in zip(
                output["boxes"][order].tolist(),
                output["labels"][order].tolist(),
                output["scores"][order].tolist(),
                strict=True,
            ):
                if score >= threshold and 1 <= label <= len(self.classes):
                    boxes.append(FoundBox((box[0], box[1], box[2], box[3]), int(label) - 1, score))
            boxes_of_images.append(boxes)
        return boxes_of_images


def read_tensor(file: Path) -> Tensor:
    """A picture, upright, as (3, height, width) from 0 to 1.

    Raises:
        UserError: it cannot be used, or is smaller than a detector can look at.
    """
    picture = open_picture(file)
    check_size(file, picture.size)
    return torch.from_numpy(np.array(picture.image)).permute(2, 0, 1).float() / 255


@torch.inference_mode()
def before_and_after(detector: Detector, image: Tensor) -> tuple[Tensor, Tensor] | None:
    """What goes into the enhancer and what comes out for one picture, each (3, height, width); None without an enhancer."""
    if detector.enhancer is None:
        return None
    passes: list[tuple[Tensor, Tensor]] = []

    def keep(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passes.append((inputs[0].detach(), output.detach()))

    hook = detector.enhancer.register_forward_hook(keep)
    try:
        detector([image.to(next(detector.parameters()).device)])
    finally:
        hook.remove()
    before, after = passes[0]
    config = detector.config
    # the batch is scaled as the detector scales it, and padded on the right and below
    scale = min(config.size / min(image.shape[1:]), config.largest / max(image.shape[1:]))
    height, width = (max(1, int(side * scale)) for side in image.shape[1:])
    return before[0, :, :height, :width].cpu(), after[0, :, :height, :width].cpu()
