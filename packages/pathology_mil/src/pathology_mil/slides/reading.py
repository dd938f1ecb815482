"""Whole slides: opening them, their resolution, and reading pixels from them.

Everything outside this file uses level-0 pixels: origin top left, x to the right, y down.
"""

import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from core_runtime.errors import UserError, few
from core_runtime.pictures import DAMAGED
from core_runtime.tables import Table, read_table
from core_runtime.terminal import note
from pathology_mil.slides.formats import SLIDE_SUFFIXES
from pathology_mil.slides.resolution import resolution

RGB = NDArray[np.uint8]

# A whole level up to this size is read in one call; anything larger is read in blocks.
WHOLE_PIXELS = 16_000_000
# A plain image (PNG, JPEG) must be decoded whole: beyond this size, a pyramidal file is the better choice.
PLAIN_PIXELS = 400_000_000
_BLOCK = 2048


class Slide:
    """An open slide; a context manager.

    Args:
        path: a file that OpenSlide opens, or a plain image.
        mpp: its resolution in µm per pixel, where the file does not state it or states it wrongly.
        mpp_keys: further properties of the file to look for the resolution in.

    Attributes:
        levels: (width, height) of each pyramid level.
        downsamples: (x, y) scale of each level against level 0, as the ratio of their sizes.
        mpp: µm per pixel of level 0, or None.
        axes: µm per pixel along x and y, where the file states that its pixels are not square.
        conflict: the resolutions of a file that states two of them.
        bad_regions: number of reads that failed and were answered with background.

    Raises:
        UserError: there is no such file, it is not a slide, or it is damaged.
    """

    def __init__(self, path: Path | str, *, mpp: float | None = None, mpp_keys: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self._handle = _open(self.path)
        self._lock = threading.Lock()
        self.bad_regions = 0
        self.properties: dict[str, str] = dict(self._handle.properties)
        self.levels: list[tuple[int, int]] = [(int(w), int(h)) for w, h in self._handle.level_dimensions]
        width, height = self.levels[0]
        # from the sizes, not as stated: converters round, and state one factor for both axes
        self.downsamples = [(width / w, height / h) for w, h in self.levels]
        scan = resolution(self.properties, mpp=mpp, mpp_keys=mpp_keys)
        self.mpp, self.mpp_source, self.axes, self.conflict = scan.mpp, scan.source, scan.axes, scan.conflict
        color = self.properties.get("openslide.background-color", "FFFFFF")
        red, green, blue = (int(color[i : i + 2], 16) for i in (0, 2, 4))
        self.background = np.array([red, green, blue], np.float32)

    @property
    def slide_id(self) -> str:
        """The file's name without its extension: the name under which its tiles and features are stored."""
        return self.path.stem

    @property
    def other_images(self) -> list[str]:
        """Pictures beside the scan: label, macro, thumbnail."""
        return sorted(self._handle.associated_images)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.levels[0]

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def known_mpp(self) -> float:
        """The resolution, for work that needs one.

        Raises:
            UserError: neither the file nor the user states it.
        """
        if self.axes is not None:
            x, y = self.axes
            raise UserError(
                f"{self.path.name}: its pixels are not square ({x:g} × {y:g} µm), so that tiles would be distorted",
                f"resample it, or treat them as square with --slide-mpp {x:g}",
            )
        if self.conflict:
            raise UserError(
                f"{self.path.name}: the file states two resolutions: {self.conflict}",
                "--slide-mpp says which one is right",
            )
        if self.mpp is None:
            raise UserError(
                f"{self.path.name}: the file states neither a resolution (mpp) nor a magnification",
                "give it with --slide-mpp 0.25 (µm per pixel of the scan) or --slide-mag 40 (its objective)",
            )
        return self.mpp

    def best_level(self, downsample: float) -> int:
        """The coarsest level that is no coarser than 1.1 times a downsample: downsamples such as 4.0003 count as 4."""
        usable = [level for level, (dx, _) in enumerate(self.downsamples) if dx <= 1.1 * downsample]
        return max(usable, key=lambda level: self.downsamples[level][0], default=0)

    def nearest_level(self, downsample: float) -> int:
        """The level whose downsample is nearest to a given one."""
        return min(range(len(self.levels)), key=lambda level: abs(self.downsamples[level][0] - downsample))

    def read(self, x: int, y: int, *, level: int = 0, width: int, height: int) -> RGB:
        """A region as (height, width, 3) uint8; x and y in level-0 pixels, width and height in those of `level`.

        Pixels outside the slide, or never scanned, have the slide's background colour. A region that cannot be decoded
        is all background and counted in `bad_regions`.
        """
        try:
            image = self._handle.read_region((int(x), int(y)), level, (width, height))
        except (openslide.OpenSlideError, OSError, ValueError, SyntaxError):
            # OpenSlide's error state sticks to the handle, so another region may have caused it: once more, with a fresh one.
            with self._lock:
                self._handle = _open(self.path)
                try:
                    image = self._handle.read_region((int(x), int(y)), level, (width, height))
                except (openslide.OpenSlideError, OSError, ValueError, SyntaxError):
                    self._handle = _open(self.path)
                    self.bad_regions += 1
                    return np.broadcast_to(self.background.astype(np.uint8), (height, width, 3)).copy()
        rgba = np.asarray(image)
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        # blended, not cut off: at the border of the scan pixels are partly transparent
        share = alpha.astype(np.float32) / 255
        return np.rint(rgba[..., :3] * share + self.background * (1 - share)).astype(np.uint8)

    def read_tile(self, x: int, y: int, *, side: int, size: int) -> RGB:
        """The square of `side` level-0 pixels at (x, y), as (size, size, 3) uint8, read from the level that fits best."""
        level = self.best_level(side / size)
        dx, dy = self.downsamples[level]
        width, height = max(1, round(side / dx)), max(1, round(side / dy))
        tile = self.read(x, y, level=level, width=width, height=height)
        if (height, width) == (size, size):
            return tile
        return resized(tile, size, size)

    def read_level(self, level: int) -> RGB:
        """A whole level; damage costs only the block that it is in."""
        width, height = self.levels[level]
        if width * height <= WHOLE_PIXELS:
            bad_before = self.bad_regions
            image = self.read(0, 0, level=level, width=width, height=height)
            if self.bad_regions == bad_before:
                return image
            self.bad_regions = bad_before  # counted again below, block by block
        image = np.empty((height, width, 3), np.uint8)
        dx, dy = self.downsamples[level]
        # After a failed read the blocks are small, so that little is lost with a damaged one.
        side = 256
        if width * height > WHOLE_PIXELS:
            side = _BLOCK
        for x, y, w, h in _blocks(width, height, side):
            image[y : y + h, x : x + w] = self.read(round(x * dx), round(y * dy), level=level, width=w, height=h)
        return image

    def overview(self, downsample: float) -> RGB:
        """The whole slide at a downsample (≥ 1), put together from blocks: memory grows with the picture, not with the slide."""
        slide_width, slide_height = self.dimensions
        width, height = max(1, round(slide_width / downsample)), max(1, round(slide_height / downsample))
        level = self.best_level(downsample)
        level_width, level_height = self.levels[level]
        if level_width * level_height <= WHOLE_PIXELS:
            return resized(self.read_level(level), width, height)
        dx, dy = self.downsamples[level]
        image = np.empty((height, width, 3), np.uint8)
        step = max(1, int(_BLOCK * dx / downsample))
        for x, y, w, h in _blocks(width, height, step):
            # Edges are rounded, not sizes, so that neighbouring blocks meet without gap or overlap.
            left, right = (round(edge * level_width / width) for edge in (x, x + w))
            top, bottom = (round(edge * level_height / height) for edge in (y, y + h))
            right, bottom = min(level_width, right), min(level_height, bottom)
            block_width, block_height = max(1, right - left), max(1, bottom - top)
            block = self.read(round(left * dx), round(top * dy), level=level, width=block_width, height=block_height)
            image[y : y + h, x : x + w] = resized(block, w, h)
        return image

    @cached_property
    def small(self) -> RGB:
        """A thumbnail for work that needs no detail (pen marks, kind of picture), cached: a huge single level is read whole for it."""
        return self.thumbnail(320)

    def thumbnail(self, max_side: int) -> RGB:
        """The whole slide, no side longer than `max_side`."""
        return self.overview(max(1.0, max(self.dimensions) / max_side))


def resized(image: RGB, width: int, height: int) -> RGB:
    """An image at another size: area-averaged when it shrinks, bilinear when it grows."""
    if image.shape[:2] == (height, width):
        return image
    method = cv2.INTER_LINEAR
    if width <= image.shape[1] and height <= image.shape[0]:
        method = cv2.INTER_AREA  # bilinear would skip pixels and alias
    return cv2.resize(image, (width, height), interpolation=method)  # pyright: ignore[reportReturnType]


def _blocks(width: int, height: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """(x, y, width, height) of squares that cover a picture; those at its right and lower edges are smaller."""
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield x, y, min(side, width - x), min(side, height - y)


def _open(path: Path) -> openslide.AbstractSlide:
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a slide")
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        pass  # perhaps a plain image
    except (openslide.OpenSlideError, UnicodeError) as error:
        raise UserError(f"{path.name}: damaged or incomplete slide ({_first_line(error)})") from error
    return _open_plain(path)


def _open_plain(path: Path) -> openslide.ImageSlide:
    Image.MAX_IMAGE_PIXELS = PLAIN_PIXELS  # Pillow refuses twice as many as a decompression bomb
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's warnings here are an error below, or harmless
            image = Image.open(path)
            if image.width * image.height > PLAIN_PIXELS:
                image.close()
                raise UserError(
                    f"{path.name}: a plain image of {image.width}×{image.height} pixels must be decoded whole",
                    "convert it to a pyramidal tiled TIFF",
                )
            with image:
                if image.mode.startswith(("I", "F")):  # Pillow would cut all values off at 255
                    raise UserError(
                        f"{path.name}: grey values of more than 8 bits: not a picture of stained tissue",
                        "fluorescence and other measurements are not read; convert a scan to 8-bit RGB",
                    )
                return openslide.ImageSlide(image.convert("RGBA"))  # decodes: a truncated image shows here
    except UnidentifiedImageError as error:
        modality = _dicom_modality(path)
        if modality is not None:
            raise UserError(
                f"{path.name}: a DICOM file of modality {modality}, not a whole-slide image (SM)",
                "give a file of a whole-slide DICOM series",
            ) from error
        raise UserError(
            f"{path.name}: not a slide (neither OpenSlide nor Pillow recognises its content)",
            "check that it was copied whole",
        ) from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UserError(f"{path.name}: damaged or unusable image ({_first_line(error)})") from error


def _dicom_modality(path: Path) -> str | None:
    """The modality (CT, MR, SM …) of a DICOM file; None for any other file."""
    with path.open("rb") as file:
        head = file.read(8192)
    if head[128:132] != b"DICM":
        return None
    # Element (0008,0060) in little-endian order, with or without an explicit type.
    match = re.search(rb"\x08\x00\x60\x00(?:CS..)?([A-Z]{2})", head, re.DOTALL)
    if match is None:
        return "unknown"
    return match.group(1).decode()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class SlideFile:
    """A slide to work on, and its resolution where the user or a table gives one."""

    path: Path
    mpp: float | None = None

    @property
    def slide_id(self) -> str:
        return self.path.stem


def find_slides(source: Path | str, *, mpp: float | None = None) -> list[SlideFile]:
    """The slides that a path names: one file, a folder (searched to any depth) or a CSV list, sorted by slide id.

    A CSV needs a column `wsi`, `full_path`, `path` or `slide_id` (paths relative to the CSV; an extension may be missing), and may
    have `mpp`.

    Raises:
        UserError: no such path, a folder without slides, a list of absent files, or two slides of one name.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if source.is_dir():
        slides = []
        for file in source.rglob("*"):
            if file.suffix.lower() in SLIDE_SUFFIXES and file.is_file():
                slides.append(SlideFile(file, mpp))
        if not slides:
            raise UserError(
                f"{source}: no slides in this folder or below it", f"slides end in {', '.join(sorted(SLIDE_SUFFIXES))}"
            )
    elif source.suffix.lower() == ".csv":
        slides = []
        for slide in _read_list(source):
            if slide.mpp is None:  # the list outweighs the option
                slide = replace(slide, mpp=mpp)
            slides.append(slide)
    else:
        slides = [SlideFile(source, mpp)]
    slides.sort(key=lambda slide: (slide.slide_id, str(slide.path)))
    # Outputs are named after slides: two of one name would overwrite each other.
    for one, other in pairwise(slides):
        if one.slide_id == other.slide_id and one.path != other.path:
            raise UserError(
                f"two slides share the name {one.slide_id!r}: {one.path} and {other.path}", "rename one of them"
            )
    return slides


def _read_list(path: Path) -> list[SlideFile]:
    """The slides of a list; rows left out are printed with the reason."""
    table = read_table(path)
    column = table.column("wsi", "full_path", "path", "slide_id", required=False)
    mpp_column = table.column("mpp", required=False)
    if column is None:
        raise UserError(f"{path.name} has none of the columns wsi, full_path, path, slide_id", _columns_hint(table))
    slides: dict[Path, SlideFile] = {}
    missing = []
    for row in table:
        name = row[column]
        if name is None:
            table.leave_out(row, "without a slide")
            continue
        file = _find_file(path.parent / name)
        if file is None:
            missing.append(name)
            continue
        mpp = None
        if mpp_column is not None:
            mpp = table.number(row, mpp_column)
        if mpp is not None and mpp <= 0:
            raise UserError(f"{path.name}: the mpp of {name} is {mpp:g}, not a positive number")
        before = slides.setdefault(file.resolve(), SlideFile(file, mpp))
        if before.mpp != mpp:
            raise UserError(
                f"{path.name}, line {row.line}: {name} is listed twice, with a resolution of {before.mpp} and of {mpp}",
                "a slide has one resolution: remove one of the rows",
            )
    if missing:
        raise UserError(f"{path.name} lists slides that do not exist: {few(missing)}", _columns_hint(table))
    if not slides:
        raise UserError(f"{path.name} lists no slide", table.account())
    notes = list(table.notes)
    if table.left_out:
        notes.append(table.account())
    for text in notes:
        note.print(text, markup=False, soft_wrap=True)
    return list(slides.values())


def _columns_hint(table: Table) -> str:
    return f"its columns are {', '.join(map(repr, table.columns))}; paths are relative to the list"


def _find_file(path: Path) -> Path | None:
    """A file of a list; its ending may be missing."""
    if path.is_file():
        return path
    for suffix in sorted(SLIDE_SUFFIXES):
        file = path.with_name(path.name + suffix)
        if file.is_file():
            return file
    return None
