"""(picture, instruction, answer): CSV, or the conversations of LLaVA's instruction data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError

LONGEST = 60  # words of an answer; of longer ones the first sentence


@dataclass(frozen=True)
class Triplet:
    """One thing to learn."""

    image: Path
    instruction: str
    answer: str


@dataclass(frozen=True)
class Triplets:
    """What a file holds; entries without a picture, and pictures that are not there, are counted."""

    triplets: tuple[Triplet, ...]
    without_picture: int = 0
    missing: int = 0

    def account(self) -> str:
        """What was read, in a sentence."""
        line = f"{len(self.triplets)} (picture, instruction, answer)"
        if self.without_picture:
            line += f"; {self.without_picture} entries have no picture"
        if self.missing:
            line += f"; {self.missing} pictures are not there"
        return line


def read_triplets(path: Path, *, images: Path | None = None) -> Triplets:
    """Triplets of a CSV (path, instruction, answer or label) or of LLaVA's JSON.

    Raises:
        UserError: unreadable, of another shape, or no picture is there.
    """
    folder = images if images is not None else path.parent
    if path.suffix.lower() == ".json":
        rows, without = _conversations(path)
    else:
        rows, without = _table(path), 0
    there, missing = [], 0
    for name, instruction, answer in rows:
        if (folder / name).is_file():
            there.append(Triplet(folder / name, instruction, answer))
        else:
            missing += 1
    if not there:
        raise UserError(f"{path}: none of its {missing} pictures is in {folder}", "--images names their folder")
    return Triplets(tuple(there), without, missing)


def _table(path: Path) -> list[tuple[str, str, str]]:
    from core_runtime.tables import read_table

    table = read_table(path)
    image, instruction = table.column("path", "image"), table.column("instruction", "condition")
    answer = table.column("answer", "label", "output")
    rows = []
    for row in table:
        values = row.get(image), row.get(instruction), row.get(answer)
        if not values[0] or not values[2]:
            raise UserError(f"{path}: a row has no path or no answer: {values}")
        rows.append((values[0], values[1] or "", first_sentence(values[2])))
    return rows


def _conversations(path: Path) -> tuple[list[tuple[str, str, str]], int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", "expected LLaVA's instruction data") from None
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of conversations", "expected LLaVA's instruction data")
    rows, without = [], 0
    for number, entry in enumerate(content):
        if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
            raise UserError(f"{path}, entry {number} has no conversations")
        if not entry.get("image"):
            without += 1
            continue
        rows += [(entry["image"], *pair) for pair in turns_of(entry["conversations"])]
    return rows, without


def turns_of(conversation: list[Any]) -> list[tuple[str, str]]:
    """(instruction, answer) of each human turn that a model's turn follows; the picture's mark is taken out."""
    pairs = []
    for human, model in pairwise(conversation):
        if human.get("from") == "human" and model.get("from") == "gpt":
            instruction = str(human.get("value", "")).replace("<image>", "").strip()
            pairs.append((instruction, first_sentence(str(model.get("value", "")))))
    return pairs


def first_sentence(answer: str) -> str:
    """The answer; of one beyond the text encoder's length its first sentence."""
    words = answer.split()
    if len(words) <= LONGEST:
        return answer.strip()
    head = answer.split(". ", 1)[0]
    return " ".join(head.split()[:LONGEST])
