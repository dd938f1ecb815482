"""A screenshot of a page, a real mouse click at a point of it, and what the click hit."""

import json
from dataclasses import dataclass
from typing import Any

from gui_grounding.browser.chromium import Opened
from gui_grounding.coordinates import Position, View
from gui_grounding.screens.pictures import Screenshot, read_screenshot

# Runs in every frame: remembers what a mouse button went down on, in shadow trees too.
_WATCH = """
(() => {
  if (window.__gui_grounding_watch) return;
  window.__gui_grounding_watch = true;
  window.addEventListener("mousedown", event => {
    const target = event.composedPath()[0];
    window.__gui_grounding_hit = {
      tag: (target.tagName || "").toLowerCase(),
      id: target.id || "",
      text: (target.innerText || target.value || target.getAttribute && target.getAttribute("aria-label") || "").slice(0, 80),
      trusted: event.isTrusted,
    };
  }, true);
})()
"""
_FACTS = "() => ({ratio: window.devicePixelRatio, x: window.scrollX, y: window.scrollY})"


@dataclass(frozen=True)
class Seen:
    """A page as it is shown.

    Attributes:
        screenshot: of the window.
        view: what it shows: pixel ratio, scroll.
    """

    screenshot: Screenshot
    view: View


@dataclass(frozen=True)
class Hit:
    """What a click went down on.

    Attributes:
        tag, id, text: of the element.
        frame: address of the frame that it is in.
        trusted: whether the browser counts it as a user's click.
    """

    tag: str
    id: str
    text: str
    frame: str
    trusted: bool

    def __str__(self) -> str:
        name = ""
        if self.id:
            name = f"#{self.id}"
        words = ""
        if self.text:
            words = f" “{self.text}”"
        return f"<{self.tag}{name}>{words}"


def look(opened: Opened) -> Seen:
    """A screenshot of what the window shows, in its own pixels."""
    # unlike `evaluate` this has a limit in time, for pages whose scripts never end
    facts = opened.page.wait_for_function(_FACTS).json_value()
    content = opened.page.screenshot(scale="device", animations="disabled")
    screenshot = read_screenshot(content, "the page")
    view = View(*screenshot.size, pixel_ratio=facts["ratio"], scroll=(facts["x"], facts["y"]))
    return Seen(screenshot, view)


def click(opened: Opened, position: Position) -> Hit | None:
    """A real click of the left mouse button; what it hit, or None where no frame saw it."""
    page = opened.page
    for frame in page.frames:
        # what an earlier click went down on is forgotten
        frame.wait_for_function(f"() => {{ {_WATCH.strip()}; window.__gui_grounding_hit = null; return true }}")
    x, y = position.css
    page.mouse.move(x, y)
    page.mouse.down()
    hit = _find_hit(page)
    page.mouse.up()
    return hit


def _find_hit(page: Any) -> Hit | None:
    for frame in page.frames:
        text = frame.wait_for_function("() => JSON.stringify(window.__gui_grounding_hit || null)").json_value()
        hit = json.loads(text)
        if hit is not None:
            return Hit(hit["tag"], hit["id"], hit["text"], frame.url, hit["trusted"])
    return None
