"""The names of the field's files, and how sure this domain is that a file is its own. Imports nothing heavy."""

from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.pictures import DAMAGED

PLAIN_IMAGES = frozenset({".png", ".jpg", ".jpeg"})
SLIDE_SUFFIXES = PLAIN_IMAGES | {
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm",
}  # fmt: skip
# Endings that other fields use as well: the content decides.
_SHARED = {".tif", ".tiff", ".dcm"}
_OURS = SLIDE_SUFFIXES - _SHARED - PLAIN_IMAGES
_ENDINGS = tuple(sorted(SLIDE_SUFFIXES | {".h5", ".hdf5", ".pt"}))
_GEO_KEYS = 34735
_COLOURS = 277  # samples per pixel


def claim(path: Path) -> Claim | None:
    """Slides by their ending, TIFF and DICOM by their content, feature files by their keys, folders by their content."""
    try:
        if path.is_dir():
            return _claim_folder(path)
        return _claim_file(path)
    except OSError:
        return None


def _claim_folder(path: Path) -> Claim | None:
    for slides in (path.glob("*"), path.glob("*/*")):
        first = next((file for file in slides if file.suffix.lower() in _OURS), None)
        if first is not None:
            return Claim("folder of slides", 0.9, f"it holds {first.relative_to(path)}")
    pyramids = [file for file in path.iterdir() if file.suffix.lower() in _SHARED and _claim_file(file)]
    if pyramids:
        return Claim("folder of slides", 0.8, f"it holds {pyramids[0].name}")
    return None


def _claim_file(path: Path) -> Claim | None:
    suffix = path.suffix.lower()
    if not path.is_file():
        return None
    if suffix in _OURS:
        return Claim("whole-slide image", 1.0, f"{suffix} files are slides")
    if suffix in _SHARED:
        return _claim_pyramid(path, suffix)
    if suffix in (".h5", ".hdf5"):
        return _claim_features(path)
    if suffix in PLAIN_IMAGES:
        return Claim("picture, as a small slide", 0.2)
    return None


def _claim_pyramid(path: Path, suffix: str) -> Claim | None:
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    if vendor is None:
        return None
    surest = Claim("whole-slide image", 0.9, f"OpenSlide opens it as {vendor}")
    if suffix == ".dcm" or vendor != "generic-tiff":
        return surest
    # Any tiled TIFF is "generic" to OpenSlide, even a satellite scene; but that has geo keys, or bands that are not colours.
    from PIL import Image

    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            is_map = _GEO_KEYS in tags or tags.get(_COLOURS, 1) not in (3, 4)
    except (*DAMAGED, Image.DecompressionBombError):
        return surest
    if is_map:
        return None
    return Claim("whole-slide image", 0.7, "OpenSlide opens it as a tiled TIFF in colour")


def _claim_features(path: Path) -> Claim | None:
    import h5py

    with h5py.File(path, "r") as file:
        if "features" in file and "coords" in file:
            return Claim("features of a slide", 0.9, "it holds 'features' and 'coords'")
        if "coords" in file:
            return Claim("tiles of a slide", 0.7, "it holds 'coords'")
        first = next(iter(file.values()), None)
        if isinstance(first, h5py.Group) and "feat" in first:
            return Claim("features of slides", 0.9, "its groups hold 'feat'")
    return None


def slide_id(name: str) -> str:
    """The id that a file name in a table stands for: without folder and without the ending of a slide or feature file."""
    name = str(name).strip().replace("\\", "/").rsplit("/", 1)[-1]  # tables of Windows users hold backslashes
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
