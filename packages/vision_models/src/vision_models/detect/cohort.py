"""Which pictures train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from core_runtime.boxes import BoxedImage, BoxSet
from core_runtime.errors import UserError, few
from core_runtime.options import AtLeast, options
from vision_models.detect.scenes.sizes import check_size


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


def split_boxes(scenes: BoxSet, how: SplitOptions = SplitOptions()) -> Split:
    """The parts of pictures with boxes.

    Raises:
        UserError: files that are not there or too small, parts that are not stated, too few pictures, no box to learn from.
    """
    absent = [image.name for image in scenes.images if not image.file.is_file()]
    if absent:
        raise UserError(
            f"{scenes.root}: {len(absent)} pictures are not there: {few(absent)}", "--images names their folder"
        )
    for image in scenes.images:
        check_size(image.file, image.size)
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
        order = np.random.default_rng(how.split_seed).permutation(len(scenes.images)).tolist()
        first_val, first_test = round(0.7 * len(order)), round(0.85 * len(order))
        for part, numbers in (
            ("train", order[:first_val]),
            ("val", order[first_val:first_test]),
            ("test", order[first_test:]),
        ):
            members[part] = [scenes.images[number] for number in sorted(numbers)]
    if how.most is not None:
        chosen = np.random.default_rng(how.split_seed).permutation(len(members["train"]))[: how.most]
        members["train"] = [members["train"][number] for number in sorted(chosen.tolist())]
    for part, images in members.items():
        if not any(image.boxes for image in images):
            raise UserError(
                f"{scenes.root}: none of {len(images)} {part} pictures has a box", "more pictures, or another --split"
            )
    return Split(name, tuple(members["train"]), tuple(members["val"]), tuple(members["test"]))
