"""Clicks as other tools write them, and back: pyautogui, Playwright, UI-TARS, OS-Atlas, SeeClick, computer-use JSON.

Each format counts in a space of its own. Whole numbers cost up to half a unit of that space, and no more: reading what was written
gives the position within that.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from core_runtime.errors import UserError
from gui_grounding.coordinates import Position, Space, View


@dataclass(frozen=True)
class Format:
    """How one tool writes clicks and drags.

    Attributes:
        name: how it is asked for.
        space: in which it counts.
        units: steps from one edge of the screenshot to the other; 0: units of the space.
        whole: whether it writes whole numbers.
        click: text of one point.
        drag: text of two points; None: the tool has no such action.
    """

    name: str
    space: Space
    units: int
    whole: bool
    click: Callable[[str, str], str]
    drag: Callable[[str, str, str, str], str] | None = None

    def numbers(self, position: Position) -> tuple[str, str]:
        """x and y as the format spells them."""
        x, y = position.exact(self.space)
        if self.units:
            x, y = x * self.units, y * self.units
        if self.whole:
            return str(_nearest(x)), str(_nearest(y))
        if self.space == "normalised" and not self.units:
            return f"{float(x):.4f}", f"{float(y):.4f}"
        return repr(float(x)), repr(float(y))

    def write(self, positions: Sequence[Position]) -> str:
        """The action of one point (a click) or two (a drag).

        Raises:
            UserError: a drag, and the tool has none.
        """
        spelled = [number for position in positions for number in self.numbers(position)]
        if len(spelled) == 2:
            return self.click(spelled[0], spelled[1])
        if self.drag is None:
            raise UserError(f"{self.name} has no drag", f"formats with a drag: {', '.join(_with_drag())}")
        return self.drag(spelled[0], spelled[1], spelled[2], spelled[3])

    def read(self, text: str, view: View) -> list[Position]:
        """The positions of an action that was written in this format.

        Raises:
            UserError: there is no such action in the text.
        """
        pattern = _pattern(self.click("{0}", "{1}"))
        dragged = _pattern(self.drag("{0}", "{1}", "{2}", "{3}")) if self.drag else None
        match = pattern.search(text) or (dragged.search(text) if dragged else None)
        if match is None:
            raise UserError(f"{text!r} is not a click of {self.name}", f"it writes {self.click('X', 'Y')}")
        numbers = [Fraction(number) / (self.units or 1) for number in match.groups()]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return [view.place(x, y, self.space) for x, y in pairs]


def _nearest(value: Fraction) -> int:
    """The nearest whole number; of two the even one."""
    return round(value)


def _pattern(example: str) -> re.Pattern[str]:
    """What finds the numbers of an action, whatever the blanks around them."""
    parts = re.split(r"\{\d\}", example)
    number = r"\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*"
    return re.compile(number.join(re.escape(part).replace(r"\ ", r"\s*") for part in parts))


def _with_drag() -> list[str]:
    return [name for name, each in FORMATS.items() if each.drag is not None]


_DECLARED = (
    Format(
        "pyautogui",
        "screen",
        0,
        True,
        lambda x, y: f"pyautogui.click(x={x}, y={y})",
        lambda a, b, c, d: f"pyautogui.moveTo(x={a}, y={b}); pyautogui.dragTo(x={c}, y={d}, button='left')",
    ),
    Format(
        "playwright",
        "css",
        0,
        False,
        lambda x, y: f"await page.mouse.click({x}, {y})",
        lambda a, b, c, d: (
            f"await page.mouse.move({a}, {b}); await page.mouse.down(); await page.mouse.move({c}, {d}); await page.mouse.up()"
        ),
    ),
    Format(
        "ui-tars",
        "normalised",
        1000,
        True,
        lambda x, y: f"click(point='<point>{x} {y}</point>')",
        lambda a, b, c, d: f"drag(start_point='<point>{a} {b}</point>', end_point='<point>{c} {d}</point>')",
    ),
    Format(
        "ui-tars-absolute",
        "image",
        0,
        True,
        lambda x, y: f"click(point='<point>{x} {y}</point>')",
        lambda a, b, c, d: f"drag(start_point='<point>{a} {b}</point>', end_point='<point>{c} {d}</point>')",
    ),
    Format("os-atlas", "normalised", 1000, True, lambda x, y: f"CLICK <point>[[{x}, {y}]]</point>"),
    Format("seeclick", "normalised", 0, False, lambda x, y: f"({x}, {y})"),
    Format(
        "anthropic",
        "image",
        0,
        True,
        lambda x, y: f'{{"action": "left_click", "coordinate": [{x}, {y}]}}',
        lambda a, b, c, d: f'{{"action": "left_click_drag", "start_coordinate": [{a}, {b}], "coordinate": [{c}, {d}]}}',
    ),
    Format(
        "openai",
        "image",
        0,
        True,
        lambda x, y: f'{{"type": "click", "button": "left", "x": {x}, "y": {y}}}',
        lambda a, b, c, d: f'{{"type": "drag", "path": [{{"x": {a}, "y": {b}}}, {{"x": {c}, "y": {d}}}]}}',
    ),
)
FORMATS: Mapping[str, Format] = {each.name: each for each in _DECLARED}


def format_named(name: str) -> Format:
    """By name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in FORMATS:
        raise UserError(f"no format is called {name!r}", f"known: {', '.join(FORMATS)}")
    return FORMATS[name]
