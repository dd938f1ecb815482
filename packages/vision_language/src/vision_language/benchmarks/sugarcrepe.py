"""SugarCrepe: captions against hard wrong ones (Hsieh et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core_runtime.errors import UserError
from vision_language.items.lines import read_entries, text_of

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@dataclass(frozen=True)
class Pair:
    """A picture with its caption and a wrong one."""

    name: str
    kind: str
    image: str
    caption: str
    negative: str


def read_sugarcrepe(path: Path) -> list[Pair]:
    """One of the seven files, or a folder with them.

    Raises:
        UserError: unreadable, an entry without its three texts, or an empty folder.
    """
    files = [path]
    if path.is_dir():
        files = [path / f"{kind}.json" for kind in KINDS if (path / f"{kind}.json").is_file()]
        if not files:
            raise UserError(f"{path} holds none of SugarCrepe's files", f"expected {', '.join(KINDS)}.json")
    pairs = []
    for file in files:
        for where, entry in read_entries(file, what="SugarCrepe's {id: {filename, caption, negative_caption}}"):
            texts = [text_of(where, entry, name) for name in ("filename", "caption", "negative_caption")]
            pairs.append(Pair(f"{file.stem}/{entry['key']}", file.stem, *texts))
    return pairs


def shorter_wins(pair: Pair) -> float:
    """A blind baseline: the shorter caption is taken for the true one; a tie is half a hit."""
    if len(pair.caption) == len(pair.negative):
        return 0.5
    return float(len(pair.caption) < len(pair.negative))


def commoner_wins(pair: Pair, counts: dict[str, int]) -> float:
    """A blind baseline: the caption whose words are commoner among all captions, on average; a tie is half a hit."""
    true, wrong = (_commonness(text, counts) for text in (pair.caption, pair.negative))
    return 0.5 if true == wrong else float(true > wrong)


def _commonness(text: str, counts: dict[str, int]) -> float:
    words = text.lower().split()
    return sum(counts.get(word, 0) for word in words) / max(1, len(words))
