"""Coloured shapes in scenes, with referring sentences, questions, instructions and masks, in the field's file formats."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

from core_runtime.errors import UserError

COLOURS = {"red": (220, 50, 47), "green": (60, 170, 80), "blue": (50, 90, 220), "yellow": (235, 200, 40)}
SHAPES = ("circle", "square", "triangle", "cross")
SIDE = 96  # pixels of a scene


@dataclass(frozen=True)
class Samples:
    """Where the samples are."""

    folder: Path
    grounding: Path
    questions: Path
    instructions: Path
    scenes: int
    sentences: int


def make_samples(out: Path, *, scenes: int = 60, seed: int = 0, overwrite: bool = False) -> Samples:
    """Writes scenes of two or three different shapes, and single shapes.

    ``grounding.jsonl`` (image, sentence, mask, box), ``questions.jsonl`` (POPE's lines), ``instructions.csv`` (path, instruction, answer).

    Raises:
        UserError: the folder holds samples and `overwrite` is off.
    """
    from PIL import Image

    if (out / "grounding.jsonl").exists() and not overwrite:
        raise UserError(f"{out} already holds samples", "--overwrite replaces them, another folder keeps both")
    draw = random.Random(seed)
    for name in ("images", "masks", "singles"):
        (out / name).mkdir(parents=True, exist_ok=True)
    grounding, questions = [], []
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for number in range(scenes):
        image = _background(draw)
        objects = draw.sample(pairs, draw.choice((2, 3)))
        name = f"scene_{number:03}.png"
        masks = []
        for (colour, shape), (x, y) in zip(objects, _places(draw, len(objects)), strict=True):
            mask = _shape_mask(shape, x, y, draw.uniform(9, 13))
            image.paste(_tinted(draw, COLOURS[colour]), mask=mask)
            masks.append(mask)
        image.save(out / "images" / name)
        for place, ((colour, shape), mask) in enumerate(zip(objects, masks, strict=True)):
            file = f"scene_{number:03}_{place}.png"
            mask.point(lambda value: 255 if value > 127 else 0).save(out / "masks" / file)
            grounding.append(
                {
                    "id": f"{number:03}_{place}",
                    "image": f"images/{name}",
                    "sentence": f"the {colour} {shape}",
                    "mask": f"masks/{file}",
                    "box": list(mask.getbbox()),
                    "box_convention": "pixels",
                }
            )
        present = {shape for _, shape in objects}
        for shape in SHAPES:
            label = "yes" if shape in present else "no"
            text = f"Is there a {shape} in the image?"
            questions.append({"question_id": len(questions) + 1, "image": name, "text": text, "label": label})
    rows = []
    for number in range(4 * scenes):
        colour, shape = draw.choice(pairs)
        image = _background(draw)
        mask = _shape_mask(shape, draw.uniform(36, 60), draw.uniform(36, 60), draw.uniform(20, 30))
        image.paste(_tinted(draw, COLOURS[colour]), mask=mask)
        file = f"singles/single_{number:04}.png"
        image.save(out / file)
        rows += [(file, "which colour is it?", colour), (file, "which shape is it?", shape)]
    _write_lines(out / "grounding.jsonl", grounding)
    _write_lines(out / "questions.jsonl", questions)
    with (out / "instructions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "instruction", "answer"))
        writer.writerows(rows)
    assert Image
    return Samples(
        out, out / "grounding.jsonl", out / "questions.jsonl", out / "instructions.csv", scenes, len(grounding)
    )


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _background(draw: random.Random):
    from PIL import Image

    grey = draw.randint(150, 235)
    return Image.new("RGB", (SIDE, SIDE), (grey, grey + draw.randint(-8, 8), grey + draw.randint(-8, 8)))


def _tinted(draw: random.Random, colour: tuple[int, int, int]):
    return tuple(max(0, min(255, value + draw.randint(-18, 18))) for value in colour)


def _places(draw: random.Random, count: int) -> list[tuple[float, float]]:
    """Centres that keep their shapes apart."""
    places: list[tuple[float, float]] = []
    while len(places) < count:
        x, y = draw.uniform(16, SIDE - 16), draw.uniform(16, SIDE - 16)
        if all((x - a) ** 2 + (y - b) ** 2 > 32**2 for a, b in places):
            places.append((x, y))
        elif draw.random() < 0.02:  # no room is left: begin again
            places = []
    return places


def _shape_mask(shape: str, x: float, y: float, radius: float):
    """An antialiased mask, drawn at four times the size."""
    from PIL import Image, ImageDraw

    big = Image.new("L", (4 * SIDE, 4 * SIDE))
    pen = ImageDraw.Draw(big)
    x, y, radius = 4 * x, 4 * y, 4 * radius
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif shape == "square":
        half = 0.85 * radius
        pen.rectangle((x - half, y - half, x + half, y + half), fill=255)
    elif shape == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + 0.8 * radius), (x + radius, y + 0.8 * radius)], fill=255)
    else:
        arm = 0.32 * radius
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=255)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=255)
    return big.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
