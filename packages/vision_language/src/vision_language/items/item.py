"""One sentence about one picture, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from vision_language.results import Box

Boxes = Literal["pixels", "pixels-xywh", "normalised", "thousandths"]


@dataclass(frozen=True)
class Item:
    """One sentence about one picture.

    Attributes:
        name: its id.
        image: file of the picture.
        sentence: a referring sentence, or a question (and its answer).
        box: as the file counts it; None where there is a mask alone.
        convention: how its box is counted.
        mask: a file, polygons, or COCO's run lengths; None: the box.
        group: what is resampled whole: the picture, unless the file says otherwise.
    """

    name: str
    image: Path
    sentence: str
    box: Box | None = None
    convention: Boxes | None = None
    mask: Path | Mapping[str, Any] | Sequence[Any] | None = None
    group: str = ""

    def box_in(self, width: int, height: int) -> Box | None:
        """left, top, right, bottom in pixels of a picture of this size.

        Raises:
            UserError: the box is empty or lies outside, so its convention is probably another.
        """
        if self.box is None:
            return None
        a, b, c, d = self.box
        if self.convention == "pixels-xywh":
            c, d = a + c, b + d
        elif self.convention == "normalised":
            a, b, c, d = a * width, b * height, c * width, d * height
        elif self.convention == "thousandths":
            a, b, c, d = a * width / 1000, b * height / 1000, c * width / 1000, d * height / 1000
        if c <= a or d <= b or c > width + 1 or d > height + 1 or a < -1 or b < -1:
            raise UserError(
                f"{self.name}: as {self.convention} its box is {a:g},{b:g} to {c:g},{d:g} of a picture of {width} × {height}",
                "--boxes says how boxes are counted",
            )
        return max(0.0, a), max(0.0, b), min(float(width), c), min(float(height), d)

    def mask_in(self, width: int, height: int) -> NDArray[np.bool_]:
        """What is meant as a mask of the picture's size; of a box, its pixels.

        Raises:
            UserError: a mask of another size, run lengths that do not fit, a file that is absent.
        """
        from vision_language.items.mask_files import fill_polygons, read_mask, read_run_lengths

        if self.mask is None:
            mask = np.zeros((height, width), bool)
            box = self.box_in(width, height)
            if box is not None:
                left, top, right, bottom = (round(value) for value in box)
                mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
            return mask
        if isinstance(self.mask, Path):
            return read_mask(self.mask, (height, width))
        if isinstance(self.mask, Mapping):
            return read_run_lengths(self.name, self.mask, (height, width))
        return fill_polygons(self.name, self.mask, (height, width))
