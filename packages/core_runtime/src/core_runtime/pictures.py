"""Pictures as 8-bit colour: any mode and depth, upright, whole, of a size that can be worked on.

Needs Pillow and NumPy (``attention-suite-core-runtime[pictures]``).
"""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError, few, named
from core_runtime.folders import leave_out_broken_links
from core_runtime.identity import is_own_output
from core_runtime.terminal import warn

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pictures, too, which are not read: left out of a folder with a word.
UNREAD = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw")
KINDS = "PNG, JPEG, WebP, BMP, GIF or TIFF"
# What Pillow raises for damaged files, beside DecompressionBombError: its readers trust the sizes and tags that a file states.
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
)
MOST_PIXELS = 100_000_000  # ten times the largest screens; beyond it a file is a mistake or an attack
_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")  # Pillow's modes of more than 8 bits
_GREY = ("1", "L", "LA", "La", *_DEEP)


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: of its file.
        image: RGB, upright.
        notes: what was done to it or is odd, for the user.
        grey: whether the file holds one channel.
    """

    name: str
    image: "Image"
    notes: tuple[str, ...] = ()
    grey: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size


def open_picture(path: Path, *, what: str = "pictures") -> Picture:
    """Opens a picture.

    Alpha is put on white, 16 bits become 8, CMYK and palettes become RGB, EXIF's rotation is applied, of an animation the first picture is
    taken; each is noted.

    Args:
        path: the file.
        what: what such pictures are called in messages ("screenshots").

    Raises:
        UserError: absent, not a picture, damaged, empty, not finite, or of more than 100 megapixels.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", f"{what} are {KINDS}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return read_picture(content, path.name, what=what)
    except UserError as error:
        raise UserError(named(path, error), error.hint) from None


def read_picture(content: bytes, name: str, *, what: str = "pictures") -> Picture:
    """The same from memory.

    Raises:
        UserError: as `open_picture`.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here
            picture = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:  # by the size that its header says
        raise UserError(
            f"{name} has far more than {MOST_PIXELS // 10**6} megapixels, which is the most that is read",
            "scale it down",
        ) from None
    except DAMAGED:
        raise UserError(f"{name} is not a picture", f"{what} are {KINDS}") from None
    width, height = picture.size
    if width < 1 or height < 1:
        raise UserError(f"{name} is {width} × {height} pixels: it holds nothing")
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name} has {width * height / 1e6:.0f} megapixels, at most {MOST_PIXELS // 10**6} are read",
            "scale it down",
        )
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = getattr(picture, "n_frames", 1)  # reads on in the file
            if frames > 1:
                notes.append(f"it is an animation of {frames} pictures; the first is taken")
            turned = ImageOps.exif_transpose(picture)
            if turned.size != picture.size or picture.getexif().get(0x0112, 1) != 1:
                notes.append("it was turned upright, as its EXIF says")
            image = _as_rgb(turned, name, notes)
    except DAMAGED as error:
        raise UserError(f"{name} is damaged: {error}", "save it again") from None
    return Picture(name, image, tuple(notes), picture.mode in _GREY)


def _as_rgb(picture: Any, name: str, notes: list[str]) -> "Image":
    """8-bit RGB; what changes the look is noted."""
    import numpy as np
    from PIL import Image

    if picture.mode in _DEEP:
        values = np.asarray(picture, np.float64)
        unknown = int((~np.isfinite(values)).sum())
        if unknown:
            raise UserError(f"{name} holds {unknown} pixels that are not finite numbers", "replace them by a value")
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


def find_pictures(path: Path, *, what: str = "pictures") -> list[Path]:
    """The pictures in a folder and its subfolders, hidden ones and our own outputs left out; or the one file.

    Pictures of other formats (HEIC, camera raw) are named in a warning, with their number.

    Raises:
        UserError: nothing is there, or no picture among it.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", f"{what} are {KINDS}")
    if not path.is_dir():
        return [path]
    files = leave_out_broken_links(path, _below(path, ENDINGS))
    unread = _below(path, UNREAD)
    if unread:
        endings = few(sorted({file.suffix.lower() for file in unread}))
        warn(f"{path}: {len(unread)} {what} are left out: {endings} cannot be read, {KINDS} can")
    if not files:
        raise UserError(f"{path} holds no {what}", f"{what} are {KINDS}")
    return sorted(files)


def _below(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of some endings at any depth."""
    files = []
    for path in folder.iterdir():
        if path.name.startswith(".") or is_own_output(path):
            continue
        if path.is_dir():
            files += _below(path, endings)
        elif path.suffix.lower() in endings:
            files.append(path)
    return files


__all__ = ["ENDINGS", "KINDS", "MOST_PIXELS", "Picture", "find_pictures", "open_picture", "read_picture"]
