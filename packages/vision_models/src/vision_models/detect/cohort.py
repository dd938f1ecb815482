"""Which pictures train, validate and test, and what recognises them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from core_runtime.boxes import BoxedImage, BoxSet
from core_runtime.errors import UserError, counted, few
from core_runtime.options import AtLeast, options
from vision_models.detect.scenes.sizes import check_size, upright_size
from vision_models.membership import DIGEST


@options
class SplitOptions:
    """Which pictures train, validate and test.

    Attributes:
        split: given (the parts that the files state), random (70, 15 and 15 %); auto takes given where the files state parts.
        most: at most so many training pictures; default: all.
        split_seed: of what is drawn: trainings with other seeds share one split.
    """

    split: Literal["auto", "given", "random"] = "auto"
    most: Annotated[int, AtLeast(1)] | None = None
    split_seed: Annotated[int, AtLeast(0)] = 0


@dataclass(frozen=True)
class Split:
    """Pictures by part; none is in two."""

    name: str
    train: tuple[BoxedImage, ...]
    val: tuple[BoxedImage, ...]
    test: tuple[BoxedImage, ...]

    def part(self, name: str) -> tuple[BoxedImage, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[name]


class PicturesByContent:
    """The pictures of a set as `vision_models.membership` knows them."""

    def __init__(self, scenes: BoxSet) -> None:
        self.scenes = scenes

    @property
    def root(self) -> Path:
        return self.scenes.root

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(image.name for image in self.scenes.images)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(image.part for image in self.scenes.images)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """A digest of each file's content: the same picture is recognised under any name; "" of one that is not there."""
        digests = []
        for image in self.scenes.images:
            digest = ""
            if image.file.is_file():
                digest = hashlib.sha256(image.file.read_bytes()).hexdigest()[:DIGEST]
            digests.append(digest)
        return tuple(digests)


@dataclass(frozen=True)
class Numbers:
    """A split by the numbers of its pictures."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]

    def part(self, name: str) -> tuple[int, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def numbers_of(scenes: BoxSet, split: Split) -> Numbers:
    """The numbers of a split's pictures in their set."""
    places = {id(image): number for number, image in enumerate(scenes.images)}
    parts = []
    for part in ("train", "val", "test"):
        parts.append(tuple(places[id(image)] for image in split.part(part)))
    return Numbers(*parts)


def check_files(scenes: BoxSet, images: Sequence[BoxedImage]) -> None:
    """Makes sure that the pictures are there, large enough and of the size that their boxes were drawn on.

    Raises:
        UserError: they are not.
    """
    absent = [image.name for image in images if not image.file.is_file()]
    if absent:
        raise UserError(
            f"{scenes.root}: {counted(len(absent), 'picture')} missing: {few(absent)}", "--images names their folder"
        )
    for image in images:
        check_size(image.file, image.size)
        (width, height), turned = upright_size(image.file)
        if (width, height) != image.size:
            what = f"{image.file} is {width} × {height} pixels{' once upright' * turned}"
            stated = f"{image.size[0]} × {image.size[1]}"
            raise UserError(
                f"{what}, but {scenes.root} describes it as {stated}", "its boxes would lie elsewhere: mend one of them"
            )


def split_boxes(scenes: BoxSet, how: SplitOptions = SplitOptions()) -> Split:
    """The parts of pictures with boxes.

    Raises:
        UserError: files that are not there or too small, parts that are not stated, too few pictures, no box to learn from.
    """
    check_files(scenes, scenes.images)
    stated = any(image.part == "train" for image in scenes.images)
    name = how.split
    if name == "auto":
        name = "given" if stated else "random"
    if name == "given" and not stated:
        raise UserError(f"{scenes.root} states no training part", "--split random makes a split")
    members: dict[str, list[BoxedImage]] = {"train": [], "val": [], "test": []}
    if name == "given":
        for image in scenes.images:
            if image.part:
                members[image.part].append(image)
        if not members["val"]:
            members["val"] = members["train"][::7]
            members["train"] = [image for i, image in enumerate(members["train"]) if i % 7]
        if not members["test"]:
            raise UserError(f"{scenes.root} states no test part", "--split random makes a split")
    else:
        for part, numbers in _random_parts(PicturesByContent(scenes).digests, how.split_seed).items():
            members[part] = [scenes.images[number] for number in numbers]
    if how.most is not None:
        chosen = np.random.default_rng(how.split_seed).permutation(len(members["train"]))[: how.most]
        members["train"] = [members["train"][number] for number in sorted(chosen.tolist())]
    for part, images in members.items():
        if not any(image.boxes for image in images):
            raise UserError(
                f"{scenes.root}: no box in {counted(len(images), f'{part} picture')}",
                "more pictures, or another --split",
            )
    return Split(name, tuple(members["train"]), tuple(members["val"]), tuple(members["test"]))


def _random_parts(digests: Sequence[str], seed: int) -> dict[str, list[int]]:
    """70, 15 and 15 % of the pictures; identical ones stay together, so that none is both learned and judged."""
    copies: dict[str, list[int]] = {}
    for number, digest in enumerate(digests):
        copies.setdefault(digest, []).append(number)
    groups = list(copies.values())
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    first_val, first_test = round(0.7 * len(order)), round(0.85 * len(order))
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for place, group in enumerate(order):
        part = "train"
        if place >= first_test:
            part = "test"
        elif place >= first_val:
            part = "val"
        parts[part] += groups[group]
    return {part: sorted(numbers) for part, numbers in parts.items()}
