"""Which pictures a model has seen, by their content, whatever they are called: what training records and what evaluation asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from core_runtime.errors import UserError, few
from core_runtime.fields import read_field

DIGEST = 16  # characters of a picture's digest
PARTS = ("train", "val", "test")


class Pictures(Protocol):
    """A set of pictures, one entry of each attribute per picture.

    Attributes:
        root: where they are.
        names: in the data set.
        parts: what the files state: "train", "val", "test" or "".
        digests: of each picture's content.
    """

    @property
    def root(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def parts(self) -> tuple[str, ...]: ...
    @cached_property
    def digests(self) -> tuple[str, ...]: ...


class Parts(Protocol):
    """Numbers of pictures, by part."""

    def part(self, name: str) -> Sequence[int]: ...


def copies_between_parts(pictures: Pictures, split: Parts) -> str:
    """A sentence about validation and test images that are also training images, as in some published splits; "" without any."""
    trained = {pictures.digests[number] for number in split.part("train")}
    sentences = []
    for part in ("val", "test"):
        numbers = split.part(part)
        both = [pictures.names[number] for number in numbers if pictures.digests[number] in trained]
        if both:
            sentences.append(f"{len(both)} of {len(numbers)} {part} images are also training images: {few(both)}")
    return "; ".join(sentences)


@dataclass(frozen=True)
class KnownImages:
    """The images that a model was made from, by digest."""

    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]

    @classmethod
    def of(cls, provenance: Mapping[str, Any], where: object) -> KnownImages | None:
        """The images that a model folder records; None if it has no record, like a converted one.

        Raises:
            UserError: the record is damaged.
        """
        if "images" not in provenance:
            return None
        parts = []
        for part in PARTS:
            # digests one after another: a list would make config.json many times as long
            text = read_field(provenance, f"images.{part}", str, where=where)
            if len(text) % DIGEST:
                raise UserError(f"{where}: provenance.images.{part} is cut short", "the model folder is damaged")
            parts.append(frozenset(text[i : i + DIGEST] for i in range(0, len(text), DIGEST)))
        return cls(*parts)

    def numbers(self, part: str, pictures: Pictures) -> list[int]:
        """The images that belong to a part, by their digests."""
        members: frozenset[str] = getattr(self, part)
        return [number for number, digest in enumerate(pictures.digests) if digest in members]


def record(pictures: Pictures, split: Parts) -> dict[str, str]:
    """What `KnownImages.of` reads."""
    texts = {}
    for part in PARTS:
        texts[part] = "".join(pictures.digests[number] for number in split.part(part))
    return texts


def choose(
    pictures: Pictures, candidates: Sequence[int], known: KnownImages | None, part: str, *, noun: str
) -> tuple[list[int], str]:
    """Numbers of the pictures to evaluate, and their relation to the model's training in words.

    Args:
        candidates: the numbers of those that can be evaluated at all.
        known: the images that the model was made from, if it has a record.
        part: of the model's own split, if it knows these pictures; else of the files. "all" takes every picture.
        noun: what the sentence calls them, "images" or "pictures".

    Raises:
        UserError: pictures that the model was trained on are asked for as others, or none are left.
    """
    numbers = list(candidates)
    stated = [number for number in candidates if pictures.parts[number] == part]
    if known is None:
        if part != "all" and stated:
            numbers = stated
        return (
            numbers,
            f"The model has no record of the {noun} that it was trained on: some of these may be among them.",
        )
    trained, tuned = set(known.numbers("train", pictures)), set(known.numbers("val", pictures))
    own = []
    if part != "all":
        possible = set(candidates)
        for number in known.numbers(part, pictures):
            # a copy that the files put into another part is not one of this part's images
            if number in possible and pictures.parts[number] in ("", part):
                own.append(number)
    if own:
        numbers = own
    elif part != "all" and stated:
        numbers = stated
    elif part != "all" and (trained or tuned):
        raise UserError(f"{pictures.root}: no {part} {noun} of the model are here", f"--part all evaluates all {noun}")
    count = len(numbers)
    on_trained, on_tuned = len(trained & set(numbers)), len(tuned & set(numbers))
    if on_trained and own and part in ("val", "test"):
        return (
            numbers,
            f"The model's own {part} {noun}; {on_trained} of these {count} have a copy among its training {noun}.",
        )
    if on_trained and part in ("val", "test"):
        raise UserError(
            f"the model was trained on {on_trained} of these {count} {noun}", "ask for them with --part train or all"
        )
    if on_trained:
        return numbers, f"The model was trained on {on_trained} of these {count} {noun}: the figures are too good."
    if on_tuned:
        return numbers, f"{on_tuned} of these {count} {noun} selected the model's epoch; none trained it."
    return numbers, f"None of these {count} {noun} trained the model or selected its epoch."
