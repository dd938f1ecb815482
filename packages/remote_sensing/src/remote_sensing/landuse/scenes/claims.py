"""How sure the group is that a file or folder belongs to it. Imports nothing heavy."""

import re
from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import UserError
from core_runtime.pictures import DAMAGED
from remote_sensing.landuse.scenes.bands import band_of
from remote_sensing.landuse.scenes.classes import CLASSES
from remote_sensing.landuse.scenes.formats import PICTURES, SCENES, SIDE, find_inputs, is_safe, is_scene_folder
from remote_sensing.landuse.scenes.layouts import NoTiles, find_tiles


def claim(path: Path) -> Claim | None:
    """How sure this group is that a file or folder belongs to it."""
    try:
        if path.is_dir():
            return _claim_folder(path)
        return _claim_file(path)
    except OSError:  # it has disappeared, or may not be read
        return None


def _claim_folder(path: Path) -> Claim | None:
    if is_safe(path):
        return Claim("Sentinel-2 product (SAFE)", 1.0, "a folder that ends in .SAFE or holds MTD_MSIL*.xml")
    if is_scene_folder(path):
        return Claim("Sentinel-2 band files", 0.8, "files are named after bands")
    try:
        tiles = find_tiles(path)
    except NoTiles:
        return _claim_pictures(path)
    except UserError:  # class folders that cannot be used: of another field, in all likelihood
        return None
    if tiles.classes == CLASSES:
        return Claim("EuroSAT download", 0.95, f"layout {tiles.layout}, EuroSAT's class folders")
    return Claim("class folders of pictures", 0.3, f"{len(tiles.classes)} folders with pictures")


def _claim_pictures(path: Path) -> Claim | None:
    """A folder of pictures without class folders."""
    try:
        tiles, scenes = find_inputs(path)
    except UserError:
        return None
    return Claim("folder of pictures", 0.2, f"{len(tiles)} small ones, {len(scenes)} large ones")


def _claim_file(path: Path) -> Claim | None:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return _claim_picture(path)
    if suffix in SCENES:
        return _claim_raster(path)
    if suffix == ".zip":
        return _claim_archive(path)
    return None


def _claim_archive(archive: Path) -> Claim | None:
    try:
        tiles = find_tiles(archive)
    except UserError:
        return None
    certainty = 0.3
    if tiles.classes == CLASSES:
        certainty = 0.95
    return Claim("EuroSAT download (.zip)", certainty, f"{len(tiles.classes)} class folders inside")


def _claim_picture(path: Path) -> Claim | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            size = image.size
    except (*DAMAGED, Image.DecompressionBombError):
        return None
    if size != (SIDE, SIDE):
        return None
    return Claim("EuroSAT tile", 0.5, "a picture of 64 × 64 pixels")


def _claim_raster(path: Path) -> Claim | None:
    from remote_sensing.rasters import UNREADABLE, open_raster

    try:
        with open_raster(path) as raster:
            count, names, value = raster.count, raster.descriptions, raster.dtypes[0]
    except UNREADABLE:
        return None
    understood = [name for name in names if name and band_of(name)]
    # the bands of any picture may be called Red, Green, Blue, or Band_1, Band_2, Band_3
    as_sentinel = [name for name in understood if re.match(r"(S2_)?B\d", name, re.IGNORECASE)]
    is_any_picture = value == "uint8" and count <= 4 and len(as_sentinel) < 3
    if len(understood) >= 3 and not is_any_picture:
        return Claim("multispectral scene or tile", 0.9, f"bands named {', '.join(understood[:4])} …")
    if count >= 10:
        return Claim("multispectral scene or tile", 0.7, f"{count} bands")
    return None
