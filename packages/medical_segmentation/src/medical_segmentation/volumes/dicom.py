"""DICOM series in: slices sorted by where they lie, never by name or number, with every reason to refuse one in one line.

Coordinates of DICOM are LPS; `Volume.geometry` is RAS+. The array is (column, row, slice): x runs along a row of pixels.
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, counted, few
from medical_segmentation.volumes.dicom_frames import Frame, affine_of, frames_of, sorted_frames
from medical_segmentation.volumes.formats import dicom_files, is_dicom, is_hidden, is_volume
from medical_segmentation.volumes.geometry import Geometry, check_affine, warnings_of
from medical_segmentation.volumes.volume import ReadingOptions, Volume, finish

COMPRESSED = "pip install 'attention-suite-medical-segmentation[compressed]' (python-gdcm)"


def read_series(path: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """A DICOM file or a folder that holds one series.

    Raises:
        UserError: what hinders: several series, no pixels, missing, doubled or uneven slices, an unknown compression …
    """
    from pydicom.errors import BytesLengthException

    senseless = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, NotImplementedError)
    try:
        return _read_series(path, options)
    except (*senseless, BytesLengthException) as error:
        # pydicom converts a value when it is first asked for: any of them may turn out to be none
        reason = shorten(str(error), 160, placeholder=" …")
        raise UserError(f"{path}: its headers are damaged: {reason}", "copy or export the files again") from None


def _read_series(path: Path, options: ReadingOptions) -> Volume:
    files = [path] if path.is_file() else dicom_files(path)
    if not files:
        raise UserError(f"{path} holds no DICOM files", "give the folder of one series")
    headers, notes = _headers(files)
    if path.is_dir():
        notes += _others(path, files)
    chosen = _choose_series(headers, path, options)
    _check_one_body(chosen, path)
    chosen, more = _without_doubles_and_localisers(chosen)
    notes += more
    frames: list[Frame] = []
    for file, header in chosen:
        frames += frames_of(file, header)
    frames = sorted_frames(frames, path)
    affine, more = affine_of(frames, path)
    stored, facts = _pixels(frames, path)
    first = frames[0].dataset
    rows, columns = stored.shape[1:]
    array = np.ascontiguousarray(stored.transpose(2, 1, 0))
    geometry = Geometry((columns, rows, len(frames)), check_affine(affine, path))
    volume = Volume(
        array,
        geometry,
        "DICOM series" if len(frames) > 1 or path.is_dir() else "DICOM file",
        _unique([frame.path for frame in frames]),
        modality=str(first.get("Modality", "")),
        warnings=[*notes, *more, *facts.pop("warnings"), *warnings_of(geometry)],
        frames=[(frame.path, frame.index) for frame in frames],
        facts={**facts, "modality": str(first.get("Modality", "")), "slices": len(frames)},
    )
    return finish(volume, options, path)


def _headers(files: Sequence[Path]) -> tuple[list[tuple[Path, Any]], list[str]]:
    """Every file's header without pixels, and notes on what was passed over.

    Raises:
        UserError: files that cannot be read as DICOM; names them.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import MediaStorageDirectoryStorage

    headers, broken, notes = [], [], []
    for file in files:
        if not file.stat().st_size:
            broken.append(f"{file.name} (empty)")
            continue
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                header = pydicom.dcmread(file, stop_before_pixels=True, force=file.suffix.lower() in (".dcm", ".ima"))
        except (
            InvalidDicomError,
            OSError,
            EOFError,
            ValueError,
            AttributeError,
            TypeError,
            NotImplementedError,
        ) as error:
            broken.append(f"{file.name} ({type(error).__name__})")
            continue
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            notes.append(f"{file.name} is a table of contents (DICOMDIR) and is left out")
        elif not header.get("SOPClassUID") and not header.get("Rows"):
            broken.append(f"{file.name} (neither an image nor anything of DICOM)")
        else:
            headers.append((file, header))
    if broken:
        raise UserError(
            f"{len(broken)} of {len(files)} files cannot be read as DICOM: {few(broken)}",
            "export them again, or remove them",
        )
    if not headers:
        raise UserError(f"{files[0]} is a table of contents (DICOMDIR)", "give the folder of an image series")
    return headers, notes


def _others(folder: Path, files: Sequence[Path]) -> list[str]:
    """Notes on what else lies in the folder of a series: other volumes, and files that could be slices."""
    known = set(files)
    volumes, nameless = [], []
    for each in sorted(folder.iterdir()):
        if each in known or is_hidden(each):
            continue
        if is_volume(each):
            volumes.append(each.name)
        elif not each.suffix and each.is_file():
            nameless.append(each.name)
    notes = []
    if volumes:
        notes.append(f"left out beside the slices: {counted(len(volumes), 'other volume')} ({few(volumes)})")
    # among slices without an ending, one that is cut short looks like that
    if nameless and not all(file.suffix for file in files):
        notes.append(f"left out: {counted(len(nameless), 'file')} without DICOM ({few(nameless)})")
    return notes


def _choose_series(headers: Sequence[tuple[Path, Any]], path: Path, options: ReadingOptions) -> list[tuple[Path, Any]]:
    series: dict[str, list[tuple[Path, Any]]] = {}
    for file, header in headers:
        series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    images = {uid: items for uid, items in series.items() if any(header.get("Rows") for _, header in items)}
    if not images:
        kind = getattr(headers[0][1].get("SOPClassUID"), "name", "an object of unknown class")
        raise UserError(f"{path} holds no pixel data: it is {kind}", "give the folder of an image series (CT or MR)")
    for uid, items in list(images.items()):
        if items[0][1].get("Modality") == "SEG":
            if len(images) == 1:
                raise UserError(
                    f"{path} is a DICOM segmentation: labels, not an image", "give the series that it was drawn on"
                )
            del images[uid]
    order = sorted(images, key=lambda uid: (int(images[uid][0][1].get("SeriesNumber") or 0), uid))
    if options.series is not None:
        for number, uid in enumerate(order, 1):
            if options.series in (uid, str(number)):
                return images[uid]
        raise UserError(f"{path} has no series {options.series}", f"it holds {_listed(images, order)}")
    if len(order) > 1:
        raise UserError(
            f"{path} holds {len(order)} series: {_listed(images, order)}", "--series 1 takes the first of them"
        )
    return images[order[0]]


def _check_one_body(chosen: Sequence[tuple[Path, Any]], path: Path) -> None:
    """One patient and one frame of reference.

    Raises:
        UserError: the images are of several; names none of them.
    """
    for name, words in (
        ("PhotometricInterpretation", "kinds of grey values (MONOCHROME1 and MONOCHROME2)"),
        ("PatientID", "patients"),
        ("FrameOfReferenceUID", "frames of reference, which share no coordinates"),
    ):
        values = {str(header.get(name, "")) for _, header in chosen}
        if len(values) > 1:
            raise UserError(
                f"{path}: the images of one series are of {len(values)} {words}",
                "separate them, or export the series again",
            )


def _listed(images: dict[str, list[tuple[Path, Any]]], order: Sequence[str]) -> str:
    """Series by number, modality and count: nothing that could name a patient."""
    words = []
    for number, uid in enumerate(order, 1):
        modality = images[uid][0][1].get("Modality", "?")
        words.append(f"{number}: {modality}, {len(images[uid])} images")
    return "; ".join(words)


def _without_doubles_and_localisers(chosen: list[tuple[Path, Any]]) -> tuple[list[tuple[Path, Any]], list[str]]:
    notes = []
    by_instance: dict[str, tuple[Path, Any]] = {}
    for file, header in chosen:
        first, other = by_instance.setdefault(str(header.get("SOPInstanceUID", file)), (file, header))
        if other.get("ImagePositionPatient") != header.get("ImagePositionPatient"):
            raise UserError(
                f"{file.name} and {first.name} have one SOPInstanceUID and lie at different places: they are no copies",
                "export the series again",
            )
    if len(by_instance) < len(chosen):
        notes.append(f"{len(chosen) - len(by_instance)} files are copies of others and are left out")
    kept = []
    for file, header in by_instance.values():
        if "LOCALIZER" not in [str(value).upper() for value in header.get("ImageType", [])]:
            kept.append((file, header))
    if kept and len(kept) < len(by_instance):
        notes.append(f"{len(by_instance) - len(kept)} localiser images (scouts) are left out")
    elif not kept:
        notes.append("every image is flagged as a localiser (a scout): is this the series that was meant?")
    return kept or list(by_instance.values()), notes


def _pixels(frames: list[Frame], path: Path) -> tuple[NDArray, dict[str, Any]]:
    """Values (slice, row, column), in the smallest type that holds them."""
    import pydicom

    cache: dict[Path, NDArray] = {}
    facts: dict[str, Any] = {"warnings": []}
    stored = []
    inverted = False
    for frame in frames:
        if frame.path not in cache:
            cache.clear()  # multi-frame objects hold all of theirs in one file
            cache[frame.path] = _decode(frame.path, pydicom)
        pixels = cache[frame.path]
        if pixels.ndim == 3:
            pixels = pixels[frame.index]
        if str(frame.dataset.get("PhotometricInterpretation")) == "MONOCHROME1":
            bits, signed = int(frame.dataset.BitsStored), int(frame.dataset.PixelRepresentation)
            pixels = (-1 if signed else 2**bits - 1) - pixels.astype(np.int32)
            inverted = True
        stored.append(pixels)
    if inverted:
        facts["warnings"].append("MONOCHROME1: its values are inverted, so that bright is much")
    whole = all(frame.slope == 1 and float(frame.intercept).is_integer() for frame in frames)
    values: NDArray
    if whole:
        values = np.stack(
            [pixels.astype(np.int32) + int(f.intercept) for pixels, f in zip(stored, frames, strict=True)]
        )
        if np.iinfo(np.int16).min <= values.min() and values.max() <= np.iinfo(np.int16).max:
            values = values.astype(np.int16)
    else:
        values = np.stack(
            [
                pixels.astype(np.float32) * np.float32(f.slope) + np.float32(f.intercept)
                for pixels, f in zip(stored, frames, strict=True)
            ]
        )
    syntax = getattr(getattr(frames[0].dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is not None:
        facts["transfer syntax"] = syntax.name
    return values, facts


def _decode(path: Path, pydicom: Any) -> NDArray:
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            if "PixelData" not in dataset:
                kind = getattr(dataset.get("SOPClassUID"), "name", "unknown")
                raise UserError(f"{path.name} holds no pixel data ({kind})", "export the series again")
            if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
                # without it the reader already had to assume the plainest one
                dataset.file_meta.TransferSyntaxUID = (
                    pydicom.uid.ImplicitVRLittleEndian
                    if dataset.original_encoding[0]
                    else pydicom.uid.ExplicitVRLittleEndian
                )
            _check_length(dataset, path)
            return dataset.pixel_array
    except UserError:
        raise
    except Exception as error:
        syntax = (
            getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None) if "dataset" in locals() else None
        )
        if syntax is not None and syntax.is_compressed and not _decodes(syntax, pydicom):
            raise UserError(
                f"{path.name} is compressed as {syntax.name}, and no decoder for it is installed", COMPRESSED
            ) from None
        reason = shorten(str(error), 160, placeholder=" …")
        raise UserError(f"{path.name}: its pixels cannot be read: {reason}", "copy or export the file again") from None


def _check_length(dataset: Any, path: Path) -> None:
    """Plain pixels are as many as the header describes.

    Raises:
        UserError: they are fewer, or more by a row or beyond: sizes or bits in the header are wrong, and so would be every voxel.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        return
    from pydicom.pixels.utils import get_expected_length

    described, stored = get_expected_length(dataset), len(dataset.PixelData)
    row = int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    if stored < described or stored >= described + max(row, 2):
        word = "is truncated" if stored < described else "contradicts itself"
        raise UserError(
            f"{path.name} {word}: {stored:,} bytes of pixels, its header describes {described:,}",
            "copy or export the file again",
        )


def _decodes(syntax: Any, pydicom: Any) -> bool:
    try:
        return bool(pydicom.pixels.get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _unique(paths: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def identifiers(path: Path) -> set[str]:
    """Words that name the patient or the visit in a DICOM header, in small letters: what no file name may hold."""
    import pydicom

    words: set[str] = set()
    if not is_dicom(path):
        return words
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    for name in ("PatientName", "PatientID", "AccessionNumber", "PatientBirthDate"):
        text = str(header.get(name, "")).lower()
        words |= {part for part in text.replace("^", " ").replace("_", " ").replace("-", " ").split() if len(part) >= 3}
        if len(text) >= 3:
            words.add(text)
    return words
