"""Which tiles train, validate and test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, get_args

import numpy as np

from core_runtime.errors import UserError
from core_runtime.fields import read_field
from core_runtime.tables import near_equal
from remote_sensing.landuse.scenes.layouts import PARTS, SplitName, TileSet

DIGEST = 16  # characters of a tile's digest


@dataclass(frozen=True)
class Split:
    """Numbers of tiles; no tile is in two parts."""

    name: str
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]

    def part(self, name: str) -> tuple[int, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class KnownTiles:
    """The tiles that a model was made from, by the digests of their pixels (`scenes.store.digests`)."""

    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]

    @classmethod
    def of(cls, provenance: Mapping[str, Any], where: object) -> "KnownTiles | None":
        """The tiles that a model folder records; None if it has no record, like a converted one.

        Raises:
            UserError: the record is damaged.
        """
        if "tiles" not in provenance:
            return None
        parts = []
        for part in PARTS:
            # digests one after another: a list would make config.json many times as long
            text = read_field(provenance, f"tiles.{part}", str, where=where)
            if len(text) % DIGEST:
                raise UserError(f"{where}: provenance.tiles.{part} is cut short", "the model folder is damaged")
            digests = [text[i : i + DIGEST] for i in range(0, len(text), DIGEST)]
            parts.append(frozenset(digests))
        return cls(*parts)

    def numbers(self, part: str, contents: Sequence[str]) -> list[int]:
        """The tiles of a download that belong to a part, by their digests."""
        members: frozenset[str] = getattr(self, part)
        return [number for number, digest in enumerate(contents) if digest in members]


def split_tiles(tiles: TileSet, name: str = "auto", seed: int = 0) -> Split:
    """The split of that name: lists beside the tiles, or a random one of 70, 15 and 15 %.

    Args:
        name: "csv" (Kaggle), "torchgeo", "spatial" or "100" (torchgeo's lists), "random70" (as published), "stratified";
            "auto" takes Kaggle's or torchgeo's lists if they are there, else "stratified".
        seed: of a random split.

    Raises:
        UserError: lists that are not there, or that name other tiles.
    """
    if name == "auto":
        available = [candidate for candidate in ("csv", "torchgeo") if candidate in tiles.lists]
        name = available[0] if available else "stratified"
    if name == "random70":
        return _cut(name, np.random.default_rng(seed).permutation(len(tiles.files)))
    if name == "stratified":
        return _stratified(tiles.labels, seed)
    if name not in get_args(SplitName):
        raise UserError(f"unknown split {name!r}", f"one of {', '.join(get_args(SplitName))}")
    if name not in tiles.lists:
        files = "eurosat-*-{train,val,test}.txt"
        if name == "csv":
            files = "train.csv, validation.csv, test.csv"
        raise UserError(f"{tiles.root}: no lists of the split {name!r} ({files})", "--split stratified makes a split")
    return _listed(tiles, name)


def _listed(tiles: TileSet, name: str) -> Split:
    """The split given by lists."""
    # by stem: the lists name .jpg files, also for the .tif tiles
    number_of = {PurePosixPath(file).stem: number for number, file in enumerate(tiles.files)}
    parts: dict[str, tuple[int, ...]] = {}
    taken: set[int] = set()
    for part, stems in tiles.lists[name].items():
        unknown = [stem for stem in stems if stem not in number_of]
        if unknown:
            raise UserError(
                f"{tiles.root}: the list of {part} tiles names {unknown[0]!r} and {len(unknown) - 1} more that are not there",
                "the lists belong to another download; --split stratified makes a split",
            )
        parts[part] = tuple(number_of[stem] for stem in stems)
        if len(set(parts[part])) < len(stems) or taken & set(parts[part]):
            raise UserError(f"{tiles.root}: the lists of the split {name!r} name a tile twice", "correct the lists")
        taken |= set(parts[part])
    if not all(parts.values()):
        raise UserError(f"{tiles.root}: a list of the split {name!r} is empty", "--split stratified makes a split")
    return Split(name, parts["train"], parts["val"], parts["test"])


def _cut(name: str, order: np.ndarray) -> Split:
    """70, 15 and 15 % of an order of tiles."""
    train, val = int(0.7 * len(order)), int(0.15 * len(order))
    numbers = order.tolist()
    if min(train, val) < 1:
        raise UserError(f"{len(numbers)} tiles are too few for a split", "at least seven tiles are needed")
    return Split(name, tuple(numbers[:train]), tuple(numbers[train : train + val]), tuple(numbers[train + val :]))


def _stratified(labels: Sequence[int], seed: int) -> Split:
    """70, 15 and 15 % of every class."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    array = np.asarray(labels)
    for number in np.unique(array):
        order = rng.permutation(np.flatnonzero(array == number)).tolist()
        if len(order) < 3:
            raise UserError(
                f"class number {number} has {len(order)} tiles", "a split into three parts needs three of every class"
            )
        val = max(1, int(0.15 * len(order)))
        for part, members in zip(parts, (order[2 * val :], order[val : 2 * val], order[:val]), strict=True):
            part += members
    train, val, test = parts
    return Split("stratified", tuple(rng.permutation(train).tolist()), tuple(val), tuple(test))


def classes_in_words(classes: Sequence[str]) -> Iterator[str]:
    """Classes whose names are almost the same."""
    for group in near_equal(classes):
        yield f"{' and '.join(map(repr, group))} count as {len(group)} classes: if they are one, put their tiles into one folder"


def copies_in_words(contents: Sequence[str], labels: Sequence[int], split: Split) -> Iterator[str]:
    """Tiles with the same pixels, where that misleads: of two classes, or of training and of what judges it.

    Args:
        contents: a digest of the pixels of each tile.
        labels: class numbers.
        split: of the tiles.
    """
    classes_of: dict[str, set[int]] = {}
    for content, label in zip(contents, labels, strict=True):
        classes_of.setdefault(content, set()).add(label)
    ambiguous = sum(len(classes) > 1 for classes in classes_of.values())
    if ambiguous:
        yield f"{ambiguous} tiles are there under two classes or more, with the same pixels"
    trained = {contents[number] for number in split.part("train")}
    for part, words in (("val", "validation"), ("test", "test")):
        copies = sum(contents[number] in trained for number in split.part(part))
        if copies:
            yield f"{copies} of {len(split.part(part))} {words} tiles have the same pixels as a training tile: measures on them are too good"
