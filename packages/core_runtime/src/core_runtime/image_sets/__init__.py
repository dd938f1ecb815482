"""Labelled images in the containers that they come in: class folders, a table of files, ``.npz``, CIFAR's pickles, a sprite sheet.

Needs NumPy and Pillow (``attention-suite-core-runtime[pictures]``).
"""

from core_runtime.image_sets.arrays import is_cifar, to_8_bits
from core_runtime.image_sets.image_set import PARTS, UNKNOWN, ImageSet, ImageSetOptions, set_fingerprint
from core_runtime.image_sets.opening import open_images

__all__ = ["PARTS", "UNKNOWN", "ImageSet", "ImageSetOptions", "is_cifar", "open_images", "set_fingerprint", "to_8_bits"]
