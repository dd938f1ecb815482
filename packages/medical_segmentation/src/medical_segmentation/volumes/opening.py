"""Opening whatever holds a volume, naming cases, and reading labels that fit an image."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, few
from core_runtime.identity import is_own_output
from medical_segmentation.volumes.formats import (
    ARRAYS,
    METAIMAGE,
    NIFTI,
    NRRD,
    PICTURES,
    READ,
    dicom_files,
    ending,
    is_dicom,
    is_hidden,
    is_volume,
    stem,
)
from medical_segmentation.volumes.volume import ReadingOptions, Volume, require_single

INTEGER = 1e-3  # how far a label may be from a whole number


def open_volume(path: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """The volume at a path: a file, or a folder of one DICOM series or of pictures.

    Raises:
        UserError: there is none, or it cannot be used; says why.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", READ)
    if path.is_dir():
        if dicom_files(path):
            from medical_segmentation.volumes.dicom import read_series

            return read_series(path, options)
        if any(each.suffix.lower() in PICTURES for each in path.iterdir()):
            from medical_segmentation.volumes.others import read_pictures

            return read_pictures(path, options)
        raise UserError(f"{path} holds no volume", READ)
    kind = ending(path)
    if kind in NIFTI:
        from medical_segmentation.volumes.nifti import read_nifti

        return read_nifti(path, options)
    if kind in METAIMAGE + NRRD + ARRAYS:
        from medical_segmentation.volumes import others

        readers = {**dict.fromkeys(METAIMAGE, others.read_metaimage), **dict.fromkeys(NRRD, others.read_nrrd)}
        return readers.get(kind, others.read_array)(path, options)
    if is_dicom(path):
        from medical_segmentation.volumes.dicom import read_series

        return read_series(path, options)
    raise UserError(f"{path} is no volume that can be read", READ)


def find_volumes(path: Path) -> list[Path]:
    """The volumes at a path: itself, or those anywhere below a folder; our own outputs and hidden files are passed over.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", READ)
    if is_volume(path):
        if path.is_file() and is_dicom(path) and path.suffix.lower() not in (".dcm", ".ima", ""):
            raise UserError(f"{path} is no volume that can be read", READ)
        return [path]
    if path.is_file():
        raise UserError(f"{path} is no volume that can be read", READ)
    found = _below(path) or _folders_of_pictures(path)
    if not found:
        raise UserError(f"{path} holds no volumes", READ)
    return found


def _below(folder: Path) -> list[Path]:
    found = []
    for each in sorted(folder.iterdir()):
        if is_hidden(each) or is_own_output(each):
            continue
        if each.is_dir():
            found += [each] if dicom_files(each) else _below(each)
        elif ending(each) not in ("", ".img") and each.is_file():
            found.append(each)
    return found


def _folders_of_pictures(folder: Path) -> list[Path]:
    """A folder of slices as pictures, or those in it: where there are other volumes, pictures are figures beside them."""
    folders = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
    holding = []
    for each in folders:
        pictures = [file for file in each.iterdir() if file.suffix.lower() in PICTURES and not is_hidden(file)]
        if pictures and not is_hidden(each) and not is_own_output(each):
            holding.append(each)
    return holding


def case_name(path: Path, root: Path) -> str:
    """The name of a case's outputs: that of its file or folder, unless this names the patient: then a digest."""
    relative = path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)
    name = str(relative.with_name(stem(path))) if path.is_file() else str(relative)
    return pseudonym(name, identifying_words(path))


def pseudonym(name: str, words: set[str]) -> str:
    """A name, or a digest of it where it holds one of the words that name a patient."""
    if any(word in name.lower() for word in words):
        return "case-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name


def identifying_words(path: Path) -> set[str]:
    """Words that name the patient of a DICOM file or series; none of other volumes."""
    files = dicom_files(path) if path.is_dir() else [path] * is_dicom(path)
    if not files:
        return set()
    from medical_segmentation.volumes.dicom import identifiers

    return identifiers(files[0])


def without_identifiers(text: str, path: Path, name: str) -> str:
    """A text about a volume for files that others may see: what names the patient is replaced by the name of the case."""
    for word in sorted(identifying_words(path), key=len, reverse=True):
        text = re.sub(rf"\S*{re.escape(word)}\S*", name, text, flags=re.IGNORECASE)
    return text


def read_labels(
    path: Path,
    image: Volume | None,
    *,
    names: Mapping[int, str] | None = None,
    mapping: Mapping[int, int] | None = None,
    reading: ReadingOptions = ReadingOptions(),
) -> tuple[NDArray[np.uint8], Volume]:
    """The labels of an image: whole numbers on its grid.

    Args:
        path: any format of volume, or a DICOM segmentation, whose frames are matched to the image by where they lie.
        image: whose grid they must have; None: any.
        names: the values that are known; None: any.
        mapping: values → values, applied first.
        reading: for files that do not say their spacing. Slices as pictures lie on the grid of their image, whatever that is.

    Raises:
        UserError: another grid, values that are not whole, negative, too large, or not known: each with its count.
    """
    if path.is_dir() and not dicom_files(path) and image is not None and reading.spacing is None:
        x, y, z = image.geometry.spacing
        reading = ReadingOptions(spacing=(x, y, z))
    segmentation = _segmentation(path)
    if segmentation is not None:
        from medical_segmentation.volumes.dicom_seg import read_dicom_seg

        if image is None:
            raise UserError(f"{path} is a DICOM segmentation: it needs the image that it belongs to", "give both")
        values = read_dicom_seg(segmentation, image)
        volume = replace(image, array=values, kind="DICOM segmentation", files=[segmentation], frames=(), warnings=[])
    else:
        volume = require_single(open_volume(path, reading), path)
        values = volume.array
    if volume.kind == "slices" and image is not None and volume.geometry.shape == image.geometry.shape:
        # slices as pictures belong to the files of their series by name, whatever order these lie in
        values = values[:, :, slices_of_files(image)]
        volume.geometry = image.geometry
    if image is not None and not volume.geometry.same_as(image.geometry):
        raise UserError(
            f"{path} has another grid than its image: {volume.geometry.difference(image.geometry)}",
            "resample the labels to the image first (nearest neighbour)",
        )
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        rounded = np.round(np.where(finite, values, 0))
        off = int((~finite).sum() + (np.abs(values - rounded)[finite] > INTEGER).sum())
        if off:
            raise UserError(
                f"{path}: {off:,} of {values.size:,} labels are not whole numbers (probabilities, or linear resampling?)",
                "threshold them, or resample with nearest neighbour",
            )
        values = rounded
    present, counts = np.unique(values, return_counts=True)
    table = {int(value): int(count) for value, count in zip(present, counts, strict=True)}
    return _checked(values, table, path, names, dict(mapping or {})), volume


def _segmentation(path: Path) -> Path | None:
    """The DICOM segmentation at a path: the file, or the only one in a folder."""
    files = dicom_files(path) if path.is_dir() else [path] * is_dicom(path)
    if len(files) != 1:
        return None
    import pydicom

    header = pydicom.dcmread(files[0], stop_before_pixels=True, force=True, specific_tags=["Modality"])
    return files[0] if header.get("Modality") == "SEG" else None


def slices_of_files(image: Volume) -> list[int]:
    """For every slice of a series, the place of its file among all, by name (slice2 before slice10)."""
    files = [path for path, _ in image.frames]
    if len(set(files)) < image.geometry.shape[2]:
        return list(range(image.geometry.shape[2]))
    order = sorted(files, key=natural)
    return [order.index(path) for path in files]


def natural(path: Path) -> list[tuple[int, str]]:
    """A name's parts for sorting: numbers by their value."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _checked(
    values: NDArray, table: dict[int, int], path: Path, names: Mapping[int, str] | None, mapping: dict[int, int]
) -> NDArray[np.uint8]:
    targets = {value: mapping.get(value, value) for value in table}
    wrong = [value for value, target in targets.items() if not 0 <= target <= 255]
    if wrong:
        listed = few([f"{value} ({table[value]:,} voxels)" for value in wrong])
        raise UserError(f"{path}: labels below 0 or above 255: {listed}", "--map=-1=0,300=3 says what they mean")
    if names is not None:
        unknown = [value for value, target in targets.items() if target not in names]
        if unknown:
            listed = few([f"{value} ({table[value]:,} voxels)" for value in unknown])
            known = few([f"{number} {name}" for number, name in names.items()])
            raise UserError(
                f"{path}: labels that are not known: {listed}; known are {known}",
                f"--map {unknown[0]}=1 says what they mean",
            )
    if all(value == target for value, target in targets.items()):
        return np.ascontiguousarray(values.astype(np.uint8))
    result = np.zeros(values.shape, np.uint8)
    for value, target in targets.items():
        if target:
            result[values == value] = target
    return result
