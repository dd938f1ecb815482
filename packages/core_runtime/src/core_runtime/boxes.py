"""Boxes on images: one convention inside (left, top, right, bottom in pixels), COCO files outside.

A box that reaches beyond its image is cut at the edge; one that lies outside, or has no area, is left out. Both are counted by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, counted, few
from core_runtime.fields import read_field

Box = tuple[float, float, float, float]
CUT, LEFT_OUT = "boxes cut at the image's edge", "boxes outside the image or of no area, left out"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class BoxedImage:
    """One image with its boxes.

    Attributes:
        name: the file's name in the data set.
        file: where it is.
        size: width and height in pixels.
        boxes: left, top, right, bottom in pixels.
        labels: number of each box's class.
        crowds: whether a box is around a crowd, which neither counts as found nor as missed.
        part: "train", "val", "test" or "".
    """

    name: str
    file: Path
    size: tuple[int, int]
    boxes: tuple[Box, ...] = ()
    labels: tuple[int, ...] = ()
    crowds: tuple[bool, ...] = ()
    part: str = ""


@dataclass(frozen=True)
class BoxSet:
    """Images with boxes.

    Attributes:
        root: the file or folder.
        kind: "COCO", "ExDark" …
        classes: names.
        images: with their boxes.
        notes: what was done to boxes or is odd → names of images.
        category_ids: the numbers of the classes in the COCO file, in the order of `classes`.
    """

    root: Path
    kind: str
    classes: tuple[str, ...]
    images: tuple[BoxedImage, ...]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    category_ids: tuple[int, ...] = ()

    @property
    def box_count(self) -> int:
        return sum(len(image.boxes) for image in self.images)

    def summary(self) -> str:
        """How many pictures and boxes."""
        return f"{counted(len(self.images), 'picture')}, {counted(self.box_count, 'box', 'boxes')}"

    def counts(self) -> dict[str, int]:
        """Boxes of each class."""
        totals = dict.fromkeys(self.classes, 0)
        for image in self.images:
            for label in image.labels:
                totals[self.classes[label]] += 1
        return totals

    def warnings(self) -> list[str]:
        """The notes in words."""
        return [f"{what}: {len(names)} ({few(list(names))})" for what, names in self.notes.items() if names]


def fit_box(box: Sequence[float], size: tuple[int, int]) -> tuple[Box | None, str]:
    """A box inside an image of that width and height, or None; and what was done to it ("" for nothing)."""
    left, top, right, bottom = map(float, box)
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return None, LEFT_OUT
    width, height = size
    inside = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return None, LEFT_OUT
    if inside != (left, top, right, bottom):
        return inside, CUT
    return inside, ""


def read_coco(path: Path, images: Path | None = None) -> BoxSet:
    """Reads a COCO file of detections.

    Args:
        path: the JSON.
        images: folder of the images; default: beside the JSON, in ``images/`` beside it, or beside its folder.

    Raises:
        UserError: it is not such a file; a field is missing or of another type, and named.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not a JSON file", "a COCO file has images, annotations and categories") from None
    for name in ("images", "annotations", "categories"):
        read_field(described, name, list, where=path, hint="a COCO file has images, annotations and categories")
    categories: dict[int, int] = {}
    classes: list[str] = []
    for entry in described["categories"]:
        number, name = read_field(entry, "id", int, where=path), read_field(entry, "name", str, where=path)
        if number in categories or name in classes:
            raise UserError(f"{path}: the category {name!r} ({number}) is there twice")
        categories[number] = len(classes)
        classes.append(name)
    entries: dict[int, dict[str, Any]] = {}
    for entry in described["images"]:
        entries[read_field(entry, "id", int, where=path)] = entry
        for name in ("width", "height"):
            read_field(entry, name, int, where=f"{path}, image {entry['id']}", low=1)
        read_field(entry, "file_name", str, where=f"{path}, image {entry['id']}")
    drawn: dict[int, list[tuple[Box, int, bool]]] = {number: [] for number in entries}
    notes: dict[str, list[str]] = {}
    for entry in described["annotations"]:
        where = f"{path}, annotation {entry.get('id') if isinstance(entry, dict) else entry}"
        image = read_field(entry, "image_id", int, where=where)
        category = read_field(entry, "category_id", int, where=where)
        box = read_field(entry, "bbox", list, where=where)
        if image not in entries or category not in categories:
            raise UserError(f"{where}: there is no image {image} or no category {category}")
        if len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
            raise UserError(f"{where}: bbox is {box}, expected left, top, width, height")
        left, top, width, height = box
        size = (entries[image]["width"], entries[image]["height"])
        fitted, note = fit_box((left, top, left + width, top + height), size)
        if note:
            notes.setdefault(note, []).append(entries[image]["file_name"])
        if fitted is not None:
            drawn[image].append((fitted, categories[category], bool(entry.get("iscrowd", 0))))
    folder = images or _image_folder(path, [entry["file_name"] for entry in entries.values()])
    boxed = []
    for number, entry in entries.items():
        part = str(entry.get("part", ""))
        if part not in (*PARTS, ""):
            raise UserError(f"{path}, image {number}: part is {part!r}", f"parts are {', '.join(PARTS)}")
        boxes = tuple(box for box, _, _ in drawn[number])
        labels = tuple(label for _, label, _ in drawn[number])
        crowds = tuple(crowd for _, _, crowd in drawn[number])
        size = (entry["width"], entry["height"])
        boxed.append(BoxedImage(entry["file_name"], folder / entry["file_name"], size, boxes, labels, crowds, part))
    if not boxed:
        raise UserError(f"{path} names no images")
    return BoxSet(path, "COCO", tuple(classes), tuple(boxed), notes, tuple(categories))


def _image_folder(path: Path, names: Sequence[str]) -> Path:
    for folder in (path.parent, path.parent / "images", path.parent.parent, path.parent.parent / "images"):
        if names and (folder / names[0]).is_file():
            return folder
    return path.parent


def coco_of(images: BoxSet) -> dict[str, Any]:
    """The same as a COCO file's content. Parts are kept as a field ``part`` of each image, which other tools ignore."""
    numbers = images.category_ids or tuple(range(1, len(images.classes) + 1))
    entries, annotations = [], []
    for number, image in enumerate(images.images, 1):
        entry = {"id": number, "file_name": image.name, "width": image.size[0], "height": image.size[1]}
        if image.part:
            entry["part"] = image.part
        entries.append(entry)
        crowds = image.crowds or (False,) * len(image.boxes)
        for box, label, crowd in zip(image.boxes, image.labels, crowds, strict=True):
            left, top, right, bottom = box
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[label],
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in zip(numbers, images.classes, strict=True)]
    return {"images": entries, "annotations": annotations, "categories": categories}


__all__ = ["CUT", "LEFT_OUT", "BoxSet", "BoxedImage", "coco_of", "fit_box", "read_coco"]
