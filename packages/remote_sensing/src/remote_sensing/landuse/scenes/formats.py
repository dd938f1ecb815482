"""Which files are tiles, scenes or downloads, by name and header. Imports nothing heavy."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.identity import is_own_output
from remote_sensing.landuse.scenes.bands import band_of_file

PICTURES = {".jpg", ".jpeg", ".png"}
RASTERS = {".tif", ".tiff"}
SCENES = {".tif", ".tiff", ".jp2"}  # of band files
SIDE = 64  # pixels of a EuroSAT tile
_HINT = "tiles are .jpg, .png or .tif; scenes are GeoTIFF or .SAFE"


def is_safe(path: Path) -> bool:
    """Whether a folder is a Sentinel-2 product."""
    return path.is_dir() and (path.suffix.upper() == ".SAFE" or any(path.glob("MTD_MSIL*.xml")))


def is_scene_folder(path: Path) -> bool:
    """Whether a folder is a SAFE product or holds band files itself."""
    if not path.is_dir():
        return False
    return is_safe(path) or any(is_band_file(file) for file in path.iterdir())


def is_band_file(path: Path) -> bool:
    """Whether a file holds one band, by its name: B02.tif, T32TMT_20220801T101559_B02_10m.jp2."""
    return path.suffix.lower() in SCENES and band_of_file(path.stem) is not None


def find_inputs(path: Path) -> tuple[list[Path], list[Path]]:
    """The tiles and the scenes at a path, told apart by size: a side more than twice as long as a EuroSAT tile's means a scene.

    Outputs of an earlier `predict` are passed over.

    Raises:
        UserError: there is nothing that can be read.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "give tiles, a scene (GeoTIFF) or a .SAFE folder")
    if is_scene_folder(path):
        return [], [path]
    files = [path]
    if path.is_dir():
        files = sorted(_pictures_below(path))
    if not files:
        raise UserError(f"{path} holds no pictures or rasters", _HINT)
    tiles, scenes = [], []
    for file in files:
        if _is_large(file, alone=len(files) == 1):
            scenes.append(file)
        else:
            tiles.append(file)
    return tiles, scenes


def _pictures_below(folder: Path) -> list[Path]:
    """Every picture and raster below a folder, except for our own outputs."""
    files = []
    for path in folder.iterdir():
        if path.name.startswith(".") or is_own_output(path):
            continue
        if path.is_dir():
            files += _pictures_below(path)
        elif path.suffix.lower() in PICTURES | RASTERS:
            files.append(path)
    return files


def _is_large(file: Path, *, alone: bool) -> bool:
    """Whether a picture or raster is a scene; a damaged one among others is called a tile, and named when it is decoded."""
    from remote_sensing.rasters import UNREADABLE, open_raster

    if file.suffix.lower() not in PICTURES | SCENES | {".vrt"}:
        raise UserError(f"{file}: its ending is not that of a picture or raster", _HINT)
    try:
        with open_raster(file) as raster:
            return max(raster.width, raster.height) > 2 * SIDE
    except UNREADABLE as error:
        if alone:
            raise UserError(f"{file} cannot be read: {error}", "the file is damaged or not a raster") from None
        return False
