"""Images as a network sees them, and where it looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core_runtime.image_sets import ImageSet
from vision_models.classify.model.attention_maps import attention_maps
from vision_models.classify.model.inference import ImageClassifier


def look(model: ImageClassifier, images: ImageSet, numbers: Sequence[int]) -> tuple[list[Any], list[Any] | None, str]:
    """Images at the network's size, and where the network looks in them: None, and "" as the layer, where it cannot be shown."""
    pictures = [model.preprocessing.cut(images.picture(number).image) for number in numbers]
    device = next(model.network.parameters()).device
    inputs = torch.stack([model.preprocessing.bytes_of(picture) for picture in pictures]).to(device)
    maps, layer = attention_maps(model.network, model.preprocessing(inputs))
    if maps is None:
        return pictures, None, ""
    return pictures, list(maps.numpy()), layer
