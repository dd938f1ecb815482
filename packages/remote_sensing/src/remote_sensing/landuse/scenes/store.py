"""Tiles decoded once into a memory map, which every later run opens at once."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, writing
from core_runtime.terminal import track
from remote_sensing.landuse.scenes.bands import FILE_ORDER
from remote_sensing.landuse.scenes.formats import PICTURES
from remote_sensing.landuse.scenes.layouts import LFS, TileSet


def cache_folder() -> Path:
    """Where decoded tiles are kept: ``$XDG_CACHE_HOME/attention-suite``, or that below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention-suite" / "eurosat"


def decode(name: str, data: bytes) -> NDArray:
    """(bands, height, width) of one file: uint8 of pictures, the file's own dtype of GeoTIFFs.

    Raises:
        UserError: no pixels, named.
    """
    if data[: len(LFS)] == LFS:
        raise UserError(f"{name} is a Git LFS pointer, not a picture", "'git lfs pull' in the clone fetches the pixels")
    reader: Callable[[bytes], NDArray] = _picture if Path(name).suffix.lower() in PICTURES else _raster
    try:
        return reader(data)
    except Exception as error:  # Pillow and GDAL raise whatever a damaged file makes them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name} cannot be read: {reason}",
            "the file is damaged or incomplete; download it again",
        ) from None


def _picture(data: bytes) -> NDArray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _raster(data: bytes) -> NDArray:
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(data) as file, file.open() as raster:
            return raster.read()


def decoded(tiles: TileSet, cache: Path | None = None) -> NDArray:
    """All tiles as one read-only memory map (tiles, bands, height, width), decoded on the first call.

    Raises:
        UserError: a file that cannot be read, or of another size or number of bands than the first, named.
    """
    key = fingerprint({"root": str(tiles.root.resolve()), "base": tiles.base, "files": _facts(tiles)})
    path = (cache or cache_folder()) / f"{key}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    first = decode(tiles.files[0], next(iter(tiles.read(tiles.files[:1]))))
    if not tiles.is_rgb and len(first) != len(FILE_ORDER):
        raise UserError(
            f"{tiles.root}: {tiles.files[0]} has {len(first)} bands",
            f"the GeoTIFFs of EuroSAT have {len(FILE_ORDER)}, in the order {', '.join(FILE_ORDER)}",
        )
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
                    "all tiles need one size; leave the others out",
                )
            store[i] = tile
        store.flush()
        del store
    return np.load(path, mmap_mode="r")


def _facts(tiles: TileSet) -> list[list[object]]:
    """Names, sizes and times of the files: what tells a changed download."""
    if tiles.archive is not None:
        stat = tiles.archive.stat()
        return [[tiles.archive.name, stat.st_size, stat.st_mtime_ns, len(tiles.files)]]
    stats = ((f, (Path(tiles.base) / f).stat()) for f in tiles.files)
    return [[f, s.st_size, s.st_mtime_ns] for f, s in stats]
