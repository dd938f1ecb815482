"""What a set of labelled images is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Names, options
from core_runtime.pictures import Picture, open_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = ("train", "val", "test")
PART_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
UNKNOWN = -1  # the label of an image without one
HINT = "class folders (FOLDER/CLASS/image.png, also under train, val, test), a table (file, label), .npz, CIFAR, a sprite sheet"


@options
class ImageSetOptions:
    """How a set of images is read, where its files do not say it.

    Attributes:
        tile: side of an image in a sprite sheet, in pixels; makes a picture a sprite sheet.
        rows_per_class: rows of the sprite sheet that each class takes, from the top; default: an equal share of all rows for as many classes as --class-names.
        class_names: names of the classes in the order of their numbers, for .npz and sprite sheets.
        white: value of white in an .npz of numbers that are not 8 bits (16 for scikit-learn's digits); default: 65535 for 16 bits, 1 for fractions up to 1.
    """

    tile: Annotated[int, AtLeast(2)] | None = None
    rows_per_class: Annotated[int, AtLeast(1)] | None = None
    class_names: Names | None = None
    white: Annotated[float, AtLeast(0)] | None = None


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        root: the file or folder.
        kind: of container: "folder", "table", "npz", "cifar", "sprite", or "pictures" (without labels).
        classes: names.
        names: of the images, unique.
        labels: number of each image's class; `UNKNOWN` without one.
        parts: the part that the container gives each image: "train", "val", "test", or "".
        files: paths, where each image is a file.
        pixels: the images as uint8 (images, height, width, 1 or 3), where they are not files.
        notes: what is odd, for the user.
    """

    root: Path
    kind: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    parts: tuple[str, ...]
    files: tuple[Path, ...] = ()
    pixels: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, number: int) -> Picture:
        """One image, as 8-bit RGB.

        Raises:
            UserError: its file cannot be used.
        """
        if self.pixels is None:
            picture = open_picture(self.files[number])
            if min(picture.size) < 2:
                width, height = picture.size
                raise UserError(f"{self.files[number]} is {width} × {height} pixels: too small to show anything")
            return picture
        from PIL import Image

        values = self.pixels[number]
        grey = values.shape[2] == 1
        image = Image.fromarray(values[:, :, 0] if grey else values)
        return Picture(self.names[number], image.convert("RGB"), (), grey)

    def stored(self, number: int) -> str:
        """A digest of an image as it is stored, without decoding it: changes with its file."""
        if self.pixels is None:
            return _digest(self.files[number].read_bytes())
        return _digest(repr(self.pixels.shape[1:]).encode() + self.pixels[number].tobytes())

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """A digest of each image's pixels: the same image is recognised under any name and in any container.

        An image that cannot be decoded has the digest of its file.
        """
        from core_runtime.terminal import track

        digests = []
        for number in track(range(len(self)), "Reading images"):
            try:
                image = self.picture(number).image
            except UserError:
                digests.append(self.stored(number))
                continue
            digests.append(_digest(repr(image.size).encode() + image.tobytes()))
        return tuple(digests)

    def counts(self, numbers: Sequence[int] | None = None) -> dict[str, int]:
        """Images of each class, of all or of those with these numbers."""
        if numbers is None:
            numbers = range(len(self))
        totals = dict.fromkeys(self.classes, 0)
        for number in numbers:
            if self.labels[number] != UNKNOWN:
                totals[self.classes[self.labels[number]]] += 1
        return totals


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def set_fingerprint(images: ImageSet) -> str:
    """One digest of images, labels and parts, as they are stored."""
    stored = [images.stored(number) for number in range(len(images))]
    content = [images.names, images.labels, images.parts, images.classes, stored]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
