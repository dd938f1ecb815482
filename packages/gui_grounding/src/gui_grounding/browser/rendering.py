"""Sample pages as real web pages in Chromium: their boxes are read back from the browser, not assumed."""

import html
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gui_grounding.browser.chromium import Opened
from gui_grounding.screens.elements import COLOURS, Element

if TYPE_CHECKING:
    from PIL.Image import Image

_FONTS = ("sans-serif", "serif", "monospace")
_TEXTS = (
    "Inbox (3)",
    "Your order has been sent.",
    "Last change: today",
    "Page 2 of 7",
    "12 results",
    "No new messages",
)
_CORNERS = {
    "triangle": "polygon(50% 0, 100% 100%, 0 100%)",
    "diamond": "polygon(50% 0, 100% 50%, 50% 100%, 0 50%)",
}
_BOXES = """() => [...document.querySelectorAll("[data-element]")].map(element => {
  const box = element.getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
})"""


def render_page(
    opened: Opened, elements: Sequence[Element], size: tuple[int, int], chance: random.Random
) -> tuple["Image", list[Element]]:
    """A page with these elements, and the elements with the boxes that the browser gave them.

    Args:
        opened: a page of Chromium, in a window of `size`.
        elements: what is on it, and about where.
        size: width and height of the window, in pixels.
        chance: draws fonts, colours of the ground, and the text between the elements.
    """
    from PIL import Image

    from core_runtime.errors import UserError

    opened.page.set_content(write_page(elements, size, chance), wait_until="load")
    boxes = opened.page.evaluate(_BOXES)
    if len(boxes) != len(elements):
        raise UserError("the browser does not show the sample page", "--render drawn needs no browser")
    shown = []
    for element, (left, top, right, bottom) in zip(elements, boxes, strict=True):
        shown.append(replace(element, box=(round(left), round(top), round(right), round(bottom))))
    image = Image.open(io.BytesIO(opened.page.screenshot(scale="css", animations="disabled")))
    return image.convert("RGB"), shown


def write_page(elements: Sequence[Element], size: tuple[int, int], chance: random.Random) -> str:
    """The HTML: a title bar, lines of text, and the elements as buttons and shapes."""
    grey, font = chance.randint(225, 255), chance.choice(_FONTS)
    parts = [
        '<!doctype html><meta charset="utf-8"><title>sample</title>',
        f"<style>body{{margin:0;background:rgb({grey},{grey},{grey});font:12px {font}}}",
        "[data-element]{position:absolute;box-sizing:border-box;border:0;padding:0}",
        "header{background:#78828f;color:#fff;height:21px;line-height:21px;padding-left:8px}",
        "p{position:absolute;margin:0;color:#777;font-size:10px}</style>",
        f"<header>{html.escape(chance.choice(('Sample page', 'Settings', 'Shop', 'Mail')))}</header>",
    ]
    for text in chance.sample(_TEXTS, 2):
        left, top = chance.randint(4, size[0] // 2), chance.randint(24, size[1] - 14)
        parts.append(f'<p style="left:{left}px;top:{top}px">{html.escape(text)}</p>')
    for element in elements:
        parts.append(_write_element(element, chance))
    return "\n".join(parts)


def _write_element(element: Element, chance: random.Random) -> str:
    x1, y1, x2, y2 = element.box
    colour = COLOURS[element.colour]
    place = f"left:{x1}px;top:{y1}px;width:{x2 - x1}px;height:{y2 - y1}px;background:rgb{colour}"
    if element.kind == "button":
        ink = "#fff"
        if sum(colour) > 330:
            ink = "#000"
        radius = chance.choice((0, 4, 10))
        return f'<button data-element style="{place};color:{ink};border-radius:{radius}px">{html.escape(element.word)}</button>'
    shape = "border-radius:50%"
    if element.kind != "circle":
        shape = f"clip-path:{_CORNERS.get(element.kind, 'none')}"
    return f'<div data-element role="button" style="{place};{shape}"></div>'
