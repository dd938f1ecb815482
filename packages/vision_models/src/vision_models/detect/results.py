"""What a detector finds."""

from dataclasses import dataclass

from core_runtime.boxes import Box


@dataclass(frozen=True)
class FoundBox:
    """One box: left, top, right, bottom in pixels of the picture, the place of its class, and its score."""

    box: Box
    label: int
    score: float
