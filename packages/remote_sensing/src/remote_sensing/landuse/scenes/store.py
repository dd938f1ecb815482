"""Tiles decoded once into a memory map, which later runs open at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, writing
from core_runtime.terminal import track
from remote_sensing.landuse.scenes.bands import FILE_ORDER, band_of
from remote_sensing.landuse.scenes.classes import CLASSES
from remote_sensing.landuse.scenes.formats import PICTURES
from remote_sensing.landuse.scenes.layouts import LFS, TileSet
from remote_sensing.landuse.scenes.places import pixel_size


def cache_folder() -> Path:
    """The folder of decoded tiles: below ``$XDG_CACHE_HOME``, or below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "attention-suite" / "eurosat"


def decode(name: str, data: bytes) -> NDArray:
    """(bands, height, width) of one file: uint8 for pictures, the file's own dtype for GeoTIFFs.

    Raises:
        UserError: it holds no pixels, or some without data; it is named.
    """
    if data[: len(LFS)] == LFS:
        raise UserError(f"{name} is a Git LFS pointer, not a picture", "'git lfs pull' in the clone fetches the pixels")
    reader: Callable[[bytes], tuple[NDArray, NDArray[np.bool_]]] = _raster
    if Path(name).suffix.lower() in PICTURES:
        reader = _picture
    try:
        pixels, has_data = reader(data)
    except Exception as error:  # Pillow and GDAL raise errors of many classes for damaged files
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise UserError(
            f"{name} cannot be read: {reason}",
            "the file is damaged or incomplete; download it again",
        ) from None
    refuse_missing(name, has_data)
    return pixels


def refuse_missing(name: str, has_data: NDArray[np.bool_]) -> None:
    """Makes sure that every pixel of a tile holds data: filled with any colour, the empty part would be taken for land or water.

    Raises:
        UserError: some do not.
    """
    missing = 1 - float(has_data.mean())
    if missing:
        raise UserError(
            f"{name}: {missing:.2%} of its pixels hold no data (transparent, or nodata)",
            "leave it out, or fill the gap from another date",
        )


def _picture(data: bytes) -> tuple[NDArray, NDArray[np.bool_]]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would cut all values off at 255
            raise ValueError("its values have more than 8 bits, which pictures of tiles do not have")
        pixels = np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
        return pixels[:3], pixels[3] > 0


def _raster(data: bytes) -> tuple[NDArray, NDArray[np.bool_]]:
    with _opened(data) as raster:
        return raster.read(), raster.dataset_mask() > 0


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """A raster in memory, opened without warnings about missing coordinates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(data) as file, file.open() as raster:
            yield raster


def tile_pixel_size(tiles: TileSet) -> float | None:
    """Metres of a pixel's side: from the first raster; 10 for EuroSAT's pictures, which do not state it; else None."""
    if tiles.is_rgb:
        if tiles.classes == CLASSES:
            return 10.0
        return None
    with _opened(next(iter(tiles.read(tiles.files[:1])))) as raster:
        return pixel_size(raster.transform, raster.crs, raster.height, raster.width)


def _band_order(tiles: TileSet) -> list[int] | None:
    """The position of each band of EuroSAT in the rasters, according to the first of them; None if it does not name its bands.

    Raises:
        UserError: it has other bands, or its values are not reflectances × 10,000.
    """
    name = tiles.files[0]
    with _opened(next(iter(tiles.read(tiles.files[:1])))) as raster:
        if raster.count != len(FILE_ORDER):
            raise UserError(
                f"{tiles.root}: {name} has {raster.count} bands",
                f"the GeoTIFFs of EuroSAT have {len(FILE_ORDER)}, in the order {', '.join(FILE_ORDER)}",
            )
        if raster.dtypes[0].startswith("float") and float(np.nan_to_num(raster.read()).max()) <= 2:
            raise UserError(
                f"{tiles.root}: {name} holds values of 0 to 1",
                "EuroSAT's reflectances are × 10,000: scale the tiles accordingly",
            )
        descriptions = [text or "" for text in raster.descriptions]
    if not any(descriptions):
        return None
    names = [band_of(text) for text in descriptions]
    if set(names) != set(FILE_ORDER):
        shown = ", ".join(map(repr, descriptions[:4]))
        raise UserError(
            f"{tiles.root}: the bands of {name} are called {shown} …, which is not understood",
            f"call them {', '.join(FILE_ORDER)}, or remove the names if they are in this order",
        )
    return [names.index(band) for band in FILE_ORDER]


def decoded(tiles: TileSet, cache: Path | None = None) -> NDArray:
    """All tiles as one read-only memory map (tiles, bands, height, width), decoded on the first call.

    Raises:
        UserError: a file that cannot be read, or with another size or number of bands than the first; it is named.
    """
    key = fingerprint({"root": str(tiles.root.resolve()), "base": tiles.base, "files": _facts(tiles)})
    path = (cache or cache_folder()) / f"{key}.npy"
    if path.exists():
        try:
            return np.load(path, mmap_mode="r")
        except (ValueError, OSError, EOFError):  # cut short, perhaps by a full disk: decode again
            path.unlink()
    first = decode(tiles.files[0], next(iter(tiles.read(tiles.files[:1]))))
    order = None
    if not tiles.is_rgb:
        order = _band_order(tiles)
    with writing(path) as temporary:
        store = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=first.dtype, shape=(len(tiles.files), *first.shape)
        )
        contents = track(tiles.read(tiles.files), "Decoding tiles", len(tiles.files))
        for i, (name, content) in enumerate(zip(tiles.files, contents, strict=True)):
            tile = decode(name, content)
            if tile.shape != first.shape:
                raise UserError(
                    f"{name} is {tile.shape} (bands, height, width), {tiles.files[0]} is {first.shape}",
                    "all tiles must have the same size; remove the others",
                )
            if order is not None:
                tile = tile[order]
            store[i] = tile
        store.flush()
        del store  # closes the map before the file is renamed
    return np.load(path, mmap_mode="r")


def digests(store: NDArray, numbers: Sequence[int] | None = None) -> list[str]:
    """A digest of the pixels of each tile: the same tile in another download, or under another name, is the same."""
    if numbers is None:
        numbers = range(len(store))
    return [hashlib.blake2b(store[number].tobytes(), digest_size=8).hexdigest() for number in numbers]


def _facts(tiles: TileSet) -> list[list[object]]:
    """Names, sizes and times of the files, which tell a changed download."""
    if tiles.archive is not None:
        stat = tiles.archive.stat()
        return [[tiles.archive.name, stat.st_size, stat.st_mtime_ns, len(tiles.files)]]
    facts: list[list[object]] = []
    for name in tiles.files:
        stat = (Path(tiles.base) / name).stat()
        facts.append([name, stat.st_size, stat.st_mtime_ns])
    return facts
