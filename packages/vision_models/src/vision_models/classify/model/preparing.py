"""From a picture to what a network takes: size, channels, mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SMALL = 64  # images up to this size are taken whole; larger ones are scaled to 8/7 of the size and cut, as DeiT does
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, also for CIFAR (as DHVT does)


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs.

    Attributes:
        size: side in pixels.
        mean, std: of each channel, in units of white.
    """

    size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def channels(self) -> int:
        return len(self.mean)

    def cut(self, image: Image) -> Image:
        """A picture at the network's size: its shorter side scaled, its middle cut out."""
        from PIL import Image as pillow

        whole = self.size
        if self.size > SMALL:
            whole = round(self.size * 256 / 224)
        width, height = image.size
        if min(width, height) != whole:
            scale = whole / min(width, height)
            size = (max(whole, round(width * scale)), max(whole, round(height * scale)))
            image = image.resize(size, pillow.Resampling.BICUBIC)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        if image.size == (self.size, self.size):
            return image
        return image.crop((left, top, left + self.size, top + self.size))

    def bytes_of(self, image: Image) -> Tensor:
        """A picture of the network's size as uint8 (channels, size, size)."""
        if self.channels == 1:
            image = image.convert("L")
        values = np.array(image)
        if values.ndim == 2:
            values = values[..., None]
        return torch.from_numpy(values).permute(2, 0, 1).contiguous()

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (images, channels, size, size) as the network's input."""
        shape = (1, self.channels, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        std = torch.tensor(self.std, device=images.device).view(shape)
        return (images.float() / 255 - mean) / std

    def plain(self) -> dict[str, Any]:
        """For config.json."""
        return {"size": self.size, "mean": list(self.mean), "std": list(self.std)}


def preprocessing_for(size: int, channels: int) -> Preprocessing:
    """ImageNet's mean and deviation, of grey images their averages over the colours."""
    if channels == 1:
        return Preprocessing(size, (sum(MEAN) / 3,), (sum(STD) / 3,))
    return Preprocessing(size)
