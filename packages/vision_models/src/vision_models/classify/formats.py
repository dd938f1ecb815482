"""Which paths are labelled images or a picture, by name and first bytes. Imports nothing heavy."""

import zipfile
from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.pictures import ENDINGS

_FIRST_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*")
_PARTS = {"train", "training", "val", "valid", "validation", "test"}


def claim(path: Path) -> Claim | None:
    """How sure this group is that a file, or a folder, is its own."""
    try:
        if path.is_dir():
            return _claim_folder(path)
        if path.suffix.lower() == ".npz":
            return _claim_npz(path)
        if path.suffix.lower() in ENDINGS and _is_picture(path):
            return Claim("picture", 0.2, "any picture can be classified")
    except OSError:
        return None
    return None


def _claim_folder(path: Path) -> Claim | None:
    if (path / "batches.meta").is_file() or ((path / "meta").is_file() and (path / "train").is_file()):
        return Claim("CIFAR", 1.0, "it holds CIFAR's batches")
    folders = _folders(path)
    if len(folders) == 1 and not _holds_pictures(folders[0]):  # a folder above the classes, as archives unpack
        folders = _folders(folders[0])
    if folders and all(folder.name.lower() in _PARTS for folder in folders):
        folders = _folders(folders[0])
    pictured = [folder for folder in folders if _holds_pictures(folder)]
    if len(pictured) >= 2 and len(pictured) == len(folders):
        return Claim("class folders of images", 0.5, f"{len(pictured)} folders, each with pictures")
    return None


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _holds_pictures(folder: Path) -> bool:
    return any(file.suffix.lower() in ENDINGS for file in folder.iterdir())


def _claim_npz(path: Path) -> Claim | None:
    try:
        with zipfile.ZipFile(path) as file:
            keys = {name.removesuffix(".npy") for name in file.namelist()}
    except (zipfile.BadZipFile, OSError):
        return None
    if {"train_images", "train_labels"} <= keys:
        return Claim("labelled images (MedMNIST's keys)", 0.9, "it holds train_images and train_labels")
    if "images" in keys and keys & {"labels", "y", "target"}:
        return Claim("labelled images", 0.8, "it holds images and labels")
    return None


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(_FIRST_BYTES)
