"""Opens a set of images in whatever container it comes."""

from __future__ import annotations

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.image_sets.arrays import is_cifar, read_cifar, read_npz, read_sprite
from core_runtime.image_sets.files import read_folders, read_table_of_files
from core_runtime.image_sets.image_set import HINT, UNKNOWN, ImageSet, ImageSetOptions
from core_runtime.pictures import ENDINGS, open_picture


def open_images(path: Path, how: ImageSetOptions = ImageSetOptions(), *, need_classes: bool = True) -> ImageSet:
    """Opens a set of images, by what the path is.

    Args:
        path: a folder, an ``.npz``, a table, a sprite sheet or a picture.
        how: how arrays and sheets are read.
        need_classes: refuse class folders without an image. Off, they are passed over, with a note.

    Raises:
        UserError: it is none of the containers, holds nothing, or does not say what its images or labels are.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", HINT)
    if path.is_dir():
        if is_cifar(path):
            return read_cifar(path)
        return read_folders(path, need_classes=need_classes)
    ending = path.suffix.lower()
    if ending == ".npz":
        return read_npz(path, how)
    if ending in (".csv", ".tsv", ".txt"):
        return read_table_of_files(path)
    if ending in ENDINGS:
        if how.tile is None:
            picture = open_picture(path)
            return ImageSet(path, "pictures", (), (path.name,), (UNKNOWN,), ("",), (path,), notes=picture.notes)
        return read_sprite(path, how)
    raise UserError(f"{path} is not a set of images", HINT)
