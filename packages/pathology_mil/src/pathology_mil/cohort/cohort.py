"""Labelled slides with their features: what a model learns from and is judged on."""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.errors import UserError, few
from core_runtime.terminal import track
from pathology_mil.cohort.labels import Labels, labels_of_bags, read_labels
from pathology_mil.cohort.options import LabelOptions
from pathology_mil.features.bags import Bag, LazyFeatures, differing, find_bags
from pathology_mil.slides.options import Tiling


@dataclass(frozen=True)
class Cohort:
    """Labelled slides with their features (still on disk).

    Attributes:
        labels: of exactly the slides in `bags`.
        bags: slide id → its features.
        skipped: slide id → why a labelled slide is left out ("no tiles").
        facts: what a reader of any result must know: feature width, encoder, magnification, numbers of slides and tiles.
        paths: the feature files.
        digests: slide id → digest of its features, the same under any name.
        preprocessing: how the features were made, as far as their files agree on it.
    """

    labels: Labels
    bags: Mapping[str, Bag]
    skipped: Mapping[str, str]
    facts: Mapping[str, Any]
    paths: tuple[Path, ...]
    digests: Mapping[str, str]
    preprocessing: Mapping[str, Any]

    def features(self, slide: str) -> LazyFeatures:
        """The matrix of a slide, on disk."""
        return self.bags[slide].features

    def tile_counts(self, slides: Sequence[str]) -> dict[str, Any]:
        """Numbers of slides and tiles of a part."""
        return _tile_counts([len(self.bags[slide]) for slide in slides])


def _tile_counts(tiles: Sequence[int]) -> dict[str, Any]:
    # CLAM's tables and most papers quote the median: a few huge resections would dominate a mean
    return {"slides": len(tiles), "tiles": sum(tiles), "tiles_per_slide": float(statistics.median(tiles))}


def open_cohort(
    features: Path | str,
    labels: Path | None = None,
    options: LabelOptions = LabelOptions(),
    *,
    merge: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> Cohort:
    """Matches a folder (or ACMIL file) of features with a table of labels.

    Args:
        features: as in `find_bags`.
        labels: CSV (`read_labels`); None takes the class numbers that an ACMIL file carries.
        options: how the table is read.
        merge: label → label, used where the options name none.
        classes: names in the order of their numbers (a model's).

    Raises:
        UserError: labels of slides without features, damaged files, features of different widths, no slide left.
    """
    files = find_bags(features)
    merge = options.merge or merge
    table = None
    if labels is not None:
        table = read_labels(labels, options, merge=merge, classes=classes)
        absent = [slide for slide in table.label if slide not in files]
        if absent and not options.ignore_missing:
            raise UserError(
                f"{labels.name} names {few(absent)}, but {features} holds no features of them",
                "encode these slides, or leave them out with --ignore-missing",
            )
        labelled = {slide: file for slide, file in files.items() if slide in table.label}
        # Slides without a label are common (a folder holds a whole archive); no overlap at all is a mix-up.
        if not labelled:
            raise UserError(f"{features} and {labels} have no slide in common")
        if len(labelled) < len(files):
            unused = f"{len(files) - len(labelled)} of {len(files)} slides in {Path(features).name} have no label and are not used"
            table = replace(table, notes=(*table.notes, unused))
        files = labelled
    bags = {slide: files[slide].open() for slide in track(files, "Opening features")}
    if table is None:
        numbers = {slide: bag.label for slide, bag in bags.items()}
        table = labels_of_bags(numbers, merge, classes)
    used: dict[str, Bag] = {}
    skipped: dict[str, str] = {}
    for slide, bag in bags.items():
        if len(bag) == 0:
            skipped[slide] = "no tiles"
        else:
            used[slide] = bag
    if not used:
        raise UserError(f"{features}: none of the {len(bags)} labelled slides has a tile")
    # one slide for each width, to be named in the message
    slide_of_width = {bag.features.shape[1]: slide for slide, bag in used.items()}
    if len(slide_of_width) > 1:
        (width, slide), (other_width, other) = list(slide_of_width.items())[:2]
        widths = f"{slide} has {width} features per tile, {other} has {other_width}"
        raise UserError(f"{features}: {widths}: two encoders are mixed")
    paths = {files[slide].path for slide in used}  # an ACMIL file holds many slides
    return Cohort(
        table.only(used),
        used,
        skipped,
        _facts(used),
        tuple(sorted(paths)),
        {slide: _digest(bag) for slide, bag in used.items()},
        _preprocessing(used),
    )


def _digest(bag: Bag) -> str:
    """Digest of the features' first and last rows and their number: the same for copies and renamed files, different for other slides."""
    rows = np.concatenate([np.asarray(bag.features[:4]), np.asarray(bag.features[-4:])])
    # as float32, so that features stored as float16 and converted later remain the same slide
    content = f"{bag.features.shape}".encode() + rows.astype(np.float32).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _preprocessing(bags: Mapping[str, Bag]) -> dict[str, Any]:
    """How all features were made.

    Raises:
        UserError: they were made in different ways.
    """
    common: dict[str, Any] = {}
    first_slide: dict[str, str] = {}  # the slide that first stated each of them
    for slide, bag in bags.items():
        preparation = bag.preparation
        differences = differing(common, preparation)
        if differences:
            conflicts = [key for key in preparation if key in common and common[key] != preparation[key]]
            earlier = first_slide[conflicts[0]]
            raise UserError(
                f"features made in different ways are mixed: {earlier} and {slide} have {', '.join(differences)}",
                "make all of them in the same way, or name a folder that holds one kind",
            )
        for key, value in preparation.items():
            if key not in common:
                common[key], first_slide[key] = value, slide
    sides = {bag.side for bag in bags.values()}
    if len(sides) == 1:
        common["patch_size_level0"] = str(sides.pop())
    tilings = [_tiling(bag.attributes.get("parameters")) for bag in bags.values()]
    if tilings[0] is not None and all(tiling == tilings[0] for tiling in tilings):
        common["tiles"] = tilings[0].plain()
    return common


def _tiling(parameters: str | None) -> Tiling | None:
    """The settings that `tile` stored beside the coordinates; None for files of other programs."""
    if not parameters:
        return None
    plain = json.loads(parameters)
    if "patch_size" not in plain:
        return None
    return Tiling.of(plain)


def _facts(bags: Mapping[str, Bag]) -> dict[str, Any]:
    """What a reader of any result must know."""
    encoders, magnifications = set(), set()
    for bag in bags.values():
        if bag.encoder:
            encoders.add(bag.encoder)
        if bag.attributes.get("target_magnification"):
            magnifications.add(str(bag.attributes["target_magnification"]))
    return {
        **_tile_counts([len(bag) for bag in bags.values()]),
        "feature_width": next(iter(bags.values())).features.shape[1],
        "encoder": ", ".join(sorted(encoders)) or "unknown",
        "magnification": ", ".join(sorted(magnifications)) or "unknown",
    }
