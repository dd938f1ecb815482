"""DARK FACE (Yang et al. 2020): pictures in ``image/``, boxes of faces in ``label/NAME.txt`` (the count, then left top right bottom)."""

from __future__ import annotations

from pathlib import Path

from core_runtime.boxes import BoxedImage, BoxSet, fit_box
from core_runtime.errors import UserError
from core_runtime.pictures import find_pictures
from vision_models.detect.scenes.sizes import upright_size

_HINT = "the first line is the number of faces, each other line: left top right bottom"


def open_darkface(path: Path) -> BoxSet:
    """A DARK FACE download.

    Raises:
        UserError: a label file that cannot be understood, or no labelled picture.
    """
    boxed = []
    notes: dict[str, list[str]] = {}
    for file in find_pictures(path / "image"):
        label = path / "label" / f"{file.stem}.txt"
        if not label.is_file():
            notes.setdefault("pictures without labels, left out", []).append(file.name)
            continue
        size, turned = upright_size(file)
        if turned:
            notes.setdefault("pictures turned upright by their EXIF", []).append(file.name)
        boxes = []
        for row in face_rows(label):
            box, note = fit_box(row, size)
            if note:
                notes.setdefault(note, []).append(file.name)
            if box is not None:
                boxes.append(box)
        count = len(boxes)
        boxed.append(BoxedImage(file.name, file, size, tuple(boxes), (0,) * count, (False,) * count))
    if not boxed:
        raise UserError(f"{path} holds no picture with a label file", "image/NAME.png beside label/NAME.txt")
    return BoxSet(path, "DARK FACE", ("face",), tuple(boxed), notes)


def face_rows(path: Path) -> list[tuple[float, float, float, float]]:
    """The boxes of a label file.

    Raises:
        UserError: the count is not that of the lines, or a line is not four numbers.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(lines[0]) != 1:
            raise ValueError("no count")
        count = int(lines[0][0])
        rows = [tuple(map(float, words)) for words in lines[1:]]
    except (OSError, ValueError, IndexError):
        raise UserError(f"{path} is not a label file of DARK FACE", _HINT) from None
    if len(rows) != count or any(len(row) != 4 for row in rows):
        raise UserError(f"{path}: {count} faces are announced, {len(rows)} lines follow", _HINT)
    return [(row[0], row[1], row[2], row[3]) for row in rows]
