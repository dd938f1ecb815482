"""CHAIR, MMVP-VLM and GeneCIS: their readers and rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from vision_language.items.lines import read_entries, text_of


def mentioned(caption: str, synonyms: Mapping[str, str]) -> list[str]:
    """The objects that a caption mentions, each time it does; longer names first ("hot dog" is no dog).

    Args:
        caption: of a picture.
        synonyms: word or words → object; plurals in s and es are known.
    """
    rest = " " + " ".join(re.findall(r"[a-z]+", caption.lower())) + " "
    objects = []
    for name in sorted(synonyms, key=len, reverse=True):
        pattern = re.compile(rf" {re.escape(name)}(?:s|es)? ")
        while pattern.search(rest):
            objects.append(synonyms[name])
            rest = pattern.sub(" ; ", rest, count=1)
    return objects


def chair(
    captions: Mapping[str, str], objects: Mapping[str, set[str]], synonyms: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per caption: how many of its mentions are of objects that the picture does not have (Rohrbach et al. 2018).

    CHAIR_s is the share of captions with one, CHAIR_i that of mentions.
    """
    rows = []
    for image, caption in captions.items():
        mentions = mentioned(caption, synonyms)
        wrong = [name for name in mentions if name not in objects[image]]
        rows.append(
            {"id": image, "image": image, "mentions": len(mentions), "hallucinated": len(wrong), "wrong": wrong}
        )
    return rows


@dataclass(frozen=True)
class MMVPPair:
    """Two pictures and their two statements."""

    kind: str
    names: tuple[str, str]
    statements: tuple[str, str]


def read_mmvp(path: Path) -> list[MMVPPair]:
    """``Questions.csv`` of MMVP-VLM: neighbours in a row are pairs.

    Raises:
        UserError: unreadable, an odd number of rows, or a pair of two kinds.
    """
    from core_runtime.tables import read_table

    table = read_table(path)
    number, kind, statement = table.column("Question ID"), table.column("Type"), table.column("Statement")
    rows = [(str(row.get(number)), str(row.get(kind)), str(row.get(statement))) for row in table]
    if len(rows) % 2:
        raise UserError(f"{path} has {len(rows)} rows, expected pairs")
    pairs = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        if first[1] != second[1]:
            raise UserError(
                f"{path}: the questions {first[0]} and {second[0]} are a pair of two kinds: {first[1]}, {second[1]}"
            )
        pairs.append(MMVPPair(first[1], (first[0], second[0]), (first[2], second[2])))
    return pairs


def mmvp_hit(similarities: Sequence[Sequence[float]]) -> bool:
    """Whether both pictures are nearer to their own statement; rows are pictures, columns statements."""
    (a, b), (c, d) = similarities
    return a > b and d > c


@dataclass(frozen=True)
class GeneCISQuery:
    """A reference picture, a condition, and a gallery in which the target stands."""

    reference: str
    condition: str
    target: str
    gallery: tuple[str, ...]


def read_genecis(path: Path) -> list[GeneCISQuery]:
    """One of the four task files.

    Raises:
        UserError: unreadable, or a query without its parts.
    """
    queries = []
    for where, entry in read_entries(path, what="GeneCIS' queries: reference, target, gallery, condition"):
        target, gallery = entry.get("target"), entry.get("gallery")
        if target is None or not isinstance(gallery, list) or not gallery:
            raise UserError(f"{where} has no target or no gallery")
        queries.append(
            GeneCISQuery(
                _picture(entry.get("reference")),
                text_of(where, entry, "condition"),
                _picture(target),
                tuple(_picture(each) for each in gallery),
            )
        )
    return queries


def _picture(value: Any) -> str:
    """GeneCIS names pictures by id, or by a dictionary that holds it."""
    if isinstance(value, Mapping):
        for name in ("val_image_id", "image_id", "image", "id"):
            if name in value:
                return str(value[name])
    return str(value)


def rank_of(target: float, gallery: Sequence[float]) -> int:
    """The target's rank among the gallery by similarity, from 0; equal ones stand before it."""
    return sum(other >= target for other in gallery)
