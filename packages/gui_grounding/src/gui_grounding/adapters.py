"""Clicks as other tools write them, and back: pyautogui, Playwright, UI-TARS, OS-Atlas, SeeClick, computer-use JSON.

Each format counts in a space of its own. Whole numbers cost up to half a unit of that space, and no more: reading what was written
gives the position within that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from string import Template

from core_runtime.errors import UserError
from gui_grounding.coordinates import Position, Space, View


@dataclass(frozen=True)
class Format:
    """How one tool writes clicks and drags.

    Attributes:
        name: how it is asked for.
        space: in which it counts.
        click: text of one point, with $x and $y in the places of its numbers.
        drag: text of two points, from $x and $y to $to_x and $to_y; None: the tool has no such action.
        units: steps from one edge of the screenshot to the other; 0: units of the space.
        whole: whether it writes whole numbers.
    """

    name: str
    space: Space
    click: str
    drag: str | None = None
    units: int = 0
    whole: bool = True

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
        template = self.click
        if len(positions) == 2:
            if self.drag is None:
                raise UserError(f"{self.name} has no drag", f"formats with a drag: {', '.join(_with_drag())}")
            template = self.drag
        numbers = {}
        for names, position in zip((("x", "y"), ("to_x", "to_y")), positions, strict=False):
            numbers |= dict(zip(names, self.numbers(position), strict=True))
        return Template(template).substitute(numbers)

    def read(self, text: str, view: View) -> list[Position]:
        """The positions of an action that was written in this format.

        Raises:
            UserError: there is no such action in the text.
        """
        match = _pattern(self.click).search(text)
        if match is None and self.drag is not None:
            match = _pattern(self.drag).search(text)
        if match is None:
            example = Template(self.click).substitute(x="X", y="Y")
            raise UserError(f"{text!r} is not a click of {self.name}", f"it writes {example}")
        numbers = [Fraction(number) / (self.units or 1) for number in match.groups()]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return [view.place(x, y, self.space) for x, y in pairs]


def _nearest(value: Fraction) -> int:
    """The nearest whole number; of two the even one."""
    return round(value)


def _pattern(template: str) -> re.Pattern[str]:
    """What finds the numbers of an action, whatever the blanks around them."""
    parts = re.split(r"\$\w+", template)
    number = r"\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*"
    return re.compile(number.join(re.escape(part).replace(r"\ ", r"\s*") for part in parts))


def _with_drag() -> list[str]:
    return [name for name, each in FORMATS.items() if each.drag is not None]


_UI_TARS_CLICK = "click(point='<point>$x $y</point>')"
_UI_TARS_DRAG = "drag(start_point='<point>$x $y</point>', end_point='<point>$to_x $to_y</point>')"
_DECLARED = (
    Format(
        "pyautogui",
        "screen",
        "pyautogui.click(x=$x, y=$y)",
        "pyautogui.moveTo(x=$x, y=$y); pyautogui.dragTo(x=$to_x, y=$to_y, button='left')",
    ),
    Format(
        "playwright",
        "css",
        "await page.mouse.click($x, $y)",
        "await page.mouse.move($x, $y); await page.mouse.down(); await page.mouse.move($to_x, $to_y); await page.mouse.up()",
        whole=False,
    ),
    Format("ui-tars", "normalised", _UI_TARS_CLICK, _UI_TARS_DRAG, units=1000),
    Format("ui-tars-absolute", "image", _UI_TARS_CLICK, _UI_TARS_DRAG),
    Format("os-atlas", "normalised", "CLICK <point>[[$x, $y]]</point>", units=1000),
    Format("seeclick", "normalised", "($x, $y)", whole=False),
    Format(
        "anthropic",
        "image",
        '{"action": "left_click", "coordinate": [$x, $y]}',
        '{"action": "left_click_drag", "start_coordinate": [$x, $y], "coordinate": [$to_x, $to_y]}',
    ),
    Format(
        "openai",
        "image",
        '{"type": "click", "button": "left", "x": $x, "y": $y}',
        '{"type": "drag", "path": [{"x": $x, "y": $y}, {"x": $to_x, "y": $to_y}]}',
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
