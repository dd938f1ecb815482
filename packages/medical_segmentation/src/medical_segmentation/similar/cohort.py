"""Which images are trained on, select the epoch, and judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core_runtime.errors import UserError
from medical_segmentation.similar.images import ImageSet, image_digest, require_classes

Parts = dict[str, list[int]]


def split_images(images: ImageSet, seed: int, *, official_protocol: bool = False) -> Parts:
    """The parts that the source names; what it does not name is drawn class by class: a fifth for the test, a tenth of the rest for validation.

    Args:
        official_protocol: validate on the test images, as the published code does.

    Raises:
        UserError: too few images or classes.
    """
    parts: Parts = {part: images.numbers(part) for part in ("train", "val", "test")}
    if not any(parts.values()):
        parts["train"] = list(range(len(images)))
    require_classes(images, parts["train"], "training")
    rng = np.random.default_rng(seed)
    for part, share in (("test", 0.2), ("val", 0.1)):
        if not parts[part]:
            parts[part] = _drawn(images, parts["train"], share, rng)
            taken = set(parts[part])
            parts["train"] = [number for number in parts["train"] if number not in taken]
    if official_protocol:
        parts["val"] = list(parts["test"])
    if len(parts["val"]) < 4 or len(parts["test"]) < 4:
        raise UserError(f"{images.source}: {len(images)} images are too few to train, validate and test", "add images")
    return parts


def unseen_images(images: ImageSet, part: str, provenance: Mapping[str, Any]) -> tuple[list[int], str]:
    """The images of a part that the model was neither trained nor, for the test part, selected on; told by their pixels, not by their names.

    Args:
        images: with parts of their own, or without: then all others are the test part.
        part: "test" or "val".
        provenance: of the model.

    Returns:
        Their numbers, and their relation to the model's training in words.
    """
    digests = provenance.get("images")
    numbers = images.numbers(part) or list(range(len(images)))
    if not isinstance(digests, dict):
        return numbers, f"{len(numbers)} images; the model has no record of what it was trained on"
    own = {number: image_digest(images, number) for number in numbers}
    if not images.numbers(part):
        selected = set(digests.get("val", []))
        numbers = [number for number in numbers if (own[number] in selected) == (part == "val")]
    trained = set(digests.get("train", []))
    unseen = [number for number in numbers if own[number] not in trained]
    origin = f"{len(unseen)} images; the model was trained on none of them"
    return unseen, origin + f" ({len(numbers) - len(unseen)} that it was are left out)"


def _drawn(images: ImageSet, numbers: list[int], share: float, rng: np.random.Generator) -> list[int]:
    """A share of every class, at least one image where it has three."""
    chosen = []
    for label in sorted({images.labels[number] for number in numbers}):
        own = [number for number in numbers if images.labels[number] == label]
        count = max(1, round(share * len(own))) if len(own) > 2 else 0
        chosen += rng.choice(own, count, replace=False).tolist()
    return sorted(chosen)
