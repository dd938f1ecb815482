"""Made dark scenes with boxes, in ExDark's native layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.folders import writing
from core_runtime.identity import begun, refuse_foreign_folder
from core_runtime.options import AtLeast, Between, options

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("Bottle", "Car", "Cup")  # of ExDark's classes; what is drawn
_NUMBERS = {"Bottle": 3, "Car": 5, "Cup": 8}  # in ExDark's list


@options
class SampleOptions:
    """How many scenes are drawn.

    Attributes:
        scenes: pictures; 6 of 10 train, 2 validate, 2 test.
        width: of a picture in pixels; its height is three quarters of it.
    """

    scenes: Annotated[int, AtLeast(10)] = 60
    width: Annotated[int, Between(64, 1024)] = 128


def make_samples(
    folder: Path, how: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> dict[str, Path]:
    """Draws scenes and writes ``ExDark/``, ``ExDark_Annno/``, ``imageclasslist.txt``, and the same as ``exdark.json`` (COCO).

    Raises:
        UserError: the folder is there, and is not to be replaced or not ours.
    """
    import json

    import numpy as np
    from PIL import Image

    from core_runtime.boxes import coco_of
    from vision_models.detect.scenes.formats import TOOL_HEADER
    from vision_models.detect.scenes.opening import open_boxes

    refuse_foreign_folder(folder, [], overwrite=overwrite)
    rng = np.random.default_rng(seed)
    with begun(folder, {"samples": how, "seed": seed}), writing(folder) as part:
        lines = ["Name | Class | Light | In/Out | Train/Val/Test"]
        for number in range(how.scenes):
            image, boxes = draw_scene(how.width, how.width * 3 // 4, rng)
            name, label = f"2015_{number + 1:05}.png", boxes[0][0]
            for place in (part / "ExDark" / label, part / "ExDark_Annno" / label):
                place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(part / "ExDark" / label / name)
            rows = [TOOL_HEADER]
            for kind, (left, top, right, bottom) in boxes:
                # the tool counts pixels from 1
                rows.append(f"{kind} {left + 1} {top + 1} {right - left} {bottom - top} 0 0 0 0 0 0 0")
            (part / "ExDark_Annno" / label / f"{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
            split = (1, 1, 1, 2, 1, 3, 1, 1, 2, 3)[number % 10]
            lines.append(f"{name} {_NUMBERS[label]} 1 2 {split}")
        (part / "imageclasslist.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        described = json.dumps(coco_of(open_boxes(part)), indent=1)
        (part / "ExDark" / "exdark.json").write_text(described, encoding="utf-8")
    return {"exdark": folder, "coco": folder / "ExDark" / "exdark.json"}


def draw_scene(width: int, height: int, rng: Any) -> tuple[NDArray[Any], list[tuple[str, tuple[int, int, int, int]]]]:
    """A dark picture (height, width, 3) with one to three things in it, and their boxes.

    The scene is drawn as by day, then lit by one lamp, darkened to a tenth or less, and given a sensor's noise.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    ground = tuple(int(value) for value in rng.uniform(60, 120, 3))
    image = Image.new("RGB", (width, height), ground)
    pen = ImageDraw.Draw(image)
    horizon = int(height * rng.uniform(0.3, 0.6))
    floor = tuple(int(value * rng.uniform(0.6, 0.9)) for value in ground)
    pen.rectangle((0, horizon, width, height), fill=floor)
    boxes: list[tuple[str, tuple[int, int, int, int]]] = []
    for _ in range(int(rng.integers(1, 4))):
        kind = NAMES[int(rng.integers(len(NAMES)))]
        box = _free_place(kind, width, height, [box for _, box in boxes], rng)
        if box is not None:
            colour = tuple(int(value) for value in rng.uniform(130, 255, 3))
            _draw(pen, kind, box, colour)
            boxes.append((kind, box))
    y, x = np.mgrid[:height, :width]
    lamp = np.hypot(x - rng.uniform(0, width), (y - rng.uniform(0, height * 0.5))) / width
    light = rng.uniform(0.05, 0.11) + rng.uniform(0.05, 0.16) * np.exp(-4 * lamp**2)
    values = np.asarray(image, np.float64) * light[..., None]
    values = rng.poisson(values * 2) / 2 + rng.normal(0, 1.2, values.shape)  # few photons, and the sensor's own noise
    return np.clip(values, 0, 255).astype(np.uint8), boxes


_ASPECTS = {"Bottle": 0.36, "Car": 2.0, "Cup": 1.15}  # width over height


def _free_place(kind: str, width: int, height: int, taken: list[tuple[int, int, int, int]], rng: Any) -> Any:
    """A box for a thing that meets no other; None if none was found in twenty tries (the first always finds one)."""
    for _ in range(20):
        tall = rng.uniform(0.28, 0.5) * height * (0.7 if kind == "Car" else 1.0)
        wide = tall * _ASPECTS[kind]
        left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
        box = (int(left), int(top), int(left + wide), int(top + tall))
        if all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in taken):
            return box
    return None


def _draw(pen: Any, kind: str, box: tuple[int, int, int, int], colour: tuple[int, ...]) -> None:
    """A simple outline that fills its box."""
    left, top, right, bottom = box
    right, bottom = right - 1, bottom - 1  # Pillow draws the last pixel, too
    wide, tall = right - left, bottom - top
    dark = tuple(value // 3 for value in colour)
    if kind == "Bottle":
        middle = (left + right) / 2
        pen.rectangle((middle - wide * 0.2, top, middle + wide * 0.2, top + tall * 0.4), fill=colour)
        pen.rounded_rectangle((left, top + tall * 0.32, right, bottom), radius=wide * 0.25, fill=colour)
        pen.rectangle((left, top + tall * 0.55, right, top + tall * 0.75), fill=dark)
    elif kind == "Car":
        pen.polygon(
            [
                (left + wide * 0.2, top + tall * 0.45),
                (left + wide * 0.32, top),
                (left + wide * 0.7, top),
                (left + wide * 0.85, top + tall * 0.45),
            ],
            fill=colour,
        )
        pen.rounded_rectangle((left, top + tall * 0.4, right, top + tall * 0.82), radius=tall * 0.12, fill=colour)
        for middle in (left + wide * 0.24, left + wide * 0.76):
            pen.ellipse((middle - tall * 0.2, bottom - tall * 0.4, middle + tall * 0.2, bottom), fill=dark)
    else:
        pen.arc(
            (left + wide * 0.45, top + tall * 0.2, right, top + tall * 0.75),
            0,
            360,
            fill=colour,
            width=max(2, wide // 9),
        )
        pen.polygon(
            [(left, top), (left + wide * 0.72, top), (left + wide * 0.6, bottom), (left + wide * 0.12, bottom)],
            fill=colour,
        )
        pen.line((left, top, left + wide * 0.72, top), fill=dark, width=2)
