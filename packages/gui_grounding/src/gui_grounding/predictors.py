"""The model and the baselines behind one interface, so that they are judged on the same items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gui_grounding.items.item import Item

if TYPE_CHECKING:
    from PIL.Image import Image

    from gui_grounding.model.inference import Asking, Grounder


@dataclass(frozen=True)
class Answer:
    """Of one item.

    Attributes:
        points: x, y as shares of the screenshot, best first.
        confidence: 0 to 1; NaN for a baseline that has none.
        probability: of a hit, by the model's calibration; None without one.
        abstains: whether it says that the target is not there.
        scores: (rows, columns) attention; None for baselines.
        resized: size of the screenshot as it was seen.
    """

    points: Sequence[tuple[float, float]]
    confidence: float = float("nan")
    probability: float | None = None
    abstains: bool = False
    scores: np.ndarray | None = None
    resized: tuple[int, int] | None = None


class Predictor(Protocol):
    """What is judged."""

    name: str

    def answer(self, image: "Image", items: Sequence[Item]) -> list[Answer]:
        """Answers to all items of one screenshot."""
        ...


class Centre:
    """The middle of the screenshot, whatever is asked."""

    name = "centre"

    def answer(self, image: "Image", items: Sequence[Item]) -> list[Answer]:
        return [Answer([(0.5, 0.5)]) for _ in items]


class Network:
    """A trained model.

    Args:
        grounder: the model.
        asking: how it is asked.
        blind: ask every question with the same words: what the picture alone gives (the text-blind baseline).
    """

    def __init__(self, grounder: "Grounder", asking: "Asking", *, blind: bool = False) -> None:
        self.grounder, self.asking, self.blind = grounder, asking, blind
        self.name = "text-blind" if blind else "model"

    def answer(self, image: "Image", items: Sequence[Item]) -> list[Answer]:
        instructions = [item.instruction for item in items]
        if self.blind:
            instructions = ["click the element"]
        answers = []
        for grounding in self.grounder.ground(image, instructions, self.asking):
            points = [candidate.position.normalised for candidate in grounding.targets[0]]
            answers.append(
                Answer(
                    points,
                    grounding.confidence,
                    grounding.probability,
                    grounding.abstains,
                    grounding.scores[0],
                    grounding.resized,
                )
            )
        if self.blind:
            return answers * len(items)
        return answers


def by_screenshot(items: Sequence[Item]) -> Mapping[str, list[Item]]:
    """Items by their screenshot, so that it is encoded once."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(str(item.image), []).append(item)
    return groups
