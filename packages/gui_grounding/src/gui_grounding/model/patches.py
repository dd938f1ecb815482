"""A screenshot as the vision tower takes it: resized to multiples of 28 pixels, cut into patches of 14."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core_runtime.errors import UserError
from gui_grounding.model.labels import CELL

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_PIXELS, MAX_PIXELS = 3136, 5_720_064  # published: 7,296 cells


@dataclass(frozen=True)
class Patches:
    """One resized screenshot.

    Attributes:
        values: (patches, values) as transformers' image processor makes them.
        grid: (1, 3) time, rows and columns in patches of 14 pixels.
        size: width and height of the resized image.
    """

    values: Tensor
    grid: Tensor
    size: tuple[int, int]

    @property
    def columns(self) -> int:
        return self.size[0] // CELL

    @property
    def rows(self) -> int:
        return self.size[1] // CELL


def resized_size(
    width: int, height: int, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Width and height after the published resizing: the nearest multiples of 28 (of two the even one) within the pixel limits.

    Raises:
        UserError: one side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    try:
        rows, columns = smart_resize(height, width, CELL, min_pixels, max_pixels)
    except ValueError:
        raise UserError(
            f"the screenshot is {width} × {height} pixels: one side is more than 200 times the other",
            "cut out the part that matters",
        ) from None
    return columns, rows


def cut_patches(image: "Image", *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> Patches:
    """Resizes an RGB image and cuts it into patches.

    Raises:
        UserError: one side is more than 200 times the other.
    """
    size = resized_size(*image.size, min_pixels=min_pixels, max_pixels=max_pixels)
    processed = _processor(min_pixels, max_pixels)(image, return_tensors="pt")
    return Patches(processed["pixel_values"].to(torch.float32), processed["image_grid_thw"], size)


@lru_cache(4)
def _processor(min_pixels: int, max_pixels: int) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(size={"shortest_edge": min_pixels, "longest_edge": max_pixels})
