"""Tiles of a slide: from a request ("256 pixels at 20×") to coordinates in an HDF5 file that CLAM and TRIDENT read, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from pathology_mil.slides.grids import Coords, contour_grid, global_grid
from pathology_mil.slides.options import TileOptions, Tiling
from pathology_mil.slides.reading import Slide
from pathology_mil.slides.resolution import magnification
from pathology_mil.slides.tissue import Tissue, segment


@dataclass(frozen=True)
class Tiles:
    """The tiles of one slide.

    Attributes:
        slide_id: name of the slide file without extension.
        coords: (N, 2) top left corners, level-0 pixels.
        side: side of a tile in level-0 pixels.
        size: side in pixels at the requested resolution.
        attributes: what the file states besides the coordinates.
        notes: what a user should know about how this was read.
    """

    slide_id: str
    coords: Coords
    side: int
    size: int
    attributes: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def downsample(slide: Slide, options: TileOptions) -> float:
    """Number of level-0 pixels per pixel of a tile, along an axis.

    Raises:
        UserError: the slide's resolution is unknown, or coarser than the requested one by more than a factor of 1.2.
    """
    own = slide.known_mpp()
    # --mpp is a true resolution; --mag is nominal: a 40× scan of 0.23 µm per pixel gives 20× tiles at a factor of exactly 2
    if options.mpp is not None:
        scale = options.mpp / own
        native, target = f"{own:g} µm per pixel", f"{options.mpp:g}"
    else:
        assert options.mag is not None
        objective = magnification(own)
        scale = objective / options.mag
        native, target = f"{objective}×", f"{options.mag:g}×"
    if scale < 1 / 1.2:
        raise UserError(
            f"{slide.path.name} was scanned at {native}: tiles at {target} would be enlarged, not sharper",
            "request a lower magnification (or a larger mpp)",
        )
    return scale


def make_tiles(slide: Slide, tiling: Tiling, tissue: Tissue | None = None) -> tuple[Tiles, Tissue]:
    """Lays the tiles over the tissue of a slide (which is segmented unless it is given)."""
    params = tiling.tiles
    scale = downsample(slide, params)
    if tissue is None:
        tissue = segment(slide, tiling.tissue)
    attributes: dict[str, Any] = {"slide_mpp": slide.mpp, "slide_mpp_source": slide.mpp_source}
    if params.layout == "clam":
        level, size, side = _clam_level(slide, params, scale)
        step = round((params.patch_size - params.overlap) * scale)
        coords = contour_grid(
            tissue,
            dimensions=slide.dimensions,
            side=(side, side),
            step=(step, step),
            contour_fn=params.contour_fn,
            use_padding=params.use_padding,
        )
        if params.unique and len(coords):
            _, first = np.unique(coords, axis=0, return_index=True)
            coords = coords[np.sort(first)]  # back in CLAM's order, which unique() does not keep
        attributes |= clam_attributes(slide, patch_level=level, patch_size=size)
        attributes["patch_size_level0"] = side
    else:
        side = round(params.patch_size * scale)
        if params.mpp is None and params.mag:  # TRIDENT rounds down here
            side = int(params.patch_size * magnification(slide.known_mpp()) // params.mag)
        # rounded one by one, since the overlap must be a whole number of pixels, too
        step = round(params.patch_size * scale) - round(params.overlap * scale)
        coords = global_grid(
            tissue,
            dimensions=slide.dimensions,
            side=side,
            step=max(1, step),
            min_tissue=params.min_tissue,
            holes=not params.keep_holes,
        )
        objective: Any = "None"  # TRIDENT's word for what is not known
        if slide.known_mpp() < 2.4:
            objective = magnification(slide.known_mpp())
        attributes |= {
            "patch_size": params.patch_size,
            "patch_size_level0": side,
            "level0_magnification": objective,
            "target_magnification": params.mag if params.mag is not None else "None",
            "overlap": params.overlap,
            "name": slide.slide_id,
            "level0_width": slide.dimensions[0],
            "level0_height": slide.dimensions[1],
        }
    if params.mpp is not None:
        attributes["target_mpp"] = params.mpp
    return Tiles(slide.slide_id, coords, side, params.patch_size, attributes), tissue


def _clam_level(slide: Slide, params: TileOptions, scale: float) -> tuple[int, int, int]:
    """The pyramid level, the size on it and the level-0 side with which CLAM's own reader gets the same tile.

    That reader multiplies the size by the truncated downsample of the level. Where the product is not the side, level 0 is used.
    """
    side = round(params.patch_size * scale)
    level = slide.best_level(scale)
    if int(slide.downsamples[level][0]) * params.patch_size == side:
        return level, params.patch_size, side
    return 0, side, side


def clam_attributes(slide: Slide, *, patch_level: int, patch_size: int) -> dict[str, Any]:
    """The attributes that CLAM stores with the coordinates (without `save_path`, which depends on the machine)."""
    return {
        "patch_size": patch_size,
        "patch_level": patch_level,
        "downsample": list(slide.downsamples[patch_level]),
        "downsampled_level_dim": list(slide.levels[patch_level]),
        "level_dim": list(slide.levels[patch_level]),
        "name": slide.slide_id,
    }


def write_tiles(path: Path, tiles: Tiles) -> None:
    """Writes tiles as CLAM and TRIDENT do: dataset `coords` (N, 2) int64 with attributes; whole or not at all."""
    clam = "patch_level" in tiles.attributes
    folder_attribute = "save_path"
    if "patch_size_level0" in tiles.attributes and not clam:
        folder_attribute = "savetodir"  # TRIDENT's name for it
    rows = 1 if clam else 4096  # one row per chunk, as CLAM has, costs seconds on 100,000 tiles
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_dataset("coords", data=tiles.coords.astype(np.int64), maxshape=(None, 2), chunks=(rows, 2))
        for key, value in {**tiles.attributes, folder_attribute: str(path.parent)}.items():
            data.attrs[key] = "None" if value is None else value


def read_tiles(path: Path) -> Tiles:
    """Reads the coordinates of a CLAM, TRIDENT, or feature file.

    Raises:
        UserError: not an HDF5 file, damaged, or without coordinates.
    """
    with open_h5(path) as file:
        coords = read_coords(file, path.name)
        attributes = plain_attributes(file["coords"].attrs)
    side, notes = level0_side(attributes, coords, path.name)
    if side is None:
        raise UserError(f"{path.name}: neither attributes nor coordinates tell the size of a tile")
    name = attributes.get("name")
    slide_id = path.stem.removesuffix("_patches")
    if name not in (None, ""):
        slide_id = str(name)
    size = side
    if "patch_size" in attributes:
        size = _pixels(attributes, "patch_size", path.name)
    return Tiles(slide_id, coords, side, size, attributes, notes)


def read_coords(group: h5py.Group, where: str) -> Coords:
    """The dataset `coords` of a file or group, (N, 2) int64; older files hold (1, N, 2).

    Raises:
        UserError: absent, of another shape, or not whole numbers of pixels.
    """
    data = group.get("coords")
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"{where}: no dataset 'coords' of shape (N, 2) in this HDF5 file")
    return checked_coords(np.asarray(data[()]), where)


def checked_coords(values: NDArray, where: str) -> Coords:
    """Corners of tiles, (N, 2) or (1, N, 2), as (N, 2) int64.

    Raises:
        UserError: another shape, or values that are not numbers of pixels.
    """
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.shape[1] != 2:
        raise UserError(f"{where}: 'coords' has the shape {values.shape}, expected (N, 2)")
    # beyond 2**53 a float no longer counts whole pixels, and the conversion to int64 would wrap around
    in_range = values.dtype.kind in "iuf" and np.isfinite(values) & (np.abs(values.astype(np.float64)) < 2**53)
    if not np.all(in_range):
        raise UserError(f"{where}: 'coords' holds values that are not pixels of a slide")
    return values.astype(np.int64)


def _pixels(attributes: Mapping[str, Any], name: str, where: str) -> int:
    """An attribute that is a positive number of pixels.

    Raises:
        UserError: it is not.
    """
    value = attributes[name]
    try:
        pixels = int(value)
    except (TypeError, ValueError, OverflowError):
        pixels = 0
    if not 0 < pixels < 2**31:
        raise UserError(f"{where}: the attribute {name} is {value!r}, expected a number of pixels")
    return pixels


class open_h5:
    """Opens an HDF5 file for reading; a context manager whose errors are one plain line."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> h5py.File:
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise UserError(
                f"{self.path.name}: damaged, or not an HDF5 file", "write it again with --overwrite"
            ) from error
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.file.close()
        # h5py's errors on damage inside the file; of numbers that no type of NumPy holds it raises the last two
        if isinstance(error, (OSError, RuntimeError, KeyError, ValueError, TypeError)) and not isinstance(
            error, UserError
        ):
            raise UserError(f"{self.path.name}: damaged HDF5 file", "write it again with --overwrite") from error


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """HDF5 attributes as Python values; TRIDENT's 'None' as None."""
    plain: dict[str, Any] = {}
    value: Any
    for key, value in attributes.items():
        if isinstance(value, bytes):
            value = value.decode()
        if hasattr(value, "tolist"):  # numpy scalars and arrays
            value = value.tolist()
        plain[key] = None if value == "None" else value
    return plain


def level0_side(
    attributes: Mapping[str, Any], coords: NDArray, where: str = "the file"
) -> tuple[int | None, list[str]]:
    """The side of a tile in level-0 pixels, from TRIDENT's or CLAM's attributes, else guessed from the coordinates (with a note).

    Raises:
        UserError: an attribute is not a positive number.
    """
    if attributes.get("patch_size_level0") is not None:
        return _pixels(attributes, "patch_size_level0", where), []
    if attributes.get("patch_size") is not None and attributes.get("downsample") is not None:
        downsample = attributes["downsample"]
        if isinstance(downsample, list) and downsample:  # CLAM writes one for each axis
            downsample = downsample[0]
        factors = {"downsample": downsample, "custom_downsample": attributes.get("custom_downsample") or 1}
        side = _pixels(attributes, "patch_size", where)
        for name in factors:
            side *= _pixels(factors, name, where)
        return side, []
    if not len(coords):
        return None, []
    # Neighbouring tiles are one step apart; without overlap, that is the side.
    steps = np.concatenate([np.diff(np.unique(coords[:, axis])) for axis in (0, 1)])
    if not len(steps):  # a single tile
        return None, []
    side = int(steps.min())
    return side, [
        f"the file does not state the size of a tile: the smallest step between tiles is taken, {side} pixels"
    ]
