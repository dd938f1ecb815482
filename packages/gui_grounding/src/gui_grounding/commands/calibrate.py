"""``gui-grounding calibrate``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from gui_grounding.commands.click import BrowserOptions


@dataclass(frozen=True)
class Calibration(Outcome):
    """Whether clicks land where screenshots say.

    Attributes:
        rows: of each mark: where it is, where the screenshot shows it, how far apart these are in CSS pixels, and what a click there hit.
        screenshot: its size in pixels.
        pixel_ratio: pixels per CSS pixel, as the browser says.
        notes: what happened on the way.
    """

    rows: Sequence[dict[str, Any]]
    screenshot: tuple[int, int]
    pixel_ratio: float
    notes: Sequence[str]

    @property
    def landed(self) -> bool:
        return all(row["hit"] == row["mark"] for row in self.rows)

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.landed:
            return 0
        return 1

    def facts(self) -> dict[str, Any]:
        return {"landed": self.landed, **self.__dict__}

    def lines(self) -> Iterable[str]:
        for note in self.notes:
            yield f"Note: {note}"
        yield f"Screenshot {self.screenshot[0]} × {self.screenshot[1]} px, {self.pixel_ratio:g} px per CSS px"
        for row in self.rows:
            yield f"  {row['mark']:7} at {row['css']}, seen {row['off']:.2f} CSS px beside it, a click there hit {row['hit'] or 'nothing'}"
        yield "Clicks land where screenshots say." if self.landed else "Clicks do not land where screenshots say."


def calibrate(*, browser: BrowserOptions = BrowserOptions()) -> Calibration:
    """Checks a machine's coordinates end to end: marks on a page, their pixels in the screenshot, clicks, and what they hit.

    Example: gui-grounding calibrate --pixel-ratio 1.5
    """
    import math
    import tempfile
    from pathlib import Path

    from gui_grounding.browser.chromium import opened
    from gui_grounding.browser.clicking import click, look
    from gui_grounding.browser.marks import COLOURS, PLACES, SIDE, find_colour, write_marks

    if browser.size[0] < 400 or browser.size[1] < 300:
        raise UserError(f"--size {browser.size[0]},{browser.size[1]} is too small for the marks", "at least 400,300")
    window = {
        "browser": browser.browser,
        "size": browser.size,
        "pixel_ratio": browser.pixel_ratio,
        "seconds": browser.seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        page_file = write_marks(Path(folder) / "marks.html")
        with opened(page_file.as_uri(), **window) as page:
            view = look(page)
            rows = []
            for name, colour in COLOURS.items():
                centre = (PLACES[name][0] + SIDE / 2, PLACES[name][1] + SIDE / 2)
                mark = find_colour(view.screenshot.image, colour)
                if mark is None:
                    rows.append({"mark": name, "css": centre, "off": math.inf, "hit": None})
                    continue
                position = view.view.place(*mark, "image")
                hit = click(page, position)
                off = math.dist(position.css, centre)
                rows.append({"mark": name, "css": centre, "off": off, "hit": hit.id if hit else None})
            return Calibration(rows, view.screenshot.size, view.view.pixel_ratio, page.notes)
