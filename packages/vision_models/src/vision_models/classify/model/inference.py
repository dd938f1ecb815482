"""A network with its preprocessing and classes: pictures in, probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core_runtime.image_sets import ImageSet
from core_runtime.terminal import track
from vision_models.classify.model.classifier import Classifier
from vision_models.classify.model.preparing import Preprocessing


@dataclass(frozen=True)
class ImageClassifier:
    """A network ready to predict.

    Attributes:
        classes: names, in the order of its logits.
        provenance: how its weights were made.
        path: of its folder.
    """

    network: Classifier
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    path: Path | None = None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Class probabilities (images, classes) of uint8 images (images, channels, size, size)."""
        device = next(self.network.parameters()).device
        return self.network(self.preprocessing(images.to(device))).float().softmax(1).cpu()


def predict_images(model: ImageClassifier, images: ImageSet, numbers: Sequence[int], *, batch: int = 64) -> Tensor:
    """Probabilities (images, classes) of the images with these numbers, in order.

    Raises:
        UserError: an image cannot be used.
    """
    probabilities = []
    starts = range(0, len(numbers), batch)
    for start in track(starts, "Predicting"):
        pending = []
        for number in numbers[start : start + batch]:
            image = model.preprocessing.cut(images.picture(number).image)
            pending.append(model.preprocessing.bytes_of(image))
        probabilities.append(model(torch.stack(pending)))
    return torch.cat(probabilities)
