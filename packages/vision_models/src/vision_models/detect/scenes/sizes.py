"""The size of a picture as it is shown, without decoding it."""

import warnings
from pathlib import Path

from core_runtime.errors import UserError

_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 turn by a quarter
LEAST = 15  # side below which FeatEnHancer has no eighth scale


def upright_size(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height after EXIF's rotation, and whether that changes the picture.

    Raises:
        UserError: it is not a picture, or is smaller than a detector can look at.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large pictures, which are refused where they are decoded
            with Image.open(path) as picture:
                width, height = picture.size
                orientation = picture.getexif().get(_ORIENTATION, 1)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{path} is not a picture, or damaged", "remove it or save it again") from None
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return (width, height), orientation not in (0, 1)


def check_size(name: object, size: tuple[int, int]) -> None:
    """Makes sure that a picture is large enough.

    Raises:
        UserError: it is not.
    """
    if min(size) < LEAST:
        raise UserError(
            f"{name} is {size[0]} × {size[1]} pixels, at least {LEAST} × {LEAST} are needed",
            "leave it out or enlarge it",
        )
