"""Where a point is, in every space that clicks are counted in; conversions are exact, so each of them can be undone.

A screenshot is a rectangle of a captured screen. `View` says which, and a `Position` in it can be read as

- ``normalised``: shares of the screenshot, 0 to 1;
- ``image``: pixels of the screenshot;
- ``css``: logical (CSS) pixels of the captured window or monitor, which browsers and accessibility tools count in;
- ``page``: CSS pixels of the whole document, with what was scrolled away;
- ``screen``: logical pixels of the desktop, over all monitors, with their origin.

Numbers are kept as fractions. Floats are fractions, too, so what goes in as a float comes out as the same float.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from core_runtime.errors import UserError

Space = Literal["normalised", "image", "css", "page", "screen"]
SPACES: tuple[Space, ...] = ("normalised", "image", "css", "page", "screen")


@dataclass(frozen=True)
class View:
    """What a screenshot shows of a screen.

    Attributes:
        width, height: of the screenshot in its own pixels.
        pixel_ratio: pixels of the screenshot per logical pixel (devicePixelRatio; 2 on most Retina screens).
        crop: pixels of the capture that were cut off on the left and above.
        scroll: CSS pixels that the document is scrolled to the right and down.
        origin: logical position of the capture's upper left corner on the desktop; negative on a monitor to the left or above.
    """

    width: int
    height: int
    pixel_ratio: float = 1.0
    crop: tuple[float, float] = (0, 0)
    scroll: tuple[float, float] = (0, 0)
    origin: tuple[float, float] = (0, 0)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UserError(f"a screenshot of {self.width} × {self.height} pixels holds nothing")
        numbers = (self.pixel_ratio, *self.crop, *self.scroll, *self.origin)
        if not all(abs(number) < 1e9 for number in numbers):  # NaN and infinities compare False
            raise UserError("pixel ratio, crop, scroll and origin must be finite numbers")
        if self.pixel_ratio <= 0:
            raise UserError(f"the pixel ratio is {self.pixel_ratio}, expected more than 0")

    def place(self, x: float | Fraction, y: float | Fraction, space: Space = "normalised") -> "Position":
        """The position with these coordinates in a space."""
        across, down = self._scales(space)
        return Position((Fraction(x) - across[1]) / across[0], (Fraction(y) - down[1]) / down[0], self)

    def cut(self, left: int, top: int, width: int, height: int) -> "View":
        """The view of a part of this screenshot: its positions are the same places on the screen."""
        crop = (self.crop[0] + left, self.crop[1] + top)
        return View(width, height, self.pixel_ratio, crop, self.scroll, self.origin)

    def _scales(self, space: Space) -> tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]]:
        """(factor, offset) of x and of y that take image pixels into a space."""
        if space == "normalised":
            return (Fraction(1, self.width), Fraction(0)), (Fraction(1, self.height), Fraction(0))
        if space == "image":
            return (Fraction(1), Fraction(0)), (Fraction(1), Fraction(0))
        if space not in SPACES:
            raise UserError(f"no space is called {space!r}", f"known: {', '.join(SPACES)}")
        factor = 1 / Fraction(self.pixel_ratio)
        moved = {"css": (0, 0), "page": self.scroll, "screen": self.origin}[space]
        across = Fraction(self.crop[0]) * factor + Fraction(moved[0])
        down = Fraction(self.crop[1]) * factor + Fraction(moved[1])
        return (factor, across), (factor, down)


@dataclass(frozen=True)
class Position:
    """One point of a screenshot; `View.place` makes it.

    Attributes:
        image_x, image_y: exact pixels of the screenshot.
        view: what the screenshot shows.
    """

    image_x: Fraction
    image_y: Fraction
    view: View

    def exact(self, space: Space) -> tuple[Fraction, Fraction]:
        """x and y in a space, as fractions."""
        across, down = self.view._scales(space)
        return self.image_x * across[0] + across[1], self.image_y * down[0] + down[1]

    def to(self, space: Space) -> tuple[float, float]:
        """x and y in a space, as the nearest floats."""
        x, y = self.exact(space)
        return float(x), float(y)

    @property
    def normalised(self) -> tuple[float, float]:
        return self.to("normalised")

    @property
    def image(self) -> tuple[float, float]:
        return self.to("image")

    @property
    def css(self) -> tuple[float, float]:
        return self.to("css")

    @property
    def page(self) -> tuple[float, float]:
        return self.to("page")

    @property
    def screen(self) -> tuple[float, float]:
        return self.to("screen")

    @property
    def pixel(self) -> tuple[int, int]:
        """The pixel of the screenshot that holds the point."""
        x = min(max(int(self.image_x // 1), 0), self.view.width - 1)
        y = min(max(int(self.image_y // 1), 0), self.view.height - 1)
        return x, y

    def seen_from(self, view: View) -> "Position":
        """The same place of the screen in another screenshot of it: from a cut-out to the whole, say."""
        return view.place(*self.exact("screen"), "screen")

    def facts(self) -> dict[str, list[float]]:
        """The coordinates in all spaces."""
        return {space: list(self.to(space)) for space in SPACES}


def position_from(facts: Mapping[str, Any], view: View) -> Position:
    """A position that was written with `Position.facts`."""
    x, y = facts["image"]
    return view.place(x, y, "image")
