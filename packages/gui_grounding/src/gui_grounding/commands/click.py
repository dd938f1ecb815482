"""``gui-grounding click``."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome, plain
from core_runtime.models import no_model
from core_runtime.options import (
    Above,
    AtLeast,
    Between,
    Device,
    IntegerPair,
    Model,
    Out,
    Overwrite,
    options,
    resolve_device,
)
from gui_grounding.results import how_sure


@options
class BrowserOptions:
    """The browser and its window.

    Attributes:
        browser: path of Chromium or Chrome; default: the system's.
        size: WIDTH,HEIGHT of the window in CSS pixels.
        pixel_ratio: pixels per CSS pixel.
        seconds: that loading, and each step, may take.
    """

    browser: Path | None = None
    size: IntegerPair = (1280, 800)
    pixel_ratio: Annotated[float, Between(0.25, 8)] = 1.0
    seconds: Annotated[float, Above(0)] = 20.0


@dataclass(frozen=True)
class Clicked(Outcome):
    """Where a click went.

    Attributes:
        grounding: `gui_grounding.results.Grounding` as plain values.
        clicked: whether a click was made.
        hit: the element that it went down on; None where none was made or no frame saw it.
        notes: what happened on the way.
        out: the folder with before.png, after.png (after a click) and click.json.
    """

    grounding: dict[str, Any]
    clicked: bool
    hit: dict[str, Any] | None
    notes: Sequence[str]
    out: Path

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.grounding["abstains"]:
            return 1
        return 0

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        for note in self.notes:
            yield f"Note: {note}"
        x, y = self.grounding["targets"][0]["css"]
        if self.grounding["abstains"]:
            yield f"Not here ({how_sure(self.grounding)}); nothing was clicked"
        elif not self.clicked:
            yield f"Would click at ({x:.1f}, {y:.1f}) CSS px; --yes clicks on pages beyond this machine"
        else:
            what = "nothing that a frame saw"
            if self.hit is not None:
                name = ""
                if self.hit["id"]:
                    name = f"#{self.hit['id']}"
                what = f"<{self.hit['tag']}{name}> {self.hit['text']}".rstrip()
            yield f"Clicked at ({x:.1f}, {y:.1f}) CSS px on {what}"
        yield f"Pictures: {self.out}"


def click(
    url: str,
    instruction: str,
    /,
    *,
    model: Model = None,
    yes: bool = False,
    abstain: Annotated[float, Between(0, 1)] = 0.0,
    max_pixels: Annotated[int | None, AtLeast(784)] = None,
    browser: BrowserOptions = BrowserOptions(),
    scroll: Annotated[int, AtLeast(0)] = 0,
    out: Out = Path("gui-click"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Clicked:
    """Opens a page in the system's Chromium, finds what the instruction means, and clicks it with real mouse events.

    Example: gui-grounding click page.html "press the red button" --model run/model

    Args:
        url: a web address, or an HTML file.
        instruction: what is to be clicked.
        yes: click on pages beyond this machine, too; without it only files and loopback addresses are clicked.
        abstain: click nothing where the probability of a hit (of an uncalibrated model: the confidence) is below this.
        max_pixels: of the screenshot as the model sees it, at most; default: the model's own limit.
        scroll: CSS pixels that the page is scrolled down first.
    """
    from core_runtime.folders import writing
    from core_runtime.identity import begun, refuse_foreign_folder
    from gui_grounding.browser.chromium import address, is_local, opened
    from gui_grounding.browser.clicking import click as press
    from gui_grounding.browser.clicking import look
    from gui_grounding.commands.predict import load
    from gui_grounding.model.inference import Asking
    from gui_grounding.reports.overlay import draw_grounding

    place = address(url)
    refuse_foreign_folder(out, [], overwrite=overwrite)
    if model is None:
        from gui_grounding.model.folder import ADVICE

        raise no_model(ADVICE)
    grounder = load(model, resolve_device(device), "as-saved")
    window = {
        "browser": browser.browser,
        "size": browser.size,
        "pixel_ratio": browser.pixel_ratio,
        "seconds": browser.seconds,
    }
    with begun(out, {"click": [place, instruction]}), writing(out) as part, opened(place, **window) as page:
        part.mkdir()
        if scroll:
            page.page.mouse.wheel(0, scroll)
            page.page.wait_for_function("() => window.scrollY > 0")
        view_of_page = look(page)
        asking = Asking(abstain_below=abstain, max_pixels=max_pixels)
        (grounding,) = grounder.ground(view_of_page.screenshot.image, [instruction], asking, view=view_of_page.view)
        draw_grounding(view_of_page.screenshot.image, grounding).save(part / "before.png")
        # a page may have sent the browser elsewhere: its address now decides, not the one that was given
        allowed = yes or is_local(page.page.url)
        hit = None
        if allowed and not grounding.abstains:
            hit = press(page, grounding.positions[0])
            page.page.wait_for_timeout(300)
            look(page).screenshot.image.save(part / "after.png")
        clicked = allowed and not grounding.abstains
        outcome = Clicked(grounding.facts(), clicked, asdict(hit) if hit else None, page.notes, out)
        (part / "click.json").write_text(
            json.dumps(plain(outcome.facts()), ensure_ascii=False, indent=1), encoding="utf-8"
        )
    return outcome
