"""Map sheets and training tiles on disk. Imports nothing heavy."""

from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import UserError

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt", ".img"}
VECTORS = {".gpkg", ".geojson", ".json", ".shp", ".fgb"}


def split_layer(path: Path | str) -> tuple[Path, str | None]:
    """A path and the layer that it names, as QGIS writes it: ``roads.gpkg|layername=railways``."""
    name, _, layer = str(path).partition("|layername=")
    return Path(name), layer or None


def is_vector(path: Path) -> bool:
    """Whether a path (with or without a layer's name) is a vector file by its ending."""
    return split_layer(path)[0].suffix.lower() in VECTORS


def is_tiles(path: Path) -> bool:
    """Whether a folder holds training tiles with labels, in the layout of the Siegfried data set."""
    return (path / "annotation").is_dir()


def find_sheets(path: Path) -> list[Path]:
    """The sheets of a path: a file, or the rasters of a folder except those that this project wrote there.

    Raises:
        UserError: none.
    """
    from core_runtime.identity import is_own_output

    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "give a map sheet (GeoTIFF or picture) or a folder of them")
    known = f"known endings: {', '.join(sorted(SUFFIXES))}"
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path.name} is not a map sheet by its ending", known)
        return [path]
    sheets = [file for file in _rasters(path) if not is_own_output(file)]
    if not sheets:
        raise UserError(f"{path} holds no map sheets", known)
    return sheets


def claim(path: Path) -> Claim | None:
    """What a path is to map sheets: training tiles, sheets, a georeferenced sheet, any picture; never raises."""
    if path.is_dir():
        if is_tiles(path):
            return Claim("map tiles with labels", 0.8, "it holds annotation/ beside its tiles")
        surest: Claim | None = None
        for file in _rasters(path)[:5]:  # a folder may hold thousands
            of_file = claim(file)
            if of_file is not None and (surest is None or of_file.certainty > surest.certainty):
                surest = of_file
        if surest is None:
            return None
        return Claim("folder of map sheets", surest.certainty, f"for example {surest.evidence}")
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    from remote_sensing.rasters import UNREADABLE, open_raster

    try:
        with open_raster(path) as file:
            bands, kind, size, placed = file.count, file.dtypes[0], (file.width, file.height), file.crs is not None
    except (*UNREADABLE, OSError, ValueError):
        return None
    if bands > 4 or kind.startswith("complex"):
        return None
    # what satellite scenes and tiles look like is left to the group for land use
    if size == (64, 64):
        return Claim("picture", 0.1, "of the size of a satellite tile")
    if kind != "uint8" and bands not in (3, 4):
        return Claim("raster", 0.2, f"{bands} bands of {kind}")
    if placed:
        return Claim("georeferenced map sheet", 0.6, "a picture with a coordinate system")
    return Claim("map sheet", 0.2, "a picture")


def _rasters(folder: Path) -> list[Path]:
    """The rasters of a folder by their endings; none where it cannot be read."""
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError:
        return []
