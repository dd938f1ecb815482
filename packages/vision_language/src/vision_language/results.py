"""The results of this domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grounding:
    """Where in a picture a sentence points, whichever engine said so.

    Attributes:
        sentence: as it was given.
        engine: "sentence-attention" or "refam".
        heat: (height, width) of the picture, 0…1.
        mask: what is meant, bool.
        point: (x, y) of the peak in pixels of the upright picture.
        box: left, top, right, bottom of the mask in pixels; None of an empty mask.
        words: word → its own map, (rows, columns).
        notes: what the user should know.
    """

    sentence: str
    engine: str
    heat: NDArray[np.float32]
    mask: NDArray[np.bool_]
    point: tuple[float, float]
    box: Box | None
    words: Mapping[str, NDArray[np.float32]]
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As JSON holds it; positions in pixels and as shares of width and height."""
        height, width = self.mask.shape
        x, y = self.point
        scaled = None
        if self.box is not None:
            left, top, right, bottom = self.box
            scaled = [left / width, top / height, right / width, bottom / height]
        peaks = {}
        for word, values in self.words.items():
            row, column = np.unravel_index(int(values.argmax()), values.shape)
            peaks[word] = [(float(column) + 0.5) / values.shape[1], (float(row) + 0.5) / values.shape[0]]
        return {
            "sentence": self.sentence,
            "engine": self.engine,
            "size": [width, height],
            "point": {"pixels": [x, y], "normalised": [x / width, y / height]},
            "box": None if self.box is None else {"pixels": list(self.box), "normalised": scaled},
            "area": float(self.mask.mean()),
            "words": peaks,
            "notes": list(self.notes),
        }
