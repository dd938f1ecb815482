"""The results of this domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gui_grounding.coordinates import Position, View

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Candidate:
    """One region that the model looks at.

    Attributes:
        position: its centre.
        score: what it is ranked by.
        mass: the attention in it; all regions and what is between them sum to 1.
        box: x1, y1, x2, y2 of its cells as shares of the screenshot.
    """

    position: Position
    score: float
    mass: float
    box: tuple[float, float, float, float]

    def facts(self) -> dict[str, Any]:
        """For JSON: its position in all spaces."""
        return {"score": self.score, "mass": self.mass, "box": list(self.box), **self.position.facts()}


@dataclass(frozen=True)
class Grounding:
    """Where an instruction points on a screenshot.

    Attributes:
        instruction: as it was given.
        action: ``click`` (one target) or ``drag`` (from the first to the second).
        targets: for each pointer its candidates, best first; at least one.
        confidence: attention in the best region of each pointer, the least of them; 0 to 1.
        entropy: of the attention over cells, as a share of the largest possible; the greatest of the pointers.
        probability: of a hit, by the model's calibration; None: it is not calibrated.
        abstains: whether the model says that the target is not there.
        resized: width and height of the screenshot as the model saw it.
        scores: (rows, columns) attention of each pointer; not written to JSON.
    """

    instruction: str
    action: str
    targets: Sequence[Sequence[Candidate]]
    confidence: float
    entropy: float
    probability: float | None
    abstains: bool
    resized: tuple[int, int]
    view: View
    scores: Sequence["np.ndarray"] = field(repr=False, default=())

    @property
    def positions(self) -> list[Position]:
        """The click point, or both ends of the drag."""
        return [candidates[0].position for candidates in self.targets]

    def facts(self) -> dict[str, Any]:
        """For JSON: positions in all spaces."""
        targets: list[Mapping[str, Any]] = []
        for candidates in self.targets:
            regions = [each.facts() for each in candidates]
            targets.append({**candidates[0].position.facts(), "regions": regions})
        return {
            "instruction": self.instruction,
            "action": self.action,
            "abstains": self.abstains,
            "confidence": self.confidence,
            "entropy": self.entropy,
            "probability": self.probability,
            "targets": targets,
            "image_size": [self.view.width, self.view.height],
            "resized": list(self.resized),
        }


def how_sure(grounding: Mapping[str, Any]) -> str:
    """In words, of a grounding's facts. Attention in one place says little of whether it is the right one: only a calibrated model can."""
    if grounding["probability"] is not None:
        return f"probability of a hit {grounding['probability']:.2f}"
    return f"confidence {grounding['confidence']:.2f} (not calibrated)"
