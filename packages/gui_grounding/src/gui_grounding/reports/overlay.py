"""What a user looks at: attention over the screenshot, regions, the click, the target."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gui_grounding.items.item import Target
from gui_grounding.results import Grounding

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 1600  # pixels of the longer side of an overlay, at most
READABLE = 640  # pixels of the longer side below which a small screenshot is enlarged, by a whole factor


def draw_grounding(
    image: "Image", grounding: Grounding, targets: Sequence[Target] = (), *, longest: int = LONGEST
) -> "Image":
    """The screenshot with the attention as warmth, numbered regions, the click as a cross, and targets in green.

    Args:
        image: RGB screenshot.
        grounding: what the model says.
        targets: where the element is, if that is known.
        longest: pixels of the longer side, at most; a small screenshot is enlarged.
    """
    shown = shade(image, sum(np.asarray(each, np.float64) for each in grounding.scores), longest=longest)
    points = [[each.position.normalised for each in candidates] for candidates in grounding.targets]
    boxes = [[each.box for each in candidates] for candidates in grounding.targets]
    return mark(shown, points, boxes, targets, abstains=grounding.abstains)


def shade(image: "Image", scores: Any, *, longest: int = LONGEST) -> "Image":
    """The screenshot, readable, with attention as warmth."""
    from PIL import Image

    times = enlargement(image.size)
    shown = image.copy() if times == 1 else image.resize((image.width * times, image.height * times))
    shown.thumbnail((longest, longest))
    if not isinstance(scores, np.ndarray):
        return shown
    strength = (scores / scores.max() * 255).round().astype(np.uint8)
    heat = Image.fromarray(strength).resize(shown.size, Image.Resampling.BILINEAR)
    mask = heat.point(lambda value: int(value * 0.6))
    return Image.composite(Image.new("RGB", shown.size, (255, 90, 0)), shown, mask)


def enlargement(size: tuple[int, int]) -> int:
    """How many times a screenshot is enlarged, so that marks do not hide what is on it."""
    return max(1, -(-READABLE // max(size)))


def mark(
    shown: "Image",
    points: Sequence[Sequence[tuple[float, float]]],
    boxes: Sequence[Sequence[tuple[float, float, float, float]]],
    targets: Sequence[Target] = (),
    *,
    abstains: bool = False,
) -> "Image":
    """Draws regions, clicks and targets on a picture."""
    from PIL import ImageDraw, ImageFont

    draw = ImageDraw.Draw(shown)
    width, height = shown.size
    font = ImageFont.load_default(max(13, min(shown.size) // 24))
    for target in targets:
        corners = [(x * width, y * height) for x, y in target.points]
        if target.shape == "box":
            draw.rectangle((*corners[0], *corners[1]), outline=(0, 150, 60), width=2)
        elif corners:
            draw.polygon(corners, outline=(0, 150, 60), width=2)
    halo: dict[str, Any] = {"stroke_width": 2, "stroke_fill": "white"}
    for candidates in boxes:
        for number, (x1, y1, x2, y2) in enumerate(candidates, 1):
            draw.rectangle((x1 * width, y1 * height, x2 * width - 1, y2 * height - 1), outline=(30, 90, 220), width=1)
            if number > 1:
                draw.text((x1 * width + 3, y1 * height), str(number), fill=(30, 90, 220), font=font, **halo)
    for pointer, candidates in enumerate(points):
        x, y = candidates[0][0] * width, candidates[0][1] * height
        colour = (220, 0, 60)
        if abstains:
            colour = (120, 120, 120)
        arm = max(5, min(shown.size) // 40)
        for thick, fill in ((4, "white"), (2, colour)):
            draw.line((x - arm, y, x + arm, y), fill=fill, width=thick)
            draw.line((x, y - arm, x, y + arm), fill=fill, width=thick)
        words = ""
        if len(points) > 1:
            words = "to"
            if pointer == 0:
                words = "from"
        elif boxes:
            words = "1"
        if not words:
            continue
        # beside the cross, not on what it points at
        left = x + arm + 4 if x + arm + 50 < width else x - arm - 4 - draw.textlength(words, font)
        draw.text((left, y - arm - 10), words, fill=colour, font=font, **halo)
    return shown
