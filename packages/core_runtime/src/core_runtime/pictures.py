"""Pictures as 8-bit colour: any mode and depth, upright, whole, of a size that can be worked on."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError, named

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 100_000_000  # beyond it a file is a mistake or an attack


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: of its file.
        image: RGB, upright.
        notes: what was done to it or is odd, for the user.
    """

    name: str
    image: "Image"
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size


def open_picture(path: Path) -> Picture:
    """Opens a picture file.

    Alpha is put on white, 16 bits become 8, CMYK and palettes become RGB, EXIF's rotation is applied, of an animation the first picture is
    taken; each is noted.

    Raises:
        UserError: absent, not a picture, damaged, empty, or of more than 100 megapixels.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", "give a picture (PNG, JPEG, WebP, BMP, GIF, TIFF)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return read_picture(content, path.name)
    except UserError as error:
        raise UserError(named(path, error), error.hint) from None


def read_picture(content: bytes, name: str) -> Picture:
    """The same from memory.

    Raises:
        UserError: as `open_picture`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here
            picture = Image.open(io.BytesIO(content))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{name} is not a picture", "pictures are PNG, JPEG, WebP, BMP, GIF or TIFF") from None
    width, height = picture.size
    if width < 1 or height < 1:
        raise UserError(f"{name} is {width} × {height} pixels: it holds nothing")
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name} has {width * height / 1e6:.0f} megapixels, at most {MOST_PIXELS // 10**6} are read",
            "scale it down",
        )
    notes = []
    if getattr(picture, "n_frames", 1) > 1:
        notes.append(f"it is an animation of {getattr(picture, 'n_frames', 1)} pictures; the first is taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turned = ImageOps.exif_transpose(picture)
            if turned.size != picture.size or picture.getexif().get(0x0112, 1) != 1:
                notes.append("it was turned upright, as its EXIF says")
            image = _as_rgb(turned, notes)
    except (OSError, ValueError, SyntaxError, MemoryError, EOFError) as error:
        raise UserError(f"{name} is damaged: {error}", "save it again") from None
    return Picture(name, image, tuple(notes))


def _as_rgb(picture: Any, notes: list[str]) -> "Image":
    """8-bit RGB; what changes the look is noted."""
    import numpy as np
    from PIL import Image

    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(picture, np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        notes.append("16 bits per channel became 8")
        picture = Image.fromarray(np.clip(values * (255 / top), 0, 255).round().astype(np.uint8))
    if picture.mode == "CMYK":
        notes.append("CMYK became RGB without a colour profile")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            notes.append("what is transparent was put on white")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
