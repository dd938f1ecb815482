"""What a detection is. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Segment(NamedTuple):
    """One detected action: start and end in seconds, its label, its score in [0, 1]."""

    start: float
    end: float
    label: str
    score: float


@dataclass(frozen=True)
class Detections:
    """The segments of one video, best first.

    Attributes:
        video: its name.
        seconds: its length.
        segments: all that the model proposes.
        threshold: score from which a segment is worth showing; chosen on the validation videos.
    """

    video: str
    seconds: float
    segments: Sequence[Segment]
    threshold: float

    def shown(self) -> list[Segment]:
        """Segments from the threshold on, in the order of their starts, without weaker ones that mostly lie in a stronger one of their label."""
        strong = [segment for segment in self.segments if segment.score >= self.threshold]
        apart: list[Segment] = []
        for segment in sorted(strong, key=lambda segment: -segment.score):
            if all(_apart(segment, other) for other in apart):
                apart.append(segment)
        return sorted(apart)

    def entry(self) -> list[dict[str, Any]]:
        """As ActivityNet's result files hold it."""
        rows = []
        for segment in self.segments:
            times = [round(segment.start, 3), round(segment.end, 3)]
            rows.append({"label": segment.label, "score": round(segment.score, 6), "segment": times})
        return rows


def _apart(segment: Segment, other: Segment) -> bool:
    if segment.label != other.label:
        return True
    common = min(segment.end, other.end) - max(segment.start, other.start)
    return common < 0.4 * min(segment.end - segment.start, other.end - other.start)
