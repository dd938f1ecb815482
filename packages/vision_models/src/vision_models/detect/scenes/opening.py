"""Opening pictures with boxes, whatever they come as."""

from __future__ import annotations

from pathlib import Path

from core_runtime.boxes import BoxSet, read_coco
from core_runtime.errors import UserError
from vision_models.detect.scenes.darkface import open_darkface
from vision_models.detect.scenes.exdark import open_exdark
from vision_models.detect.scenes.formats import coco_file, kind_of

HINT = "a COCO file or a folder with one, an ExDark folder (ExDark, ExDark_Annno), a DARK FACE folder (image, label)"


def open_boxes(path: Path, images: Path | None = None) -> BoxSet:
    """Pictures with boxes.

    Args:
        path: a COCO file, or a folder with one; an ExDark or a DARK FACE download.
        images: folder of a COCO file's pictures, where it is not beside it.

    Raises:
        UserError: it is none of them, holds nothing, or its files are not understood.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", HINT)
    kind = kind_of(path)
    if kind == "ExDark":
        return open_exdark(path)
    if kind == "DARK FACE":
        return open_darkface(path)
    if kind == "COCO":
        file = coco_file(path) if path.is_dir() else path
        assert file is not None
        return read_coco(file, images)
    if kind == "ExDark list":
        raise UserError(
            f"{path} is ExDark's list alone, without pictures", "give the folder that holds ExDark and ExDark_Annno"
        )
    if path.suffix.lower() == ".json":
        return read_coco(path, images)  # names the field that is missing
    raise UserError(f"{path} holds no pictures with boxes", HINT)
