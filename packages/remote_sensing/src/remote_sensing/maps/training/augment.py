"""Augmentation of map tiles with their labels: one draw for both. `legacy` repeats the published code's mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Example = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def augment(
    image: NDArray[np.uint8], label: NDArray[np.uint8], rng: np.random.Generator, *, legacy: bool = False
) -> Example:
    """Half of the tiles turned by quarters and mirrored, a quarter turned by up to 20° (image bilinear, label nearest), a quarter as they are.

    Args:
        image: (3, height, width).
        label: (height, width).
        legacy: mirror image and label by two draws and turn the image in the plane of channels and rows, as the published code does.
    """
    if rng.random() < 0.5:
        quarters, axis = int(rng.integers(0, 4)), int(rng.integers(0, 2))
        other = int(rng.integers(0, 2)) if legacy else axis
        image = np.flip(np.rot90(image, quarters, (1, 2)), axis + 1)
        label = np.flip(np.rot90(label, quarters), other)
    elif rng.random() < 0.5:
        angle = float(rng.uniform(-20, 20))
        image, label = _rotated(image, label, angle, legacy)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _rotated(image: NDArray, label: NDArray, angle: float, legacy: bool) -> Example:
    from scipy.ndimage import rotate

    if legacy:
        # published: the axes of a picture (height, width, 3), applied to (3, height, width)
        plane: dict[str, Any] = {"axes": (1, 0), "order": 0}
        beyond = "constant"
    else:
        plane = {"axes": (2, 1), "order": 1, "mode": "mirror"}
        beyond = "mirror"
    turned = rotate(image, angle, reshape=False, **plane)
    # always the nearest class: a mean of class numbers would be another class
    label = rotate(label, angle, axes=(1, 0), order=0, mode=beyond, reshape=False)
    return turned.astype(np.uint8), label.astype(np.uint8)
