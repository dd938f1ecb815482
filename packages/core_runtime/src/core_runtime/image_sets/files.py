"""Images that are files: class folders, and tables of files with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core_runtime.errors import UserError, counted, few
from core_runtime.identity import is_own_output
from core_runtime.image_sets.image_set import PART_NAMES, PARTS, UNKNOWN, ImageSet
from core_runtime.pictures import ENDINGS, find_pictures


def read_folders(root: Path, *, need_classes: bool = True) -> ImageSet:
    """Class folders, also below folders of parts; or pictures without classes. A folder that wraps all this is looked into.

    Args:
        root: the folder.
        need_classes: refuse class folders without an image and classes that only some parts have. Off, empty folders are passed over, with a note.

    Raises:
        UserError: there is no image, a class folder holds none, or the folders of the parts differ.
    """
    given_root, notes = root, []
    while (inside := _wrapped_by(root)) is not None:
        root = inside
    if root != given_root:
        notes.append(f"{root.relative_to(given_root)} of {given_root.name} is read: nothing else there holds classes")
    parts = {"": root}
    below = {folder.name: folder for folder in _folders_in(root)}
    if below and all(name.lower() in PART_NAMES for name in below):
        parts = {}
        for name, folder in below.items():
            part = PART_NAMES[name.lower()]
            if part in parts:
                raise UserError(f"{root} holds two folders of the part {part!r}: {name} and {parts[part].name}")
            parts[part] = folder
    classes: list[str] = []
    for part in sorted(parts, key=lambda part: part != "train"):
        for folder in _folders_in(parts[part]):
            if folder.name not in classes:
                classes.append(folder.name)
                if need_classes and "train" in parts and part not in ("", "train"):
                    raise UserError(
                        f"{parts[part]} holds the class {folder.name!r}, which {parts['train']} has not",
                        "the folders of all parts must have the same names of classes",
                    )
    classes.sort()
    if not classes:
        return _unsorted(root)
    files, labels, given = [], [], []
    passed_over: list[str] = []
    for part, folder in parts.items():
        loose = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
        if loose:
            noun = "picture is" if len(loose) == 1 else "pictures are"
            notes.append(f"{folder.name}: {len(loose)} {noun} in no class folder and left out")
        for class_folder in _folders_in(folder):
            try:
                members = find_pictures(class_folder)
            except UserError:
                if not need_classes:
                    passed_over.append(f"the folder {class_folder} holds no image and is passed over")
                    continue
                raise UserError(
                    f"the class folder {class_folder} holds no image", "remove it, or put images into it"
                ) from None
            files += members
            labels += [classes.index(class_folder.name)] * len(members)
            given += [part] * len(members)
    if not files:
        return _unsorted(root, passed_over)  # folders without a picture, beside pictures in none
    names = tuple(file.relative_to(root).as_posix() for file in files)
    return ImageSet(
        root, "folder", tuple(classes), names, tuple(labels), tuple(given), tuple(files), notes=(*notes, *passed_over)
    )


def _unsorted(root: Path, notes: Sequence[str] = ()) -> ImageSet:
    """The pictures at a folder, without classes.

    Raises:
        UserError: there is none.
    """
    files = find_pictures(root)
    names = tuple(file.relative_to(root).as_posix() for file in files)
    unknown, nowhere = (UNKNOWN,) * len(files), ("",) * len(files)
    return ImageSet(root, "pictures", (), names, unknown, nowhere, tuple(files), notes=tuple(notes))


def _wrapped_by(root: Path) -> Path | None:
    """The only folder in `root`, if it holds folders and no picture of its own: then it is no class, but what was packed or downloaded."""
    folders = _folders_in(root)
    if len(folders) != 1 or folders[0].name.lower() in PART_NAMES:
        return None
    (inside,) = folders
    if not _folders_in(inside) or any(file.suffix.lower() in ENDINGS for file in inside.iterdir()):
        return None
    return inside


def _folders_in(path: Path) -> list[Path]:
    folders = []
    for folder in path.iterdir():
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if not is_own_output(folder) and not _holds_outputs_alone(folder):
            folders.append(folder)
    return sorted(folders)


def _holds_outputs_alone(folder: Path) -> bool:
    """Whether a folder was made by an earlier run, which wrote its results among the images."""
    if not (folder / ".made").is_dir():
        return False
    return all(is_own_output(path) for path in folder.iterdir() if not path.name.startswith("."))


def read_table_of_files(path: Path) -> ImageSet:
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
        raise UserError(f"{path} names {counted(len(twice), 'file')} twice: {few(twice)}", "each image has one row")
    return ImageSet(path, "table", tuple(classes), names, numbers, tuple(parts), tuple(files))


def _list_lines(path: Path) -> list[tuple[str, str | None, str]]:
    part = ""
    for name in PART_NAMES:
        if path.stem.lower().endswith(name):
            part = PART_NAMES[name]
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
        if part and part.lower() not in PART_NAMES:
            raise UserError(
                f"{path}, line {row.line}: {part!r} is not a part", f"parts are {', '.join(PARTS)}, or an empty cell"
            )
        rows.append((name, row.get(label_column), PART_NAMES.get(part.lower(), "")))
    if table.left_out:
        raise UserError(table.account(), "mend these rows")
    if not rows:
        raise UserError(f"{path} has no rows", "each row names a file and its label")
    return rows
