"""Pages with exact boxes of their elements, in ScreenSpot-Pro's format: buttons and icons in many colours.

Rendered in the system's Chromium, or drawn with PIL and its own font, which is the same on every machine. An element is told by its colour
and its kind; buttons carry a word too.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.terminal import track
from gui_grounding.screens.elements import COLOURS, Element

WORDS = ("Save", "Open", "Send", "Copy", "Next", "Back", "Stop", "Help", "Edit", "Sort")
ICONS = ("circle", "triangle", "square", "diamond")
VERBS = ("click", "press", "select")
SIZE = (224, 168)  # 8 × 6 cells
Render = Literal["auto", "chromium", "drawn"]
Painter = Callable[
    [Sequence["Element"], random.Random], tuple[Any, Sequence["Element"]]
]  # → the picture, the elements as they stand in it


@dataclass(frozen=True)
class Samples:
    """Where the samples are: ``images/`` and ``annotations/pages.json`` (ScreenSpot-Pro), ``training.json`` (the published training format)."""

    folder: Path
    annotations: Path
    training: Path
    pages: int
    items: int
    rendered: str


def make_samples(
    out: Path,
    *,
    pages: int = 12,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    render: Render = "drawn",
    overwrite: bool = False,
) -> Samples:
    """Writes pages, the same under a seed; those of Chromium as far as its version and the fonts are the same.

    Args:
        out: the folder.
        pages: how many.
        seed: of all that is drawn.
        size: width and height of a page, in pixels.
        render: ``chromium``: as web pages in the system's browser; ``drawn``: with PIL; ``auto``: in the browser where there is one.
        overwrite: replace samples that are there.

    Raises:
        UserError: `out` holds samples already and `overwrite` is off; Chromium is asked for and absent.
    """
    annotations, training = out / "annotations" / "pages.json", out / "training.json"
    if annotations.exists() and not overwrite:
        raise UserError(f"{out} already holds samples", "--overwrite replaces them")
    chance = random.Random(seed)
    items: list[dict[str, Any]] = []
    conversations: list[dict[str, Any]] = []
    with _painter(render, size) as (rendered, paint):
        for number in track(range(pages), "Making pages", pages):
            name = f"page_{number:03}.png"
            picture, elements = paint(place_elements(chance, size), chance)
            with writing(out / "images" / name) as part:
                picture.save(part, format="PNG")
            turns: list[dict[str, Any]] = []
            for element in elements:
                instruction = describe(element, chance)
                identity = f"page_{number:03}_{len(items):04}"
                items.append(_item(identity, name, element, instruction, size, rendered))
                turns += _turns(element, instruction, size, first=not turns)
            conversations.append({"image": name, "conversations": turns})
    write_text(annotations, json.dumps(items, indent=1) + "\n")
    write_text(training, json.dumps(conversations, indent=1) + "\n")
    return Samples(out, annotations, training, pages, len(items), rendered)


@contextlib.contextmanager
def _painter(render: Render, size: tuple[int, int]) -> Iterator[tuple[str, Painter]]:
    """How pages are made, in a word, and the function that makes one."""
    from gui_grounding.browser.chromium import can_open, opened
    from gui_grounding.browser.rendering import render_page

    if render == "drawn" or (render == "auto" and not can_open()):
        yield "drawn", lambda elements, chance: (draw_page(elements, size, chance), elements)
        return
    with opened("about:blank", size=size) as page:
        yield "chromium", lambda elements, chance: render_page(page, elements, size, chance)


def place_elements(chance: random.Random, size: tuple[int, int]) -> Sequence[Element]:
    """Three to five elements on one of three layouts, no two of one colour."""
    width, height = size
    colours = chance.sample(sorted(COLOURS), chance.randint(3, 5))
    words = chance.sample(WORDS, len(colours))
    # slots of two columns and three rows; elements are set off inside their slots, so that no place is certain
    slots = chance.sample(range(6), len(colours))
    layout = chance.choice(("buttons", "icons", "mixed"))
    elements = []
    for colour, word, slot in zip(colours, words, slots, strict=True):
        is_button = layout == "buttons" or (layout == "mixed" and chance.random() < 0.5)
        if is_button:
            wide, tall = chance.randint(62, 96), chance.randint(28, 40)
        else:
            wide = tall = chance.randint(30, 46)
        left, top = slot % 2 * width // 2, slot // 2 * (height - 24) // 3 + 24
        x = left + chance.randint(4, width // 2 - wide - 4)
        y = top + chance.randint(1, (height - 24) // 3 - tall - 1)
        kind = "button" if is_button else chance.choice(ICONS)
        elements.append(Element(kind, colour, word if is_button else "", (x, y, x + wide, y + tall)))
    return elements


def describe(element: Element, chance: random.Random) -> str:
    """An instruction that means the element."""
    verb = chance.choice(VERBS)
    if element.kind == "button":
        return f'{verb} the {element.colour} button "{element.word}"'
    return f"{verb} the {element.colour} {element.kind}"


def draw_page(elements: Sequence[Element], size: tuple[int, int], chance: random.Random) -> Any:
    """The page as a PIL image: a title bar, a background, the elements."""
    from PIL import Image, ImageDraw, ImageFont

    grey = chance.randint(225, 255)
    image = Image.new("RGB", size, (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.rectangle((0, 0, size[0], 20), fill=(120, 130, 145))
    draw.text((8, 2), "Sample page", fill="white", font=font)
    for element in elements:
        _draw_element(draw, element, font)
    return image


def _draw_element(draw: Any, element: Element, font: Any) -> None:
    x1, y1, x2, y2 = element.box
    colour = COLOURS[element.colour]
    inside = (x1, y1, x2 - 1, y2 - 1)  # PIL's boxes hold their last pixel
    if element.kind == "button":
        draw.rounded_rectangle(inside, radius=6, fill=colour)
        bright = sum(colour) > 330
        draw.text(
            ((x1 + x2) / 2, (y1 + y2) / 2), element.word, fill="black" if bright else "white", font=font, anchor="mm"
        )
    elif element.kind == "circle":
        draw.ellipse(inside, fill=colour)
    elif element.kind == "square":
        draw.rectangle(inside, fill=colour)
    elif element.kind == "triangle":
        draw.polygon([((x1 + x2) / 2, y1), (x2 - 1, y2 - 1), (x1, y2 - 1)], fill=colour)
    else:
        middle, across = (y1 + y2) / 2, (x1 + x2) / 2
        draw.polygon([(across, y1), (x2 - 1, middle), (across, y2 - 1), (x1, middle)], fill=colour)


def _item(
    identity: str, name: str, element: Element, instruction: str, size: tuple[int, int], rendered: str
) -> dict[str, Any]:
    return {
        "id": identity,
        "img_filename": name,
        "bbox": list(element.box),
        "instruction": instruction,
        "application": rendered,
        "platform": "sample",
        "img_size": list(size),
        "ui_type": element.ui_type,
        "group": "web",
    }


def _turns(element: Element, instruction: str, size: tuple[int, int], *, first: bool) -> list[dict[str, Any]]:
    """One question and its answer in the published training format."""
    width, height = size
    x1, y1, x2, y2 = element.box
    box = [round(x1 / width, 6), round(y1 / height, 6), round(x2 / width, 6), round(y2 / height, 6)]
    x, y = round((box[0] + box[2]) / 2, 4), round((box[1] + box[3]) / 2, 4)
    answer = {
        "from": "gpt",
        "value": f"pyautogui.click(x={x}, y={y})",
        "recipient": "os",
        "end_turn": True,
        "bbox_gt": box,
    }
    return [{"from": "human", "value": f"<image>{instruction}" if first else instruction}, answer]
