"""Screenshots as pictures of 8-bit colour: any mode and depth, upright, whole, of a size that can be worked on."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.pictures import KINDS, Picture, open_picture, read_picture

Screenshot = Picture
_WHAT = "screenshots"


def open_screenshot(path: Path) -> Screenshot:
    """Opens a screenshot, as `core_runtime.pictures.open_picture` does.

    Raises:
        UserError: absent, not a picture, damaged, empty, or of more than 100 megapixels.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", f"give a screenshot ({KINDS})")
    return open_picture(path, what=_WHAT)


def read_screenshot(content: bytes, name: str) -> Screenshot:
    """The same from memory.

    Raises:
        UserError: as `open_screenshot`.
    """
    return read_picture(content, name, what=_WHAT)
