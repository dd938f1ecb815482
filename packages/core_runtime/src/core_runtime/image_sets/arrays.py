"""Images in one file together: ``.npz``, CIFAR's pickles, a sprite sheet."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core_runtime.arrays import DAMAGED
from core_runtime.errors import UserError, clean, few, shorten
from core_runtime.image_sets.image_set import PARTS, UNKNOWN, ImageSet, ImageSetOptions
from core_runtime.pictures import open_picture
from core_runtime.unpickling import read_pickle


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10 or CIFAR-100 as pickles ("python version")."""
    return (folder / "batches.meta").is_file() or ((folder / "meta").is_file() and (folder / "train").is_file())


def read_npz(path: Path, how: ImageSetOptions) -> ImageSet:
    """MedMNIST's keys (train_images, train_labels …), or one pair of images and labels."""
    import numpy as np

    try:
        with zipfile.ZipFile(path):  # NumPy leaves a damaged archive open
            pass
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except DAMAGED as error:
        raise UserError(
            f"{path} cannot be read: {shorten(clean(str(error)), 150)}", "an .npz holds arrays of numbers, no objects"
        ) from None
    pairs = _pairs(path, arrays)
    images, labels, parts, names = [], [], [], []
    for part, key, label_key in pairs:
        for array in filter(None, (key, label_key)):
            if arrays[array].ndim == 0:
                raise UserError(f"{path}: {array} is a single value, expected one entry per image")
        values = arrays[key]
        images.append(values)
        given = np.full((len(values), 1), UNKNOWN)
        if label_key:
            given = arrays[label_key].reshape(len(arrays[label_key]), -1)
        if len(given) != len(values):
            raise UserError(f"{path}: {key} has {len(values)} entries, {label_key} has {len(given)}")
        if given.shape[1] != 1:
            raise UserError(
                f"{path}: {label_key} has {given.shape[1]} labels per image", "one label per image is understood"
            )
        labels += given[:, 0].tolist()
        parts += [part] * len(values)
        names += [f"{key}[{number}]" for number in range(len(values))]
    shapes = {values.shape[1:] for values in images}
    if len(shapes) > 1:
        raise UserError(f"{path}: the images of its parts differ in size: {', '.join(map(str, shapes))}")
    pixels = to_8_bits(_with_channels(np.concatenate(images), path), how.white, path)
    classes, numbers = _numbered(labels, how.class_names, path)
    return ImageSet(path, "npz", classes, tuple(names), numbers, tuple(parts), pixels=pixels)


def _pairs(path: Path, arrays: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Part, key of the images, key of their labels ("" without any)."""
    pairs = []
    for part in PARTS:
        if f"{part}_images" in arrays:
            label_key = f"{part}_labels" if f"{part}_labels" in arrays else ""
            pairs.append((part, f"{part}_images", label_key))
    if pairs:
        return pairs
    label_key = next((key for key in ("labels", "label", "y", "target", "targets") if key in arrays), "")
    for key in ("images", "image", "x", "data"):
        if key in arrays:
            return [("", key, label_key)]
    shapes = ", ".join(f"{key} {values.shape}" for key, values in arrays.items())
    raise UserError(
        f"{path} holds {shapes or 'nothing'}, no images under a known name",
        "expected train_images and train_labels (val, test), or images and labels",
    )


def _with_channels(values: Any, path: Path) -> Any:
    """(images, height, width, channels)."""
    if values.ndim == 3:
        return values[..., None]
    if values.ndim == 4 and values.shape[3] in (1, 3):
        return values
    raise UserError(
        f"{path}: images of shape {values.shape} are not understood",
        "expected (images, height, width), or with 1 or 3 channels behind",
    )


def to_8_bits(values: Any, white: float | None, where: object) -> Any:
    """Numbers as uint8, `white` as 255.

    Raises:
        UserError: it is not known which value is white, or some are not finite.
    """
    import numpy as np

    if values.dtype == np.uint8 and white is None:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "uif":
        raise UserError(f"{where}: images of {values.dtype} are not numbers")
    unknown = int((~np.isfinite(values)).sum())
    if unknown:
        raise UserError(f"{where} holds {unknown} pixels that are not finite numbers", "replace them by a value")
    low, high = float(values.min()), float(values.max())
    if white is None:
        if values.dtype == np.uint16:
            white = 65535.0
        elif values.dtype.kind == "f" and high <= 1:
            white = 1.0
        else:
            raise UserError(
                f"{where}: images of {values.dtype} from {low:g} to {high:g}", "--white says which value is white"
            )
    if low < 0 or high > white:
        raise UserError(f"{where}: images from {low:g} to {high:g} do not lie between 0 and {white:g}, which is white")
    return (values.astype(np.float64) * (255 / white)).round().astype(np.uint8)


def _numbered(
    labels: Sequence[Any], names: Sequence[str] | None, path: Path
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Classes, and the number of each image's class; labels are numbers from 0."""
    if not all(_is_number_of_a_class(label) for label in labels):
        raise UserError(f"{path}: labels must be whole numbers from 0")
    numbers = tuple(int(label) for label in labels)
    count = max(numbers) + 1
    if names is None:
        return tuple(str(number) for number in range(count)), numbers
    if len(names) < count:
        raise UserError(f"{len(names)} --class-names were given, {path} has labels up to {count - 1}")
    return tuple(names), numbers


def _is_number_of_a_class(label: Any) -> bool:
    return isinstance(label, int | float) and math.isfinite(label) and label == int(label) >= UNKNOWN


def read_cifar(root: Path) -> ImageSet:
    """CIFAR's pickles: rows of 3,072 bytes, red, green, blue planes of 32 × 32."""
    import numpy as np

    if (root / "batches.meta").is_file():
        files = [(f"data_batch_{number}", "train") for number in range(1, 6)] + [("test_batch", "test")]
        meta, label_key, names_key = "batches.meta", "labels", "label_names"
    else:
        files = [("train", "train"), ("test", "test")]
        meta, label_key, names_key = "meta", "fine_labels", "fine_label_names"
    described = read_pickle(root / meta)
    if not isinstance(described, dict) or not isinstance(described.get(names_key), list):
        raise UserError(f"{root / meta} has no {names_key}", "fetch the 'python version' again")
    classes = tuple(map(str, described[names_key]))
    pixels, labels, parts, names = [], [], [], []
    present = [(name, part) for name, part in files if (root / name).is_file()]
    notes = ()
    if len(present) < len(files):
        missing = [name for name, _ in files if not (root / name).is_file()]
        notes = (f"{few(missing)} of CIFAR are not there",)
    for name, part in present:
        batch = read_pickle(root / name, arrays=True)
        if not isinstance(batch, dict) or "data" not in batch or label_key not in batch:
            raise UserError(f"{root / name} has no data and {label_key}", "fetch the 'python version' again")
        data = np.asarray(batch["data"])
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or len(data) != len(batch[label_key]):
            raise UserError(f"{root / name} holds {data.shape} of {data.dtype}, expected rows of 3,072 bytes")
        pixels.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += batch[label_key]
        parts += [part] * len(data)
        names += [f"{name}[{number}]" for number in range(len(data))]
    if not pixels:
        raise UserError(f"{root} holds CIFAR's {meta}, but none of its images")
    if max(labels) >= len(classes):
        raise UserError(f"{root}: a label is {max(labels)}, but {len(classes)} classes are named")
    every = np.ascontiguousarray(np.concatenate(pixels))
    return ImageSet(
        root, "cifar", classes, tuple(names), tuple(map(int, labels)), tuple(parts), pixels=every, notes=notes
    )


def read_sprite(path: Path, how: ImageSetOptions) -> ImageSet:
    """Images of one size in a grid, classes from the top; the left two thirds of the columns train, one sixth each validates and tests."""
    import numpy as np

    picture = open_picture(path)
    side = how.tile
    assert side is not None
    width, height = picture.size
    if width % side or height % side:
        raise UserError(f"{path} has {width} × {height} pixels, which are not whole images of {side} × {side}")
    rows, columns = height // side, width // side
    per_class = how.rows_per_class
    if per_class is None:
        count = len(how.class_names or ())
        if not count or rows % count:
            raise UserError(
                f"{path} has {rows} rows of images, and nothing says which class a row is", "--rows-per-class"
            )
        per_class = rows // count
    if rows % per_class:
        raise UserError(f"{path}: {rows} rows are not whole classes of {per_class}")
    image = picture.image
    values = np.asarray(image)
    if (values[..., :1] == values).all():
        values = values[..., :1]
    channels = values.shape[2]
    # (rows, side, columns, side, channels) → images in the order of reading
    tiles = values.reshape(rows, side, columns, side, channels).swapaxes(1, 2).reshape(-1, side, side, channels)
    labels, parts, names = [], [], []
    first_val, first_test = round(columns * 2 / 3), round(columns * 5 / 6)
    for row in range(rows):
        for column in range(columns):
            labels.append(row // per_class)
            names.append(f"row {row} column {column}")
            if column < first_val:
                parts.append("train")
            elif column < first_test:
                parts.append("val")
            else:
                parts.append("test")
    classes, numbers = _numbered(labels, how.class_names, path)
    pixels = np.ascontiguousarray(tiles)
    return ImageSet(path, "sprite", classes, tuple(names), numbers, tuple(parts), pixels=pixels)
