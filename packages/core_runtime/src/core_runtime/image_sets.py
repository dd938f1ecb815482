"""Labelled images in the containers that they come in: class folders, a table of files, ``.npz``, CIFAR's pickles, a sprite sheet.

Needs NumPy and Pillow (``attention-suite-core-runtime[pictures]``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.errors import UserError, few
from core_runtime.identity import is_own_output
from core_runtime.options import AtLeast, Names, options
from core_runtime.pictures import ENDINGS, Picture, find_pictures, open_picture
from core_runtime.unpickling import read_pickle

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = ("train", "val", "test")
_PART_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
UNKNOWN = -1  # the label of an image without one
_HINT = "class folders (FOLDER/CLASS/image.png, also under train, val, test), a table (file, label), .npz, CIFAR, a sprite sheet"


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

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """A digest of each image's content: the same image is recognised under any name."""
        digests = []
        for number in range(len(self)):
            if self.pixels is None:
                content = self.files[number].read_bytes()
            else:
                content = repr(self.pixels.shape[1:]).encode() + self.pixels[number].tobytes()
            digests.append(hashlib.sha256(content).hexdigest()[:16])
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


def open_images(path: Path, how: ImageSetOptions = ImageSetOptions()) -> ImageSet:
    """Opens a set of images, by what the path is.

    Raises:
        UserError: it is none of the containers, holds nothing, or does not say what its images or labels are.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", _HINT)
    if path.is_dir():
        if is_cifar(path):
            return _cifar(path)
        return _folders(path)
    ending = path.suffix.lower()
    if ending == ".npz":
        return _npz(path, how)
    if ending in (".csv", ".tsv", ".txt"):
        return _table(path)
    if ending in ENDINGS:
        if how.tile is None:
            picture = open_picture(path)
            return ImageSet(path, "pictures", (), (path.name,), (UNKNOWN,), ("",), (path,), notes=picture.notes)
        return _sprite(path, how)
    raise UserError(f"{path} is not a set of images", _HINT)


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10 or CIFAR-100 as pickles ("python version")."""
    return (folder / "batches.meta").is_file() or ((folder / "meta").is_file() and (folder / "train").is_file())


def _folders(root: Path) -> ImageSet:
    """Class folders, also below folders of parts; or pictures without classes."""
    parts = {"": root}
    below = {folder.name: folder for folder in _folders_in(root)}
    if below and all(name.lower() in _PART_NAMES for name in below):
        parts = {}
        for name, folder in below.items():
            part = _PART_NAMES[name.lower()]
            if part in parts:
                raise UserError(f"{root} holds two folders of the part {part!r}: {name} and {parts[part].name}")
            parts[part] = folder
    classes: list[str] = []
    for part in sorted(parts, key=lambda part: part != "train"):
        for folder in _folders_in(parts[part]):
            if folder.name not in classes:
                classes.append(folder.name)
                if "train" in parts and part not in ("", "train"):
                    raise UserError(
                        f"{parts[part]} holds the class {folder.name!r}, which {parts['train']} has not",
                        "the folders of all parts must have the same names of classes",
                    )
    classes.sort()
    if not classes:
        files = find_pictures(root)
        names = tuple(file.relative_to(root).as_posix() for file in files)
        return ImageSet(root, "pictures", (), names, (UNKNOWN,) * len(files), ("",) * len(files), tuple(files))
    files, labels, given, notes = [], [], [], []
    for part, folder in parts.items():
        loose = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
        if loose:
            notes.append(f"{len(loose)} pictures of {folder.name} are in no class folder and are left out")
        for class_folder in _folders_in(folder):
            try:
                members = find_pictures(class_folder)
            except UserError:
                raise UserError(
                    f"the class folder {class_folder} holds no image", "remove it, or put images into it"
                ) from None
            files += members
            labels += [classes.index(class_folder.name)] * len(members)
            given += [part] * len(members)
    names = tuple(file.relative_to(root).as_posix() for file in files)
    return ImageSet(
        root, "folder", tuple(classes), names, tuple(labels), tuple(given), tuple(files), notes=tuple(notes)
    )


def _folders_in(path: Path) -> list[Path]:
    folders = []
    for folder in path.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and not is_own_output(folder):
            folders.append(folder)
    return sorted(folders)


def _table(path: Path) -> ImageSet:
    """A table with a row per image: file, label, and perhaps its part; or lines of "path label", as DomainNet's lists are."""
    rows = _list_lines(path) if path.suffix.lower() == ".txt" else _table_rows(path)
    files, labels, parts, absent = [], [], [], []
    for name, label, part in rows:
        file = path.parent / name
        if not file.is_file():
            absent.append(name)
        files.append(file)
        labels.append(label)
        parts.append(part)
    if absent:
        raise UserError(f"{path}: {len(absent)} of {len(files)} files are not there: {few(absent)}", "mend the paths")
    given = {label for label in labels if label is not None}
    numeric = all(label.lstrip("-").isdigit() for label in given)
    classes = sorted(given, key=int) if numeric else sorted(given)
    numbers = tuple(UNKNOWN if label is None else classes.index(label) for label in labels)
    names = tuple(name for name, _, _ in rows)
    if len(set(names)) < len(names):
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        raise UserError(f"{path} names {len(twice)} files twice: {few(twice)}", "each image has one row")
    return ImageSet(path, "table", tuple(classes), names, numbers, tuple(parts), tuple(files))


def _list_lines(path: Path) -> list[tuple[str, str | None, str]]:
    part = ""
    for name in _PART_NAMES:
        if path.stem.lower().endswith(name):
            part = _PART_NAMES[name]
    rows: list[tuple[str, str | None, str]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a list of images", "each line is: path label") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdigit():
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not 'path label'", "each line is: path label")
        rows.append((name, label, part))
    if not rows:
        raise UserError(f"{path} is empty", "each line is: path label")
    return rows


def _table_rows(path: Path) -> list[tuple[str, str | None, str]]:
    from core_runtime.tables import read_table

    table = read_table(path)
    file_column = table.column("file", "filename", "image", "path")
    label_column = table.column("label", "class", "target", required=False)
    part_column = table.column("part", "split", "set", required=False)
    assert file_column is not None
    rows: list[tuple[str, str | None, str]] = []
    for row in table:
        name = row[file_column]
        if name is None:
            raise UserError(f"{path}, line {row.line}: no file is named", "each row names a file")
        part = row.get(part_column) or ""
        if part and part.lower() not in _PART_NAMES:
            raise UserError(
                f"{path}, line {row.line}: {part!r} is not a part", f"parts are {', '.join(PARTS)}, or an empty cell"
            )
        rows.append((name, row.get(label_column), _PART_NAMES.get(part.lower(), "")))
    if table.left_out:
        raise UserError(table.account(), "mend these rows")
    if not rows:
        raise UserError(f"{path} has no rows", "each row names a file and its label")
    return rows


def _npz(path: Path, how: ImageSetOptions) -> ImageSet:
    """MedMNIST's keys (train_images, train_labels …), or one pair of images and labels."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}", "an .npz holds arrays of numbers, no objects") from None
    pairs = _pairs(path, arrays)
    images, labels, parts, names = [], [], [], []
    for part, key, label_key in pairs:
        values = arrays[key]
        images.append(values)
        given = np.full((len(values), 1), UNKNOWN)
        if label_key:
            given = arrays[label_key].reshape(len(arrays[label_key]), -1)
        if len(given) != len(values):
            raise UserError(f"{path}: {len(values)} {key}, but {len(given)} {label_key}")
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
    if any(label != int(label) or label < UNKNOWN for label in labels):
        raise UserError(f"{path}: labels must be whole numbers from 0")
    numbers = tuple(int(label) for label in labels)
    count = max(numbers) + 1
    if names is None:
        return tuple(str(number) for number in range(count)), numbers
    if len(names) < count:
        raise UserError(f"{len(names)} --class-names were given, {path} has labels up to {count - 1}")
    return tuple(names), numbers


def _cifar(root: Path) -> ImageSet:
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


def _sprite(path: Path, how: ImageSetOptions) -> ImageSet:
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


def set_fingerprint(images: ImageSet) -> str:
    """One digest of images, labels and parts."""
    content = [images.names, images.labels, images.parts, images.classes, images.digests]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


__all__ = ["PARTS", "UNKNOWN", "ImageSet", "ImageSetOptions", "is_cifar", "open_images", "set_fingerprint", "to_8_bits"]
