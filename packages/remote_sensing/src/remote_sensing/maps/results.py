"""The results of a segmentation: its files and figures, the number for no data, the colours of classes. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NODATA = 255
# Colours of the classes 1, 2, … on pictures and in colour tables.
COLOURS = (
    (220, 40, 40),
    (40, 110, 230),
    (30, 160, 80),
    (230, 150, 20),
    (150, 60, 190),
    (20, 170, 180),
    (200, 90, 130),
    (110, 110, 20),
)


@dataclass(frozen=True)
class Segmentation:
    """A sheet that was segmented.

    Attributes:
        mask: class numbers, 255 where there is no data.
        probability: a band per class (0 to 254), and a last one that marks unsure pixels.
        tiles: how many the part needs; `skipped_tiles` of them hold no data.
        resumed_strips: strips of rows taken over from an interrupted run.
        shares: class → share of the area that holds data.
        holds_data: whether any pixel does.
    """

    mask: Path
    probability: Path
    tiles: int
    skipped_tiles: int
    resumed_strips: int
    shares: Mapping[str, float]
    holds_data: bool
