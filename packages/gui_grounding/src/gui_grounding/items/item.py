"""One question of a benchmark or a training set: a screenshot, an instruction, where its target is."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

Shape = Literal["box", "polygon", "refusal"]
BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)  # shares of the screenshot that targets are grouped by
BUCKET_NAMES = (
    f"under {BUCKETS[0] * 100:g} %",
    *(f"{low * 100:g} to {high * 100:g} %" for low, high in pairwise(BUCKETS)),
    f"{BUCKETS[-1] * 100:g} % and more",
    "refusal",
)  # smallest first


@dataclass(frozen=True)
class Target:
    """Where the element is, as shares of the screenshot.

    Attributes:
        shape: ``box``, ``polygon``, or ``refusal``: it is not on the screenshot.
        points: corners (x, y): two of a box (upper left, lower right), all of a polygon in order, none of a refusal.
    """

    shape: Shape
    points: Sequence[tuple[float, float]] = ()

    def holds(self, x: float, y: float) -> bool:
        """Whether a point is in it: a box holds its edges, of a polygon the even-odd rule decides."""
        if self.shape == "refusal":
            return False
        if self.shape == "box":
            (x1, y1), (x2, y2) = self.points
            return x1 <= x <= x2 and y1 <= y <= y2
        inside = False
        for (x1, y1), (x2, y2) in zip(self.points, [*self.points[1:], self.points[0]], strict=True):
            if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
                inside = not inside
        return inside

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 around it.

        Raises:
            ValueError: a refusal has none.
        """
        if not self.points:
            raise ValueError("a refusal has no box")
        across = [x for x, _ in self.points]
        down = [y for _, y in self.points]
        return min(across), min(down), max(across), max(down)

    @property
    def area(self) -> float:
        """Share of the screenshot that its box covers; 0 for a refusal."""
        if not self.points:
            return 0.0
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        name: its id, unique in its file.
        image: path of the screenshot.
        instruction: what the user wants.
        targets: one or several valid ones; a hit is a hit of any.
        size: width and height of the screenshot that the coordinates are for; None: shares.
        ui_type: ``text``, ``icon``, or what the file says.
        platform: windows, macos, ios, android, web …
        group: of the benchmark: mobile, desktop, web; Dev, CAD …
        application: where the file names it.
    """

    name: str
    image: Path
    instruction: str
    targets: Sequence[Target]
    size: tuple[int, int] | None = None
    ui_type: str = ""
    platform: str = ""
    group: str = ""
    application: str = ""

    @property
    def refuses(self) -> bool:
        """Whether the right answer is that the target is not there."""
        return all(target.shape == "refusal" for target in self.targets)

    @property
    def bucket(self) -> str:
        """The size of the target in words."""
        if self.refuses:
            return BUCKET_NAMES[-1]
        area = min(target.area for target in self.targets)
        return BUCKET_NAMES[bisect_right(BUCKETS, area)]
