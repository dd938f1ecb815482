"""How a sheet is segmented. Imports nothing heavy."""

from typing import Annotated

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, options


@options
class SegmentOptions:
    """How a sheet is segmented.

    Attributes:
        scale: size of the symbols here, relative to the training tiles.
        overlap: share of a tile that neighbours have in common.
        threshold: probability from which a pixel is a feature.
        abstain: below this (calibrated) certainty a pixel is marked unsure.
        batch: tiles per step.
    """

    scale: Annotated[float, Above(0)] = 1.0
    overlap: Annotated[float, Between(0, 0.75)] = 0.25
    threshold: Annotated[float, Between(0, 1)] = 0.5
    abstain: Annotated[float, Between(0, 1)] = 0.75
    batch: Annotated[int, AtLeast(1)] = 4

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UserError(f"--threshold {self.threshold:g} must be between 0 and 1", "0.5 is usual")
