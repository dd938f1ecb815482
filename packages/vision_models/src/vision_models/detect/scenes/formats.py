"""Which paths are pictures with boxes, by names and first lines. Imports nothing heavy."""

import json
from pathlib import Path

from core_runtime.domains import Claim

LIST_NAMES = ("imageclasslist.txt", "exdark_imageclasslist.txt")
ANNOTATION_FOLDERS = ("ExDark_Annno", "ExDark_Anno", "ExDark_Annotation")
TOOL_HEADER = "% bbGt version=3"  # first line of ExDark's annotation files
_LIST_HEADER = "name | class | light"
_BEGINNING = 65536  # bytes of a file that a claim reads


def kind_of(path: Path) -> str | None:
    """``ExDark``, ``ExDark list``, ``DARK FACE`` or ``COCO``; None for anything else."""
    if path.is_dir():
        if exdark_folders(path) is not None:
            return "ExDark"
        if (path / "image").is_dir() and (path / "label").is_dir():
            return "DARK FACE"
        if coco_file(path) is not None:
            return "COCO"
        return None
    if path.suffix.lower() == ".txt" and is_list(path):
        return "ExDark list"
    if path.suffix.lower() == ".json" and is_coco(path):
        return "COCO"
    return None


def exdark_folders(path: Path) -> tuple[Path, Path] | None:
    """The folders of images and of annotations of an ExDark download."""
    for name in ANNOTATION_FOLDERS:
        annotations = path / name
        if annotations.is_dir():
            for images in (path / "ExDark", path / "ExDark" / "ExDark"):
                if images.is_dir():
                    return images, annotations
    return None


def is_list(path: Path) -> bool:
    """Whether a text file is ExDark's list of images."""
    try:
        with path.open("rb") as file:
            return file.read(200).decode("utf-8", "ignore").lower().startswith(_LIST_HEADER)
    except OSError:
        return False


def is_coco(path: Path) -> bool:
    """Whether a JSON file is a COCO file of boxes, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(_BEGINNING).decode("utf-8-sig", "ignore").lstrip()
        if not start.startswith("{"):
            return False
        if len(start) < _BEGINNING - 4:
            content = json.loads(start)
            return {"images", "annotations", "categories"} <= content.keys()
    except (OSError, ValueError, RecursionError):
        return False
    return '"images"' in start or '"annotations"' in start or '"categories"' in start


def coco_file(folder: Path) -> Path | None:
    """The one COCO file of a folder."""
    files = [file for file in sorted(folder.glob("*.json")) if is_coco(file)]
    files += [file for file in sorted(folder.glob("annotations/*.json")) if is_coco(file)]
    return files[0] if len(files) == 1 else None


def claim(path: Path) -> Claim | None:
    """How sure this group is that a file, or a folder, is its own."""
    try:
        kind = kind_of(path)
        if kind == "COCO":
            return Claim("pictures with boxes (COCO)", 0.7, "it has images, annotations and categories")
        if kind is not None:
            return Claim(f"low-light pictures with boxes ({kind})", 1.0, f"{kind}'s layout")
        return _claim_picture(path)
    except OSError:
        return None


def _claim_picture(path: Path) -> Claim | None:
    from core_runtime.errors import UserError
    from core_runtime.pictures import ENDINGS, open_picture

    if path.is_dir() or path.suffix.lower() not in ENDINGS:
        return None
    try:
        picture = open_picture(path)
    except UserError:
        return None
    small = picture.image.convert("L").resize((32, 32))
    brightness = sum(small.tobytes()) / 1024
    if brightness < 50:  # of 255: a picture taken in low light
        return Claim("dark picture", 0.4, f"its mean brightness is {brightness:.0f} of 255")
    return Claim("picture", 0.15, "boxes can be found in any picture")
