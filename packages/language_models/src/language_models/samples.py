"""Small texts by rule, in the formats that language models are trained on: plain text, JSON lines, token ids."""

from __future__ import annotations

import json
import random
from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing

PEOPLE = ("Anna", "Bela", "Carlo", "Dora", "Emil", "Frida", "Goran", "Hana")
PLACES = ("the harbour", "the old mill", "the library", "the market", "the station", "the garden")
THINGS = ("a brass key", "a blue lamp", "a torn map", "a small clock", "a red kite", "a wooden box")
DEEDS = ("found", "lost", "carried", "painted", "hid", "mended")
TIMES = ("In the morning", "At noon", "In the evening", "After the rain", "Before the feast", "On Monday")


def make_story(draw: random.Random, sentences: int) -> str:
    """Sentences that a small model can learn: whoever does something is asked for it later."""
    lines = []
    for _ in range(sentences):
        person, thing, place = draw.choice(PEOPLE), draw.choice(THINGS), draw.choice(PLACES)
        lines.append(f"{draw.choice(TIMES)} {person} {draw.choice(DEEDS)} {thing} near {place}.")
        if draw.random() < 0.4:
            lines.append(f"Who was near {place}? {person} was.")
    return " ".join(lines) + "\n"


def make_samples(out: Path, *, seed: int = 0, overwrite: bool = False) -> list[Path]:
    """Writes story.txt, stories.jsonl (a document a line) and tokens.bin (bytes as uint16, 256 between documents), of the same size for a seed.

    Raises:
        UserError: `out` holds samples already and `overwrite` is off.
    """
    import numpy as np

    if (out / "story.txt").exists() and not overwrite:
        raise UserError(f"{out} already holds samples", "--overwrite replaces them")
    draw = random.Random(seed)
    story = "".join(make_story(draw, 12) for _ in range(160))
    documents = [make_story(draw, 8) for _ in range(80)]
    write_text(out / "story.txt", story)
    write_text(out / "stories.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in documents))
    ids: list[int] = []
    for text in documents:
        ids += [*text.encode(), 256]
    with writing(out / "tokens.bin") as part:
        np.asarray(ids, np.uint16).tofile(part)
    return [out / "story.txt", out / "stories.jsonl", out / "tokens.bin"]
