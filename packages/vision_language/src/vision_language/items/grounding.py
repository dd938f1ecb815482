"""Sentences about pictures with what they mean: boxes or masks, in our JSON lines and in the published layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.errors import UserError
from vision_language.items.item import Boxes, Item
from vision_language.items.lines import read_entries, refuse_repeats, text_of
from vision_language.results import Box

WHAT = "lines with image, sentence, and box, mask, polygons or rle"


@dataclass(frozen=True)
class Items:
    """What a file holds.

    Attributes:
        path: the file.
        layout: which published layout it has.
        items: those whose picture is there.
        missing: names of pictures that are not there; their items are counted and never judged.
        notes: what the user should know.
    """

    path: Path
    layout: str
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    left_out: int = 0
    notes: tuple[str, ...] = field(default=())

    def account(self) -> str:
        """What was read, in a sentence."""
        line = f"{len(self.items)} sentences about {len({item.image for item in self.items})} pictures ({self.layout})"
        if self.missing:
            line += f"; {self.left_out} left out: {len(self.missing)} pictures are not there"
        return line


def read_items(path: Path, *, images: Path | None = None, boxes: Boxes | None = None) -> Items:
    """Grounding items: our JSON lines, ScreenSpot's lists, VizWiz grounding, or RefCOCO's ``refs(…).p`` beside ``instances.json``.

    Args:
        path: the file, or a folder with ``grounding.jsonl`` or one such file.
        images: folder of the pictures; default: the file's own, or ``images`` beside it.
        boxes: how boxes are counted, where the file does not say so itself.

    Raises:
        UserError: unreadable, broken, ids that repeat, no or several conventions, no picture at all.
    """
    if path.is_dir():
        path = _file_in(path)
    if path.suffix in (".p", ".pkl"):
        from vision_language.items.refcoco import read_refcoco

        layout, items = "RefCOCO", read_refcoco(path, images)
    else:
        entries = read_entries(path, what=WHAT)
        layout, items = _items_of(path, entries, images, boxes)
    refuse_repeats(path, [item.name for item in items])
    there, missing, left_out = [], [], 0
    for item in items:
        if item.image.is_file():
            there.append(item)
        else:
            left_out += 1
            missing.append(item.image.name)
    missing = list(dict.fromkeys(missing))
    if not there:
        raise UserError(
            f"{path}: none of its {len(missing)} pictures is there ({missing[0]} …)", "--images names their folder"
        )
    return Items(path, layout, tuple(there), tuple(missing), left_out)


def _file_in(folder: Path) -> Path:
    candidates = [folder / "grounding.jsonl", folder / "annotations.json", *sorted(folder.glob("refs(*).p"))]
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(f"{folder} holds no grounding items", "give the file: JSON lines, ScreenSpot's JSON, refs(…).p …")


def _items_of(
    path: Path, entries: list[tuple[str, dict[str, Any]]], images: Path | None, boxes: Boxes | None
) -> tuple[str, list[Item]]:
    first = entries[0][1]
    if "answer_grounding" in first or "most_common_answer" in first:
        return "VizWiz grounding", [_vizwiz(where, entry, path, images) for where, entry in entries]
    if "img_filename" in first:
        layout = "ScreenSpot"
        names = ("img_filename", "instruction", "bbox")
    else:
        layout = "JSON lines"
        names = ("image", "sentence", "box")
    items = [_plain_item(where, entry, path, images, boxes, names) for where, entry in entries]
    conventions = {item.convention for item in items if item.box is not None}
    if len(conventions) > 1:
        raise UserError(
            f"{path} counts its boxes in several ways: {', '.join(sorted(str(c) for c in conventions))}",
            "one file has one convention: split it",
        )
    if conventions == {None}:
        raise UserError(
            f"{path} does not say how its boxes are counted",
            "--boxes pixels, pixels-xywh, normalised or thousandths",
        )
    return layout, items


def _plain_item(
    where: str,
    entry: Mapping[str, Any],
    path: Path,
    images: Path | None,
    boxes: Boxes | None,
    names: tuple[str, str, str],
) -> Item:
    image_name, sentence_name, box_name = names
    name = str(entry.get("id", where))
    image = _image(text_of(where, entry, image_name), path, images)
    sentence = text_of(where, entry, sentence_name, "question")
    if "question" in entry and entry.get("answer"):
        sentence = f"{text_of(where, entry, 'question')} {entry['answer']}"
    told = entry.get("box_convention")
    if told is not None and boxes is not None and told != boxes:
        raise UserError(f"{where} says that its box is {told}, --boxes says {boxes}", "leave --boxes out")
    convention = told or boxes
    if convention not in (None, "pixels", "pixels-xywh", "normalised", "thousandths"):
        raise UserError(f"{where}: box_convention {convention!r} is not known")
    box = entry.get(box_name)
    if box is not None:
        box = _box(where, box)
    mask: Any = entry.get("polygons", entry.get("rle"))
    if isinstance(entry.get("mask"), str):
        mask = path.parent / entry["mask"]
    if box is None and mask is None:
        raise UserError(f"{where} has no {box_name}, mask, polygons or rle")
    return Item(name, image, sentence, box, convention, mask, str(entry.get("group_id", image)))


def _vizwiz(where: str, entry: Mapping[str, Any], path: Path, images: Path | None) -> Item:
    name = str(entry.get("key", entry.get("image", where)))
    image = _image(name, path, images)
    sentence = f"{text_of(where, entry, 'question')} {entry.get('most_common_answer', '')}".strip()
    if "answer_grounding" not in entry:
        # VizWiz' own unanswered items say [], an empty mask; without the field the truth is not known.
        raise UserError(f"{where} has no answer_grounding", "the test split is published without it: give train or val")
    try:
        polygon = [[float(point["x"]), float(point["y"])] for point in entry["answer_grounding"]]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: answer_grounding is no list of points {{x, y}}") from None
    return Item(name, image, sentence, mask=[polygon] if polygon else [], group=name)


def _image(name: str, path: Path, images: Path | None) -> Path:
    folders = [images] if images is not None else [path.parent, path.parent / "images"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return folders[-1] / name


def _box(where: str, value: Any) -> Box:
    try:
        a, b, c, d = (float(number) for number in value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: the box {value!r:.40} is not four numbers") from None
    if not all(np.isfinite((a, b, c, d))):
        raise UserError(f"{where}: the box {value!r:.40} is not finite")
    return a, b, c, d
