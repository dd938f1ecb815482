"""How a file counts its boxes: corners or widths, pixels or shares. Told once for the whole file, never item by item.

``[10, 20, 30, 40]`` reads as two corners and as a corner with width and height; only the file as a whole tells. A reading is possible if
every box of the file is a box inside its screenshot under it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core_runtime.errors import UserError, few

Convention = Literal["xyxy", "xywh", "xyxy-normalised", "xywh-normalised"]
CONVENTIONS: tuple[Convention, ...] = ("xyxy", "xywh", "xyxy-normalised", "xywh-normalised")
Numbers = tuple[float, float, float, float]


@dataclass(frozen=True)
class RawBox:
    """Four numbers as a file gives them.

    Attributes:
        name: of the item, for messages.
        numbers: the numbers.
        size: width and height of its screenshot; None: not known.
    """

    name: str
    numbers: Numbers
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Detected:
    """The convention of a file.

    Attributes:
        convention: how its boxes are read.
        evidence: why, in words; printed.
    """

    convention: Convention
    evidence: str


def corners(box: RawBox, convention: Convention) -> Numbers:
    """x1, y1, x2, y2 as shares of the screenshot.

    Raises:
        UserError: pixels of a screenshot whose size is not known.
    """
    a, b, c, d = box.numbers
    if convention.startswith("xywh"):
        c, d = a + c, b + d
    if convention.endswith("normalised"):
        return a, b, c, d
    if box.size is None:
        raise UserError(
            f"{box.name}: its box is in pixels, and the size of its screenshot is not known", "add img_size"
        )
    width, height = box.size
    return a / width, b / height, c / width, d / height


def problem_of(box: RawBox, convention: Convention) -> str | None:
    """Why a box cannot be meant under a convention; None if it can."""
    if convention.endswith("normalised") and max(abs(number) for number in box.numbers) > 2:
        return "its numbers are pixels"
    if not convention.endswith("normalised") and are_shares(box):
        return "its numbers are shares of the screenshot"
    if not convention.endswith("normalised") and box.size is None:
        return "the size of its screenshot is not known"
    x1, y1, x2, y2 = corners(box, convention)
    # annotators draw a pixel or two beyond the edge
    slack = 0.01
    if box.size is not None:
        slack = max(0.002, 2 / min(box.size))
    if x2 <= x1 or y2 <= y1:
        return "it has no area"
    if min(x1, y1) < -slack or max(x2, y2) > 1 + slack:
        return "it reaches beyond the screenshot"
    return None


def are_shares(box: RawBox) -> bool:
    """Whether its numbers are shares of the screenshot: in pixels it would be a speck in the upper left corner."""
    return max(abs(number) for number in box.numbers) <= 1.01


def detect(boxes: Sequence[RawBox], where: str) -> Detected:
    """The one convention under which every box of a file is possible.

    Raises:
        UserError: none is, or several are: then it must be said. Or some boxes are shares, and others pixels.
    """
    shares = [box.name for box in boxes if are_shares(box)]
    pixels = [box.name for box in boxes if max(abs(number) for number in box.numbers) > 2]
    if shares and pixels:
        raise UserError(
            f"{where}: its boxes are counted in two ways: {len(shares)} as shares of the screenshot ({few(shares)}), "
            f"{len(pixels)} in pixels ({few(pixels)})",
            "count them alike, split the file, or say --boxes to use those of one kind alone",
        )
    # a convention is possible if no box contradicts it: x1 < x0 as corners, x + width beyond the picture as sizes
    counts: dict[Convention, int] = {}
    first: dict[Convention, str] = {}
    for convention in CONVENTIONS:
        problems = [(box, problem) for box in boxes if (problem := problem_of(box, convention)) is not None]
        counts[convention] = len(problems)
        if problems:
            box, problem = problems[0]
            first[convention] = (
                f"{len(problems)} of {len(boxes)} boxes are impossible as {convention} ({box.name}: {problem})"
            )
    possible: Sequence[Convention] = [convention for convention, impossible in counts.items() if not impossible]
    hint = f"say --boxes {'|'.join(CONVENTIONS)}"
    if len(possible) == 1:
        convention = possible[0]
        # the evidence that convinces is against the reading that one would confuse it with
        rivals: dict[Convention, Convention] = {
            "xyxy": "xywh",
            "xywh": "xyxy",
            "xyxy-normalised": "xywh-normalised",
            "xywh-normalised": "xyxy-normalised",
        }
        rival = first.get(rivals[convention], "")
        return Detected(convention, f"boxes are read as {convention}: {rival or 'no other reading is possible'}")
    if not possible:
        nearest = min(CONVENTIONS, key=lambda convention: counts[convention])
        raise UserError(f"{where}: no reading fits all of its boxes; {first[nearest]}", f"mend the file, or {hint}")
    raise UserError(f"{where}: its {len(boxes)} boxes can be read as {' and as '.join(possible)}", hint)
