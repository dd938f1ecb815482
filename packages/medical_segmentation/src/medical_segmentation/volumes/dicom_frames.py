"""The frames of DICOM files and where they lie: sorted by their place, never by name or number, with every reason to refuse them in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, counted, few
from medical_segmentation.volumes.geometry import LPS

WHOLE = 0.05  # of the usual gap: how far one may be from a multiple of it where slices are missing
BESIDE = 0.5  # of a pixel: how far a slice may lie beside the line of the others
UNEVEN = 0.01  # relative deviation of a gap between slices that is no longer rounding
SPARSE = 1.9  # times its thickness that a slice may be from the next without a word
TILT = 0.5  # degrees between the stack's direction and the slices' normal


@dataclass(eq=False)
class Frame:
    """One slice: a file, or a frame of a multi-frame object.

    Attributes:
        path: its file.
        index: number of the frame; 0 for plain files.
        position, orientation: ImagePositionPatient and ImageOrientationPatient (LPS).
        pixel_spacing: millimetres between rows, between columns.
        slope, intercept: from stored values to values.
        dataset: its header.
    """

    path: Path
    index: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    slope: float
    intercept: float
    dataset: Any

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])


def frames_of(file: Path, header: Any) -> list[Frame]:
    """The slices of a file: one, or those of a multi-frame object with its functional groups."""
    if not header.get("Rows") or not header.get("Columns"):
        kind = getattr(header.get("SOPClassUID"), "name", "an object of unknown class")
        raise UserError(f"{file.name} holds no pixel data: it is {kind}", "take it out of the folder")
    colours = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if int(header.get("SamplesPerPixel", 1)) != 1 or not colours.startswith("MONOCHROME"):
        raise UserError(f"{file.name} is a colour picture ({colours}), not a volume's slice", "choose a grey series")
    count = int(header.get("NumberOfFrames", 1) or 1)
    if count == 1 and "PerFrameFunctionalGroupsSequence" not in header:
        return [_frame(file, 0, header, header, header, header)]
    if "PerFrameFunctionalGroupsSequence" not in header:
        raise UserError(
            f"{file.name} has {count} frames without positions ({getattr(header.SOPClassUID, 'name', 'multi-frame')})",
            "only enhanced multi-frame objects say where their frames lie",
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = []
    for index, own in enumerate(header.PerFrameFunctionalGroupsSequence):
        parts = [
            _group(name, own, shared)
            for name in (
                "PlanePositionSequence",
                "PlaneOrientationSequence",
                "PixelMeasuresSequence",
                "PixelValueTransformationSequence",
            )
        ]
        if parts[0] is None or parts[1] is None or parts[2] is None:
            raise UserError(f"{file.name}: its frames do not say where they lie", "convert it with dcm2niix")
        frames.append(_frame(file, index, parts[0], parts[1], parts[2], parts[3] or {}, header))
    return frames


def _group(name: str, own: Any, shared: Any) -> Any:
    for groups in (own, shared):
        if groups is not None and groups.get(name):
            return groups.get(name)[0]
    return None


def _frame(
    file: Path, index: int, place: Any, turn: Any, measures: Any, values: Any, dataset: Any | None = None
) -> Frame:
    position, orientation = place.get("ImagePositionPatient"), turn.get("ImageOrientationPatient")
    spacing = measures.get("PixelSpacing")
    header = dataset if dataset is not None else place
    if not spacing and header.get("ImagerPixelSpacing"):
        raise UserError(f"{file.name} is a projection (ImagerPixelSpacing), not a slice of a volume")
    missing = []
    for name, value in (
        ("ImagePositionPatient", position),
        ("ImageOrientationPatient", orientation),
        ("PixelSpacing", spacing),
    ):
        if not value:
            missing.append(name)
    if missing or position is None or orientation is None or spacing is None:
        raise UserError(f"{file.name} does not say where it lies: no {', '.join(missing)}", "export the series again")
    turned = np.array([float(each) for each in orientation])
    if not np.allclose(np.linalg.norm(turned.reshape(2, 3), axis=1), 1, atol=1e-2):
        raise UserError(f"{file.name}: ImageOrientationPatient holds no unit vectors", "export the series again")
    if not np.isfinite([float(each) for each in (*position, *spacing)]).all():
        raise UserError(f"{file.name}: its position or spacing is not a finite number", "export the series again")
    if min(float(each) for each in spacing) < 0:
        raise UserError(f"{file.name}: its PixelSpacing is negative", "export the series again")
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    if slope not in (None, "") and float(slope) == 0:
        raise UserError(f"{file.name}: its RescaleSlope is 0, which leaves no values", "export the series again")
    return Frame(
        file,
        index,
        np.array([float(each) for each in position]),
        turned,
        (float(spacing[0]), float(spacing[1])),
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
        header,
    )


def sorted_frames(frames: list[Frame], path: Path) -> list[Frame]:
    """The slices along their normal.

    Raises:
        UserError: slices of other size or orientation are among them, or two lie at one place.
    """
    turns = Counter(tuple(np.round(frame.orientation, 2)) for frame in frames)
    if len(turns) > 1:
        others = len(frames) - turns.most_common(1)[0][1]
        raise UserError(
            f"{path}: {others} of {len(frames)} slices have another orientation (a localiser, or a second stack)",
            "take them out of the folder, or choose another --series",
        )
    sizes = Counter((int(f.dataset.Rows), int(f.dataset.Columns), f.pixel_spacing) for f in frames)
    if len(sizes) > 1:
        others = len(frames) - sizes.most_common(1)[0][1]
        raise UserError(
            f"{path}: {others} of {len(frames)} slices have another size or pixel spacing",
            "take them out of the folder",
        )
    normal = frames[0].normal
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    places = [float(frame.position @ normal) for frame in ordered]
    doubled = sum(b - a < 1e-3 for a, b in pairwise(places))
    if doubled:
        raise UserError(
            f"{path}: {counted(doubled, 'slice')} at the place of another (two phases, echoes or times in one series)",
            "give each phase, echo or time a folder of its own",
        )
    return ordered


def affine_of(frames: list[Frame], path: Path) -> tuple[NDArray[np.float64], list[str]]:
    """Index → millimetres (RAS), from the positions of the first and the last slice."""
    first, last = frames[0], frames[-1]
    warnings = []
    rows, columns = first.pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * columns  # from one column to the next runs along a row
    affine[:3, 1] = first.orientation[3:] * rows
    affine[:3, 3] = first.position
    if len(frames) == 1:
        thickness = first.dataset.get("SliceThickness") or first.dataset.get("SpacingBetweenSlices")
        if not thickness:
            raise UserError(
                f"{path} is one slice without SliceThickness: its depth is not known", "give the whole series"
            )
        affine[:3, 2] = first.normal * float(thickness)
        warnings.append("one slice: its depth is SliceThickness")
        return LPS @ affine, warnings
    step = (last.position - first.position) / (len(frames) - 1)
    _check_gaps(frames, path)
    _check_line(frames, step, path)
    affine[:3, 2] = step
    cosine = float(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1))
    tilt = float(np.degrees(np.arccos(cosine)))
    thickness = float(first.dataset.get("SliceThickness") or 0)
    apart = float(step @ first.normal)
    if 0 < thickness < apart / SPARSE:
        warnings.append(
            f"slices of {thickness:g} mm lie {apart:g} mm apart: if that is not how it was taken, slices are missing throughout"
        )
    if tilt > TILT:
        warnings.append(
            f"the gantry was tilted by {tilt:.1f}°: the slices are sheared against each other, which is kept exactly"
        )
    return LPS @ affine, warnings


def _check_line(frames: list[Frame], step: NDArray[np.float64], path: Path) -> None:
    """All slices lie on the line from the first to the last: a sheared stack does, one that is shifted beside the others does not."""
    places = np.array([frame.position for frame in frames])
    off = np.linalg.norm(places - (places[0] + np.arange(len(frames))[:, None] * step), axis=1)
    beside = off > max(0.1, BESIDE * min(frames[0].pixel_spacing))
    if beside.any():
        raise UserError(
            f"{path}: {counted(int(beside.sum()), 'slice')} up to {off.max():.1f} mm beside the line from the first to the last",
            "export the series again: one of them was moved, or two stacks are in it",
        )


def _check_gaps(frames: list[Frame], path: Path) -> None:
    normal = frames[0].normal
    places = np.array([frame.position @ normal for frame in frames])
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    wide = gaps > usual * 1.5
    # where slices are missing, each gap is a whole number of the usual ones
    whole = np.abs(gaps / usual - np.round(gaps / usual)) <= WHOLE
    if wide.any() and whole.all():
        missing = int(np.round(gaps[wide] / usual).sum() - wide.sum())
        at = few([f"{places[i]:.1f} mm" for i in np.flatnonzero(wide).tolist()])
        lost = "1 slice is" if missing == 1 else f"{missing} slices are"
        raise UserError(f"{path}: {lost} missing (after {at})", "export the series again, whole")
    uneven = np.abs(gaps - usual) > UNEVEN * usual
    # positions are often rounded to hundredths of a millimetre
    if uneven.any() and np.abs(gaps - usual).max() > 0.02:
        raise UserError(
            f"{path}: slices are unevenly spaced ({gaps.min():.3f} to {gaps.max():.3f} mm)",
            "resample the series to even spacing first, or export it again",
        )
