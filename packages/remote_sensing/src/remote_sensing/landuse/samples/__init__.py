"""Synthetic EuroSAT: options of the samples."""

from typing import Annotated

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, options


@options
class SampleOptions:
    """The samples to draw.

    Attributes:
        tiles: number for each of the ten classes.
        scene: side of the scene in pixels, a multiple of 64; 0: none.
        rgb_only: leave out the 13-band GeoTIFFs (107 kB each).
    """

    tiles: Annotated[int, AtLeast(5)] = 12  # with five, no part of a split list is empty
    scene: Annotated[int, AtLeast(0)] = 512
    rgb_only: bool = False

    def __post_init__(self) -> None:
        if self.scene % 64:
            raise UserError(f"--scene {self.scene} is not a multiple of 64", "try 512 or 768")
