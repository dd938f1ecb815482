"""MetaImage by SimpleITK, NRRD by pynrrd, bare arrays, and pictures as slices."""

from __future__ import annotations

import tokenize
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.errors import UserError, few
from medical_segmentation.volumes.formats import PICTURES, is_hidden
from medical_segmentation.volumes.geometry import LPS, Geometry, check_affine, warnings_of
from medical_segmentation.volumes.volume import ReadingOptions, Volume, finish


def read_metaimage(path: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """A .mha or .mhd file.

    Raises:
        UserError: it cannot be read, or is not three- or four-dimensional.
    """
    import SimpleITK as sitk

    _require_data_file(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = _last_line(error)
        if "No such file" in reason:  # of its data, whatever ITK means
            reason = "it is cut, or its header describes other data than it holds"
        raise UserError(f"{path} cannot be read: {reason}", "copy or download it again") from None
    dims = image.GetDimension()
    if dims not in (3, 4):
        raise UserError(f"{path} has {dims} axes: three or four are needed")
    array = sitk.GetArrayFromImage(image)  # z, y, x, and components last
    if dims == 4:
        array = np.moveaxis(array, 0, -1)
    array = np.ascontiguousarray(np.moveaxis(array, (2, 1, 0), (0, 1, 2)))
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return _placed(array, LPS @ affine, "MetaImage", path, options)


def _require_data_file(path: Path) -> None:
    """The file that a header names (ITK says so on a stream of its own, and not which).

    Raises:
        UserError: it is not there.
    """
    with path.open("rb") as file:
        header = file.read(8192).decode("latin-1")
    for line in header.splitlines():
        key, _, value = (word.strip() for word in line.partition("="))
        if key == "ElementDataFile":
            if value in ("LOCAL", "LIST"):
                return
            if not (path.parent / value).resolve().is_relative_to(path.parent.resolve()):
                raise UserError(f"{path} names {value}, outside of its folder", "put both files into one folder")
            if "%" not in value and not (path.parent / value).is_file():
                raise UserError(f"{path} names {value}, which is not there", "put both files into one folder")
            return


def read_nrrd(path: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """A .nrrd or .nhdr file; its `space` says whether coordinates are LPS or RAS.

    Raises:
        UserError: it cannot be read, or its axes are not three spatial ones (and one of channels).
    """
    import nrrd

    try:
        array, header = nrrd.read(str(path), index_order="F")
    except (OSError, ValueError, KeyError, TypeError, nrrd.NRRDError, EOFError, zlib.error, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {_last_line(error)}", "copy or download it again") from None
    warnings = []
    directions = header.get("space directions")
    if directions is None:
        spacing = options.spacing or header.get("spacings")
        if spacing is None:
            raise UserError(f"{path} has no space directions", "--spacing 0.8,0.8,5 states the millimetres of a voxel")
        directions = np.diag([float(each) for each in list(spacing)[-3:]])
        warnings.append("it has no directions: orientation and place are not known, only the spacing is")
    rows = np.array([[np.nan] * 3 if row is None else row for row in directions], dtype=np.float64)
    spatial = np.asarray(np.isfinite(rows).all(1))
    if spatial.sum() != 3 or array.ndim > 4:
        raise UserError(f"{path} has {int(spatial.sum())} spatial axes of {array.ndim}: three are needed")
    if array.ndim == 4 and not spatial[0]:  # channels come first in NRRD, last here
        array = np.moveaxis(array, 0, -1)
    affine = np.eye(4)
    affine[:3, :3] = rows[spatial].T
    origin = header.get("space origin")
    if origin is not None:
        affine[:3, 3] = origin
    space = str(header.get("space", "left-posterior-superior")).lower()
    if space in ("left-posterior-superior", "lps"):
        affine = LPS @ affine
    elif space not in ("right-anterior-superior", "ras"):
        raise UserError(f"{path}: its space is {space!r}", "save it as left-posterior-superior")
    volume = _placed(np.ascontiguousarray(array), affine, "NRRD", path, options)
    volume.warnings[:0] = warnings
    return volume


def read_array(path: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """A .npy file; its spacing must be given.

    Raises:
        UserError: no spacing, or no volume of numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, TypeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {_last_line(error)}", "save it again with numpy.save") from None
    return _without_place(array, "NumPy array", [path], path, options)


def read_pictures(folder: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """A folder of pictures, one per slice, in the natural order of their names (slice2 before slice10).

    Raises:
        UserError: no pictures, pictures of different sizes, or no spacing.
    """
    import re

    from PIL import Image, UnidentifiedImageError

    def natural(path: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]

    files = sorted((f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not is_hidden(f)), key=natural)
    if not files:
        raise UserError(f"{folder} holds no slices", "slices are .png or .tif")
    slices = []
    for file in files:
        try:
            with Image.open(file) as picture:
                grey = picture if picture.mode in ("L", "I;16", "I", "F") else picture.convert("L")
                slices.append(np.asarray(grey))
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"{file} cannot be read: {_last_line(error)}") from None
    sizes = {each.shape for each in slices}
    if len(sizes) > 1:
        raise UserError(f"{folder}: slices of different sizes ({few([str(size) for size in sorted(sizes)])})")
    # rows of a picture are y, columns x
    return _without_place(np.stack(slices, -1).swapaxes(0, 1), "slices", files, folder, options)


def _without_place(array: Any, kind: str, files: list[Path], where: Path, options: ReadingOptions) -> Volume:
    if array.dtype.kind not in "biuf" or array.ndim not in (3, 4):
        raise UserError(f"{where} holds {array.dtype} of {array.ndim} axes: numbers of three or four are needed")
    if options.spacing is None:
        raise UserError(f"{where} does not say its spacing", "--spacing 0.8,0.8,5 states the millimetres of a voxel")
    volume = _placed(np.ascontiguousarray(array), np.diag([*options.spacing, 1.0]), kind, where, options)
    volume.files = files
    volume.warnings.insert(0, "it says neither orientation nor place: only the given spacing is known")
    return volume


def _placed(array: Any, affine: Any, kind: str, path: Path, options: ReadingOptions) -> Volume:
    x, y, z = array.shape[:3]
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    geometry = Geometry((x, y, z), check_affine(affine, path))
    return finish(Volume(array, geometry, kind, [path], warnings=warnings_of(geometry)), options, path)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
