"""DICOM segmentations by highdicom: of the source's patient and study, frames matched by where they lie."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from medical_segmentation.volumes.volume import Volume

# SNOMED CT codes of what is segmented most; anything else is an organ under its own label.
STRUCTURES: Mapping[str, tuple[str, str]] = {
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "right kidney": ("9846003", "Right kidney"),
    "left kidney": ("18639004", "Left kidney"),
    "kidney": ("64033007", "Kidney"),
    "pancreas": ("15776009", "Pancreas"),
    "stomach": ("69695003", "Stomach"),
    "gallbladder": ("28231008", "Gallbladder"),
    "aorta": ("15825003", "Aorta"),
    "spinal cord": ("2748008", "Spinal cord"),
    "prostate": ("41216001", "Prostate"),
    "heart": ("80891009", "Heart"),
    "myocardium": ("74281007", "Myocardium"),
    "lung": ("39607008", "Lung"),
    "hippocampus": ("5366008", "Hippocampus"),
    "brain": ("12738006", "Brain"),
    "bladder": ("89837001", "Bladder"),
    "tumour": ("108369006", "Neoplasm"),
    "tumor": ("108369006", "Neoplasm"),
}
# What names a patient, a visit or a place; replaced under --deidentify.
IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientAddress",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientComments",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ReferringPhysicianName",
    "InstitutionName",
    "InstitutionAddress",
    "OperatorsName",
    "PerformingPhysicianName",
    "StudyDate",
    "StudyTime",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "ContentDate",
)
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def write_dicom_seg(
    labels: NDArray[np.uint8],
    like: Volume,
    names: Sequence[str],
    path: Path,
    *,
    model: str,
    form: Literal["binary", "labelmap"] = "binary",
    deidentify: bool = False,
) -> Path:
    """Writes labels as one DICOM segmentation of the series they belong to.

    Args:
        labels: (column, row, slice) on the grid of the series, background 0.
        like: the series, as `dicom.read_series` gave it: its slices are in the order of their places.
        names: of the classes, background first.
        path: the file.
        model: name of the algorithm.
        form: one bit plane per class, which every viewer shows, or one map of labels.
        deidentify: replace what names the patient, visit and place; UIDs become others, the same ones every time.

    Raises:
        UserError: the volume is no DICOM series, or has no classes.
    """
    if not like.frames:
        raise UserError(
            f"a DICOM segmentation needs a DICOM series as input, this is {like.kind}", "use --format nifti"
        )
    if why := why_no_segmentation(like):
        raise UserError(f"no DICOM segmentation can be written: {why}", "use --format nifti")
    if len(names) < 2:
        raise UserError("the model has no class beside the background: there is nothing to segment")
    import highdicom as hd
    from pydicom.uid import generate_uid

    sources, order = source_datasets(like, deidentify=deidentify)
    # (frame, row, column) in the order of the sources
    frames = np.ascontiguousarray(labels.transpose(2, 1, 0)[order])
    dataset_uid = generate_uid(
        entropy_srcs=[str(sources[0].SeriesInstanceUID), model, form, labels.tobytes().hex()[:64]]
    )
    series_uid = generate_uid(entropy_srcs=[str(sources[0].SeriesInstanceUID), model, form])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = logging.getLogger("highdicom")
        level = quiet.level
        quiet.setLevel(logging.ERROR)  # an empty mask is a valid result and no cause for alarm
        try:
            segmentation = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=form.upper(),
                segment_descriptions=[_description(number, name, model) for number, name in enumerate(names) if number],
                series_instance_uid=series_uid,
                series_number=1000,
                sop_instance_uid=dataset_uid,
                instance_number=1,
                manufacturer="attention-suite",
                manufacturer_model_name="medical-segmentation",
                software_versions="0.1",
                device_serial_number="0",
                content_label="SEGMENTATION",
            )
        finally:
            quiet.setLevel(level)
    segmentation.SeriesDescription = "Segmentation, for research only"
    with writing(path) as part:
        segmentation.save_as(part)
    return path


def why_no_segmentation(like: Volume) -> str:
    """What the series lacks that the standard demands of every segmentation; "" where nothing is missing."""
    import pydicom

    if not like.frames:
        return f"the input is no DICOM series but {like.kind}"
    header = pydicom.dcmread(like.frames[0][0], stop_before_pixels=True, force=True)
    needed = ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    absent = [name for name in needed if not header.get(name)]
    return f"the series has no {', '.join(absent)}" if absent else ""


def source_datasets(like: Volume, *, deidentify: bool = False) -> tuple[list[Any], list[int]]:
    """The headers of a series, and for each of its frames the slice of the volume that it is."""
    import pydicom

    files = list(dict.fromkeys(path for path, _ in like.frames))
    sources = [pydicom.dcmread(path, force=True) for path in files]
    if deidentify:
        sources = [deidentified(source) for source in sources]
    if len(files) == len(like.frames):
        return sources, list(range(len(files)))
    # a multi-frame object: its frames in the order of the file
    place = {index: number for number, (_, index) in enumerate(like.frames)}
    return sources, [place[index] for index in sorted(place)]


def deidentified(dataset: Any) -> Any:
    """A copy without what names the patient, the visit and the place; UIDs are replaced, the same by the same."""
    from pydicom.uid import generate_uid

    changed = copy.deepcopy(dataset)
    for name in IDENTIFYING:
        if name in changed:
            setattr(changed, name, "")
    changed.remove_private_tags()
    changed.PatientName, changed.PatientID = "Anonymous", "anonymous"
    for name in UIDS:
        if name in changed:
            uid = generate_uid(entropy_srcs=["medical-segmentation", str(getattr(changed, name))])
            setattr(changed, name, uid)
    if getattr(changed, "file_meta", None) is not None:
        changed.file_meta.MediaStorageSOPInstanceUID = changed.SOPInstanceUID
    return changed


def _description(number: int, name: str, model: str) -> Any:
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept
    from pydicom.sr.codedict import codes

    plain = name.lower().replace("_", " ").replace("-", " ")
    code, meaning = STRUCTURES.get(plain, ("113343008", "Organ"))
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=CodedConcept(code, "SCT", meaning),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model[:64], version="0.1", family=codes.DCM.ArtificialIntelligence
        ),
    )


def read_dicom_seg(path: Path, like: Volume) -> NDArray[np.uint8]:
    """The labels of a DICOM segmentation on the grid of a series, frames matched by where they lie.

    Raises:
        UserError: it is no segmentation, or a frame lies where the series has no slice.
    """
    import pydicom

    dataset = pydicom.dcmread(path)
    if getattr(dataset, "Modality", "") != "SEG":
        raise UserError(f"{path} is no DICOM segmentation", "give the SEG object")
    if (int(dataset.Columns), int(dataset.Rows)) != like.geometry.shape[:2]:
        raise UserError(
            f"{path} has {dataset.Columns} × {dataset.Rows} pixels, the series {like.geometry.shape[0]} × {like.geometry.shape[1]}",
            "give the series it was drawn on",
        )
    if str(dataset.SegmentationType) == "FRACTIONAL":
        raise UserError(f"{path} holds probabilities (FRACTIONAL), not labels", "export it as BINARY or LABELMAP")
    labels = np.zeros(like.geometry.shape, np.uint8)
    pixels = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    to_index = np.linalg.inv(like.geometry.affine)
    shared: Any = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for frame, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        planes: Any = own.get("PlanePositionSequence") or shared.get("PlanePositionSequence")
        turns: Any = own.get("PlaneOrientationSequence") or shared.get("PlaneOrientationSequence")
        turned = np.array([float(value) for value in turns[0].ImageOrientationPatient]).reshape(2, 3) * [-1, -1, 1]
        own_axes = like.geometry.affine[:3, :2].T / np.linalg.norm(like.geometry.affine[:3, :2], axis=0)[:, None]
        if np.abs(turned - own_axes).max() > 1e-2:
            raise UserError(f"{path}: a frame is turned against the series", "give the series it was drawn on")
        position = planes[0].ImagePositionPatient
        ras = np.array([-float(position[0]), -float(position[1]), float(position[2]), 1.0])
        index = (to_index @ ras)[:3]
        number = round(float(index[2]))
        if np.abs(index - [0, 0, number]).max() > 0.1 or not 0 <= number < labels.shape[2]:
            raise UserError(f"{path}: a frame lies where the series has no slice", "give the series it was drawn on")
        if str(dataset.SegmentationType) == "LABELMAP":
            labels[:, :, number] = frame.T
        else:
            # of a single segment it may stand among what all frames share
            named: Any = own.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
            segment = int(named[0].ReferencedSegmentNumber)
            plane, drawn = labels[:, :, number], frame.T > 0
            if ((plane > 0) & (plane != segment) & drawn).any():
                raise UserError(
                    f"{path}: segments overlap (at segment {segment}): a voxel can have one label",
                    "export the segments that do not overlap",
                )
            plane[drawn] = segment
    return labels
