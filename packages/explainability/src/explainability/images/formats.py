"""Which files are pictures, and how they lie in folders. Imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import UserError
from core_runtime.identity import is_own_output

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\x00", b"MM\x00*")


def claim(path: Path) -> Claim | None:
    """A plain picture, or a folder of them by class: with little certainty, since other fields know better what is on it."""
    if path.is_dir():
        classes = class_folders(path)
        parts = [folder for folder in classes if folder.name in ("train", "val", "test")]
        if "train" in {folder.name for folder in parts}:
            classes = class_folders(path / "train")
            if len(classes) >= 2 and all(any(_is_picture(file) for file in folder.iterdir()) for folder in classes):
                return Claim(
                    "pictures by class, in parts",
                    0.4,
                    f"{len(parts)} parts, {len(classes)} folders of pictures in train",
                )
            return None
        if len(classes) >= 2 and all(any(_is_picture(file) for file in folder.iterdir()) for folder in classes):
            return Claim("pictures by class", 0.2, f"{len(classes)} folders of pictures")
        return None
    if _is_picture(path) and _has_signature(path):
        return Claim("picture", 0.2, "any picture can be explained to a model")
    return None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _has_signature(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(SIGNATURES)
    except OSError:
        return False


def class_folders(folder: Path) -> list[Path]:
    """The folders of classes, by name; results of earlier runs are none."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(path for path in folders if not is_own_output(path))


def find_images(path: Path) -> list[Path]:
    """The picture itself, or all below a folder in the order of their paths; results of earlier runs are none.

    Raises:
        UserError: there is none.
    """
    from core_runtime.pictures import find_pictures

    return find_pictures(path)


def find_classes(folder: Path) -> dict[str, Sequence[Path]]:
    """Class → its pictures, of a folder with a folder per class. The number of a class is its place in this order.

    Raises:
        UserError: not such a folder, fewer than two classes, or a class without pictures; it is named.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", "give a folder with a folder of pictures per class")
    classes = {}
    for place in class_folders(folder):
        classes[place.name] = sorted(file for file in place.iterdir() if _is_picture(file))
    if len(classes) < 2:
        raise UserError(
            f"{folder} holds {len(classes)} class folders; needs at least two",
            "put the pictures of each class into a folder of its own",
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise UserError(f"{folder}: no pictures in class {', '.join(empty)}", "add pictures or remove the folder")
    return classes


def parts_of(folder: Path) -> tuple[Path, Path | None]:
    """The training part and, where there is one, the validation part: ``train`` and ``val`` inside, or the folder itself."""
    if (folder / "train").is_dir():
        validation = folder / "val"
        return folder / "train", validation if validation.is_dir() else None
    return folder, None
