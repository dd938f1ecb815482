"""Areas of interest: the objects that fixations belong to. (Readers in `gaze.scanpaths.aoi_files`.)"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Areas:
    """The objects of one stimulus.

    Attributes:
        names: of the objects, unique.
        boxes: (objects, 4) with left, top, width and height in pixels.
        polygons: of those objects that are not boxes: index → (corners, 2) in pixels.
        stimulus: name of the picture.
        notes: what is odd: objects that overlap, that are outside the picture, that are equal.
        labels: of a label image: (height, width), 0 outside of every object, else the object's index + 1. It then decides what is inside.
    """

    names: Sequence[str]
    boxes: NDArray[np.float64]
    polygons: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    stimulus: str = ""
    notes: Sequence[str] = ()
    labels: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(objects, 2): x and y of the middle of each box."""
        return self.boxes[:, :2] + self.boxes[:, 2:] / 2
