"""Writing a pyramidal, tiled, JPEG-compressed TIFF that OpenSlide opens, as slide scanners and converters do."""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from core_runtime.folders import writing
from pathology_mil.slides.reading import RGB

TILE = 256
_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_SIZE = {_SHORT: 2, _LONG: 4, _RATIONAL: 8, _ASCII: 1}


def write_pyramid(
    path: Path, image: RGB, *, downsamples: Sequence[int], mpp: float, aperio: bool, quality: int = 85
) -> None:
    """Writes an RGB image with its smaller levels.

    Args:
        path: `.svs` or `.tif`; whole or not at all.
        image: (height, width, 3) uint8, level 0.
        downsamples: of the further levels, ascending whole numbers.
        mpp: µm per pixel of level 0.
        aperio: state the resolution as Aperio scanners do (description with AppMag and MPP) instead of by the TIFF resolution tags.
        quality: of the JPEG compression.
    """
    height, width = image.shape[:2]
    with writing(path) as temporary, temporary.open("wb") as file:
        # Classic TIFF, little-endian: header, then tiles and directories, each directory with the offset of the next.
        file.write(b"II*\0\0\0\0\0")
        link = 4  # the place of the next directory's offset
        for downsample in (1, *downsamples):
            level = image
            if downsample > 1:
                size = (width // downsample, height // downsample)
                level = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            offsets, counts = [], []
            for tile in _encoded_tiles(level, quality):
                offsets.append(file.tell())
                counts.append(len(tile))
                file.write(tile)
            tags: list[tuple[int, int, Sequence[int] | bytes]] = [
                (254, _LONG, [int(downsample > 1)]),
                (256, _LONG, [level.shape[1]]),
                (257, _LONG, [level.shape[0]]),
                (258, _SHORT, [8, 8, 8]),
                (259, _SHORT, [7]),  # JPEG
                (262, _SHORT, [6]),  # YCbCr
                (277, _SHORT, [3]),
                (284, _SHORT, [1]),
                (322, _LONG, [TILE]),
                (323, _LONG, [TILE]),
                (324, _LONG, offsets),
                (325, _LONG, counts),
                (530, _SHORT, [2, 2]),
            ]
            if aperio:
                # OpenSlide knows Aperio files by the first words, and reads AppMag and MPP
                words = (
                    f"Aperio Image Library v12.0.0\r\n{width}x{height} [0,0 {width}x{height}] ({TILE}x{TILE}) -> "
                    f"{level.shape[1]}x{level.shape[0]} JPEG/RGB Q={quality}|AppMag = {10 / mpp:.0f}|MPP = {mpp:.4f}"
                )
                tags.append((270, _ASCII, words.encode() + b"\0"))
            else:
                per_cm = [round(1e7 / (mpp * downsample)), 1000]  # pixels per cm as a fraction of two integers
                tags += [(282, _RATIONAL, per_cm), (283, _RATIONAL, per_cm), (296, _SHORT, [3])]
            link = _write_directory(file, link, sorted(tags, key=lambda tag: tag[0]))


def _encoded_tiles(level: RGB, quality: int):
    """JPEG tiles, row after row; the last ones are filled up by repeating the edge."""
    bgr = np.ascontiguousarray(level[..., ::-1])  # OpenCV's order
    down, right = -level.shape[0] % TILE, -level.shape[1] % TILE
    bgr = cv2.copyMakeBorder(bgr, 0, down, 0, right, cv2.BORDER_REPLICATE)
    for y in range(0, bgr.shape[0], TILE):
        for x in range(0, bgr.shape[1], TILE):
            ok, data = cv2.imencode(".jpg", bgr[y : y + TILE, x : x + TILE], [cv2.IMWRITE_JPEG_QUALITY, quality])
            assert ok
            yield data.tobytes()


def _write_directory(file, link: int, tags: Sequence[tuple[int, int, Sequence[int] | bytes]]) -> int:
    """Writes values and directory at the end of the file, enters its offset at `link`, and returns the place of the next offset."""
    entries = b""
    for tag, kind, values in tags:
        if isinstance(values, bytes):
            data, count = values, len(values)
        else:
            letter = "H" if kind == _SHORT else "I"
            data = struct.pack(f"<{len(values)}{letter}", *values)
            count = len(data) // _SIZE[kind]  # a rational is two numbers
        if len(data) > 4:  # larger values stand elsewhere, at an even offset, and the entry holds that offset
            file.write(b"\0" * (file.tell() % 2))
            place = struct.pack("<I", file.tell())
            file.write(data)
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, count) + place
    file.write(b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(struct.pack("<H", len(tags)) + entries)
    end = file.tell()
    file.write(b"\0\0\0\0")
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(0, 2)
    return end
