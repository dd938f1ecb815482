"""Which images are trained on, select the epoch, and judge."""

from __future__ import annotations

import numpy as np

from core_runtime.errors import UserError
from medical_segmentation.similar.images import ImageSet, require_classes

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


def _drawn(images: ImageSet, numbers: list[int], share: float, rng: np.random.Generator) -> list[int]:
    """A share of every class, at least one image where it has three."""
    chosen = []
    for label in sorted({images.labels[number] for number in numbers}):
        own = [number for number in numbers if images.labels[number] == label]
        count = max(1, round(share * len(own))) if len(own) > 2 else 0
        chosen += rng.choice(own, count, replace=False).tolist()
    return sorted(chosen)
