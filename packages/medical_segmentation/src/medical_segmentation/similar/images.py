"""Labelled images: folders of classes, CSV and list files, MedMNIST archives. Imports nothing heavy at the top."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.domains import Claim
from core_runtime.errors import UserError, counted, few
from core_runtime.identity import is_own_output
from core_runtime.terminal import warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PARTS = ("train", "val", "test")
HINT = "a folder of class folders, a table with columns path and label, or a MedMNIST .npz"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their classes.

    Attributes:
        source: file or folder.
        layout: in words.
        names: of the images: paths below the folder, or part and number in an archive.
        labels: class number of each image; empty where there are none.
        classes: names.
        parts: "train", "val" or "test" of each image where the source says so; else "".
        arrays: the images of an archive by part; None for files.
    """

    source: Path
    layout: str
    names: Sequence[str]
    labels: Sequence[int]
    classes: Sequence[str]
    parts: Sequence[str]
    arrays: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, part: str) -> list[int]:
        """The images of a part."""
        return [number for number, own in enumerate(self.parts) if own == part]

    def read(self, number: int) -> NDArray[np.uint8]:
        """An image as red, green and blue (rows, columns, 3).

        Raises:
            UserError: it cannot be read.
        """
        import numpy as np

        name = self.names[number]
        if self.arrays is not None:
            part, place = name.rsplit(" ", 1)
            pixels = self.arrays[part][int(place)]
            return np.ascontiguousarray(np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels)
        root = self.source if self.source.is_dir() else self.source.parent
        return read_picture(root / name)


def image_digest(images: ImageSet, number: int) -> str:
    """What tells the pixels of an image from others, whatever it is called and wherever it lies."""
    pixels = images.read(number)
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:12]


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture, a DICOM image or a NIfTI slice as red, green and blue.

    Raises:
        UserError: it cannot be read.
    """
    import numpy as np

    if path.suffix.lower() in PICTURES:
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(path) as picture:
                turned = ImageOps.exif_transpose(picture)
                if turned.mode in ("I;16", "I", "F"):
                    values = np.asarray(turned, dtype=np.float32)
                    span = max(float(values.max() - values.min()), 1e-6)
                    turned = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
                if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
                    turned = turned.convert("RGBA")
                    # what is transparent was never drawn: white, not whatever colour lies below
                    turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
                return np.array(turned.convert("RGB"))
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} cannot be read: {error}", "copy or export it again") from None
    from medical_segmentation.volumes.formats import is_volume

    if not is_volume(path):
        raise UserError(f"{path} is no image that can be read", HINT)
    from medical_segmentation.volumes.opening import open_volume
    from medical_segmentation.volumes.volume import require_image, require_single

    volume = require_single(require_image(open_volume(path), path), path)
    return slice_picture(volume.array, volume.array.shape[2] // 2)


def slice_picture(array: NDArray, k: int) -> NDArray[np.uint8]:
    """A slice of a volume (x, y, z) as red, green and blue, from its 0.5th to its 99.5th percentile."""
    import numpy as np

    values = array[:, :, k].T.astype(np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    grey = (np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255).astype(np.uint8)
    return np.stack([grey] * 3, -1)


def claim(path: Path) -> Claim | None:
    """How sure it is that a path holds labelled images of ours."""
    if path.suffix.lower() == ".npz" and path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        if {"train_images.npy", "train_labels.npy"} <= names:
            return Claim("MedMNIST archive", 0.9, "train_images beside train_labels")
    return None


def find_images(path: Path) -> ImageSet:
    """The images at a path.

    Raises:
        UserError: nothing is there that can be read.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", HINT)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".npz":
        return _archive(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table(path)
    if path.suffix.lower() == ".txt":
        return _list(path)
    if path.suffix.lower() in PICTURES:
        read_picture(path)
        return ImageSet(path, "one picture", [path.name], [], [], [""])
    raise UserError(f"{path} is no image or data set that can be read", HINT)


def _archive(path: Path) -> ImageSet:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}", "download it again") from None
    images = {part: arrays[f"{part}_images"] for part in PARTS if f"{part}_images" in arrays}
    if not images or any(f"{part}_labels" not in arrays for part in images):
        raise UserError(f"{path} has no train_images and train_labels, as MedMNIST archives have", HINT)
    names, labels, parts = [], [], []
    for part, pixels in images.items():
        own = arrays[f"{part}_labels"]
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or len(own) != len(pixels):
            raise UserError(f"{path}: {part}_images are {pixels.dtype} {pixels.shape} for {len(own)} labels", HINT)
        if own.ndim == 2 and own.shape[1] > 1:
            raise UserError(
                f"{path}: images have {own.shape[1]} labels each, one is needed",
                "choose a set with one class per image",
            )
        if not bool((own == np.round(own)).all()) or float(own.min(initial=0)) < 0:
            raise UserError(f"{path}: {part}_labels are not whole numbers from 0", HINT)
        names += [f"{part} {place}" for place in range(len(pixels))]
        labels += [int(each) for each in own.ravel()]
        parts += [part] * len(pixels)
    classes = [str(number) for number in range(max(labels) + 1)]
    return ImageSet(path, "MedMNIST archive", names, labels, classes, parts, images)


def _is_image(file: Path) -> bool:
    """A picture, or a volume whose middle slice is one; no side-car of a Mac."""
    from medical_segmentation.volumes.formats import is_volume

    if file.name.startswith(".") or not file.is_file():
        return False
    return file.suffix.lower() in PICTURES or is_volume(file)


def _folder(root: Path) -> ImageSet:
    """Class folders, perhaps below train, val and test; or pictures without classes."""
    rows: list[tuple[str, str, str]] = []
    tops = [part for part in PARTS if (root / part).is_dir()]
    for part in tops or [""]:
        base = root / part if part else root
        for folder in sorted(
            each
            for each in base.iterdir()
            if each.is_dir() and not each.name.startswith(".") and not is_own_output(each)
        ):
            for file in sorted(folder.rglob("*")):
                if file.suffix.lower() in PICTURES and not file.name.startswith("."):
                    rows.append((str(file.relative_to(root)), folder.name, part))
    if not rows:
        files = sorted(file for file in root.iterdir() if file.is_file() and not file.name.startswith("."))
        names = [file.name for file in files if _is_image(file)]
        others = [file.name for file in files if file.name not in set(names) and not is_own_output(file)]
        if names and others:
            warn(f"{counted(len(others), 'file')} left out, no images that can be read: {few(others)}")
        if not names:
            archives = sorted(root.glob("*.npz"))
            if len(archives) == 1:
                return _archive(archives[0])
            raise UserError(f"{root} holds no images", HINT)
        return ImageSet(root, "pictures without classes", names, [], [], [""] * len(names))
    return _rows(root, "class folders", rows)


def _table(path: Path) -> ImageSet:
    from core_runtime.tables import read_table

    table = read_table(path)
    place, label = table.column("path", "file", "image"), table.column("label", "class", "diagnosis")
    part = table.column("split", "part", required=False)
    rows = []
    for row in table.rows:
        name, own = row.get(place), row.get(label)
        if name is None or own is None:
            table.leave_out(row, "no path or label")
            continue
        if not (path.parent / name).is_file():
            raise UserError(f"{path}: line names {name}, which is not there", "paths are relative to the table")
        rows.append((name, own, row.get(part) or ""))
    return _rows(path, "table", rows)


def _list(path: Path) -> ImageSet:
    """``image_id class_id path`` of the published code; NAME_train.txt has its NAME_test.txt beside it."""
    rows = []
    files = [(path, "")]
    for word, other in (("train", "test"), ("test", "train")):
        sibling = path.with_name(path.name.replace(f"_{word}.", f"_{other}."))
        if f"_{word}." in path.name:
            files = [(path, word)] + ([(sibling, other)] if sibling.is_file() else [])
    for file, part in files:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines or lines[0].split()[:3] != ["image_id", "class_id", "path"]:
            raise UserError(f"{file} does not begin with 'image_id class_id path'", HINT)
        for number, line in enumerate(lines[1:], 2):
            words = line.split(maxsplit=2)
            if len(words) != 3:
                raise UserError(
                    f"{file}, line {number}: three columns are needed, this has {len(words)}", "correct the line"
                )
            rows.append((words[2], words[1], part))
    return _rows(path, "list", rows)


def _rows(source: Path, layout: str, rows: Sequence[tuple[str, str, str]]) -> ImageSet:
    if not rows:
        raise UserError(f"{source} names no images", HINT)
    numeric = all(label.lstrip("-").isdigit() for _, label, _ in rows)
    classes = sorted({label for _, label, _ in rows}, key=(lambda word: int(word)) if numeric else None)
    number = {name: place for place, name in enumerate(classes)}
    return ImageSet(
        source, layout, [row[0] for row in rows], [number[row[1]] for row in rows], classes, [row[2] for row in rows]
    )


def require_classes(images: ImageSet, numbers: Sequence[int], what: str) -> None:
    """At least two classes with two images each.

    Raises:
        UserError: there are not; names classes with one image.
    """
    from collections import Counter

    if not images.labels:
        raise UserError(f"{images.source} has no classes ({images.layout})", HINT)
    counts = Counter(images.labels[number] for number in numbers)
    usable = [number for number, count in counts.items() if count > 1]
    if len(usable) < 2:
        alone = [images.classes[number] for number, count in counts.items() if count == 1]
        raise UserError(
            f"{images.source}: {what} needs two classes of two images each, it has {len(counts)} classes"
            + (f" ({few(alone)} with one image)" if alone else ""),
            "add images",
        )
