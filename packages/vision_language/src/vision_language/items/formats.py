"""Files that this domain reads, recognised by their first bytes; imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.pictures import ENDINGS

ITEMS = (".jsonl", ".json", ".p", ".pkl")


def claim(path: Path) -> Claim | None:
    """Grounding items and question files surely; a folder or picture perhaps, since other domains read pictures too."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in ITEMS and kind_of(file):
                return Claim("grounding items", 0.8, f"{file.name} holds {kind_of(file)}")
        return None
    if path.suffix.lower() in ENDINGS:
        return Claim("picture", 0.2, "a picture; a sentence about it can be grounded")
    kind = kind_of(path)
    return None if kind is None else Claim(kind, 0.9, f"its entries are those of {kind}")


def kind_of(path: Path) -> str | None:
    """What a JSON or JSON lines file holds, by its first entry; None for others."""
    if path.suffix.lower() not in (".json", ".jsonl") or not path.is_file():
        return None
    entry = first_entry(path)
    if not isinstance(entry, dict):
        return None
    names = set(entry)
    if {"image", "sentence"} <= names or {"image", "question", "mask"} <= names:
        return "grounding items"
    if {"question_id", "image", "text"} <= names:
        return "POPE questions"
    if {"filename", "caption", "negative_caption"} <= names:
        return "SugarCrepe pairs"
    return None


def first_entry(path: Path) -> object:
    """The first entry of JSON lines, of a list, or of a dictionary of entries; None where there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(1 << 16)
    except (OSError, UnicodeDecodeError):
        return None
    line = head.lstrip().split("\n", 1)[0]
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if isinstance(content, list):
        return content[0] if content else None
    if isinstance(content, dict) and content:
        first = next(iter(content.values()))
        return first if isinstance(first, dict) else content
    return None
