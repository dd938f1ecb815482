"""ExDark (Loh and Chan 2019): 7,363 low-light pictures of 12 classes in their native layout.

``ExDark/<Class>/2015_00001.png`` beside ``ExDark_Annno/<Class>/2015_00001.png.txt`` (a tool header, then rows ``Class left top width height``
and seven columns that are not used), and ``imageclasslist.txt`` (name, class, light, in- or outdoor, split).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core_runtime.boxes import BoxedImage, BoxSet, fit_box
from core_runtime.errors import UserError
from core_runtime.pictures import find_pictures
from vision_models.detect.scenes.formats import LIST_NAMES, TOOL_HEADER, exdark_folders
from vision_models.detect.scenes.sizes import upright_size

CLASSES = (
    "Bicycle", "Boat", "Bottle", "Bus", "Car", "Cat", "Chair", "Cup", "Dog", "Motorbike", "People", "Table",
)  # fmt: skip
LIGHTS = ("Low", "Ambient", "Object", "Single", "Weak", "Strong", "Screen", "Window", "Shadow", "Twilight")
PLACES = ("indoor", "outdoor")
PARTS = ("train", "val", "test")
_LIST_HINT = "each line is: name class(1-12) light(1-10) indoor/outdoor(1-2) split(1-3)"
_COLUMNS = "Class left top width height, and seven more columns"


@dataclass(frozen=True)
class Listed:
    """What ExDark's list says of a picture."""

    name: str
    label: str
    light: str
    place: str
    part: str


def read_list(path: Path) -> dict[str, Listed]:
    """ExDark's list, by the name of each picture.

    Raises:
        UserError: a line that is not of the list; its number is given.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as text", _LIST_HINT) from None
    listed: dict[str, Listed] = {}
    columns = (CLASSES, LIGHTS, PLACES, PARTS)
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if not words:
            continue
        values = []
        for word, names in zip(words[1:], columns, strict=False):
            if word.isdigit() and 1 <= int(word) <= len(names):
                values.append(names[int(word) - 1])
        if len(words) != 5 or len(values) != 4:
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not of ExDark's list", _LIST_HINT)
        if words[0] in listed:
            raise UserError(f"{path}, line {number}: {words[0]} is listed twice")
        listed[words[0]] = Listed(words[0], *values)
    if not listed:
        raise UserError(f"{path} lists no pictures", _LIST_HINT)
    return listed


def open_exdark(path: Path) -> BoxSet:
    """An ExDark download.

    Raises:
        UserError: an annotation that cannot be understood, or pictures without annotations.
    """
    folders = exdark_folders(path)
    assert folders is not None
    images, annotations = folders
    listed: Mapping[str, Listed] = {}
    for name in LIST_NAMES:
        for folder in (path, annotations, path / "Groundtruth"):
            if (folder / name).is_file():
                listed = read_list(folder / name)
    boxed = []
    notes: dict[str, list[str]] = {}
    for file in find_pictures(images):
        label = file.parent.name
        annotation = annotations / label / f"{file.name}.txt"
        if not annotation.is_file():
            notes.setdefault("pictures without annotations, left out", []).append(file.name)
            continue
        size, turned = upright_size(file)
        if turned:
            notes.setdefault("pictures turned upright by their EXIF", []).append(file.name)
        boxes, labels = [], []
        for words in annotation_rows(annotation):
            left, top, width, height = map(float, words[1:5])
            # the tool counts pixels from 1
            box, note = fit_box((left - 1, top - 1, left - 1 + width, top - 1 + height), size)
            if note:
                notes.setdefault(note, []).append(file.name)
            if box is not None:
                boxes.append(box)
                labels.append(CLASSES.index(words[0]))
        part = ""
        if listed:
            if file.name in listed:
                part = listed[file.name].part
            else:
                notes.setdefault("pictures that the list does not name, in no part", []).append(file.name)
        name = file.relative_to(images).as_posix()
        boxed.append(BoxedImage(name, file, size, tuple(boxes), tuple(labels), (False,) * len(boxes), part))
    if not boxed:
        raise UserError(f"{path} holds no picture with an annotation", "ExDark/<Class>/ beside ExDark_Annno/<Class>/")
    absent = set(listed) - {image.file.name for image in boxed}
    if absent:
        notes["pictures of the list that are not here"] = sorted(absent)
    return BoxSet(path, "ExDark", CLASSES, tuple(boxed), notes)


def annotation_rows(path: Path) -> list[list[str]]:
    """The rows of an annotation file as words, checked.

    Raises:
        UserError: it has no header of the tool, or a row is not understood.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as text", f"it begins with {TOOL_HEADER!r}") from None
    if not lines or lines[0].strip() != TOOL_HEADER:
        raise UserError(f"{path} does not begin with {TOOL_HEADER!r}", "it is not an annotation of ExDark")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if not words:
            continue
        if words[0] not in CLASSES:
            raise UserError(
                f"{path}, line {number}: {words[0]!r} is not a class of ExDark", f"they are {', '.join(CLASSES)}"
            )
        if len(words) < 5 or not all(_is_number(word) for word in words[1:5]):
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not understood", f"a row is: {_COLUMNS}")
        rows.append(words)
    return rows


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
