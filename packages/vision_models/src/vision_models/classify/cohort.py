"""Which images train, validate and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from core_runtime.errors import UserError, counted, few
from core_runtime.image_sets import PARTS, UNKNOWN, ImageSet
from core_runtime.options import AtLeast, options


@options
class SplitOptions:
    """Which images train, validate and test.

    Attributes:
        split: given (the parts that the files state; without a validation part, a sixth of each class's training images validates),
            random (70, 15 and 15 % of each class); auto takes given where the files state parts.
        per_class: at most so many training images of each class; default: all.
        split_seed: of what is drawn: trainings with other seeds share one split.
    """

    split: Literal["auto", "given", "random"] = "auto"
    per_class: Annotated[int, AtLeast(1)] | None = None
    split_seed: Annotated[int, AtLeast(0)] = 0


@dataclass(frozen=True)
class Split:
    """Numbers of images; no number is in two parts, though a stated split may hold copies (`membership.copies_between_parts`)."""

    name: str
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]

    def part(self, name: str) -> tuple[int, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def split_images(images: ImageSet, how: SplitOptions = SplitOptions()) -> Split:
    """The parts of a set of images.

    Raises:
        UserError: images without labels, parts that are not stated, or classes too small to be split.
    """
    unlabelled = [name for name, label in zip(images.names, images.labels, strict=True) if label == UNKNOWN]
    if unlabelled:
        raise UserError(
            f"{images.root}: {counted(len(unlabelled), 'image')} without a label: {few(unlabelled)}",
            "class folders, or a column label",
        )
    if len(images.classes) < 2:
        raise UserError(f"{images.root} has one class alone: {', '.join(images.classes)}", "at least two are needed")
    stated = "train" in images.parts
    name = how.split
    if name == "auto":
        name = "given" if stated else "random"
    if name == "given":
        split = _given(images, how.split_seed)
    else:
        split = _random(images, how.split_seed)
    if how.per_class is not None:
        few_images = _few_of_each(images, split.train, how.per_class, how.split_seed)
        split = Split(split.name, few_images, split.val, split.test)
    return split


def _given(images: ImageSet, seed: int) -> Split:
    members = {}
    for part in PARTS:
        members[part] = [number for number, given in enumerate(images.parts) if given == part]
    if not members["train"]:
        raise UserError(f"{images.root} states no training part", "--split random makes a split")
    if not members["val"]:
        members["train"], members["val"] = _cut(images, members["train"], 1 / 6, seed)
    if not members["test"]:
        members["test"] = members["val"]
        members["train"], members["val"] = _cut(images, members["train"], 1 / 6, seed)
    return Split("given", tuple(members["train"]), tuple(members["val"]), tuple(members["test"]))


def _random(images: ImageSet, seed: int) -> Split:
    rest, test = _cut(images, range(len(images)), 0.15, seed)
    train, val = _cut(images, rest, 0.15 / 0.85, seed + 1)
    return Split("random", tuple(train), tuple(val), tuple(test))


def _cut(images: ImageSet, numbers: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Takes a share of each class away, at least one image.

    Identical images stay on one side, so that none is both learned and judged.
    """
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    taken: list[int] = []
    for label in range(len(images.classes)):
        groups: dict[str, list[int]] = {}
        for number in numbers:
            if images.labels[number] == label:
                groups.setdefault(images.digests[number], []).append(number)
        total = sum(map(len, groups.values()))
        if len(groups) < 2:
            count = images.labels.count(label)
            different = len({images.digests[number] for number in range(len(images)) if images.labels[number] == label})
            raise UserError(
                f"{images.root}: the class {images.classes[label]!r} has too few images to be split: {count}"
                + (f" ({different} without copies)" if different < count else ""),
                "three different ones at least are needed: add images, or state the parts",
            )
        wanted = max(1, round(share * total))
        order = list(groups)
        rng.shuffle(order)
        away = 0
        for place, digest in enumerate(order):
            if away < wanted and place < len(order) - 1:
                taken += groups[digest]
                away += len(groups[digest])
            else:
                kept += groups[digest]
    return sorted(kept), sorted(taken)


def _few_of_each(images: ImageSet, numbers: Sequence[int], most: int, seed: int) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in range(len(images.classes)):
        members = [number for number in numbers if images.labels[number] == label]
        chosen += rng.permutation(members)[:most].tolist()
    return tuple(sorted(int(number) for number in chosen))
