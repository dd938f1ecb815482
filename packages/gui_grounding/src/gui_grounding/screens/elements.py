"""What stands on a sample page."""

from dataclasses import dataclass

COLOURS = {
    "red": (208, 40, 40),
    "green": (36, 150, 60),
    "blue": (40, 84, 208),
    "yellow": (232, 200, 30),
    "purple": (140, 50, 170),
    "black": (25, 25, 25),
}


@dataclass(frozen=True)
class Element:
    """One thing on a page that can be clicked.

    Attributes:
        kind: ``button``, or the shape of an icon.
        colour: its name.
        word: what a button says.
        box: x1, y1, x2, y2 in pixels.
    """

    kind: str
    colour: str
    word: str
    box: tuple[int, int, int, int]

    @property
    def ui_type(self) -> str:
        if self.kind == "button":
            return "text"
        return "icon"
