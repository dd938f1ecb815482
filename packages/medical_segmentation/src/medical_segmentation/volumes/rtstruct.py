"""RT structure sets: one closed planar contour per region and slice, in the source's frame of reference."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from medical_segmentation.volumes.dicom_seg import source_datasets
from medical_segmentation.volumes.geometry import LPS
from medical_segmentation.volumes.volume import Volume

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
)
COLOURS = ((230, 60, 60), (60, 160, 230), (80, 190, 80), (240, 170, 40), (160, 90, 200), (60, 190, 180))


def write_rtstruct(
    labels: NDArray[np.uint8], like: Volume, names: Sequence[str], path: Path, *, model: str, deidentify: bool = False
) -> Path:
    """Writes labels as contours of the slices of a series.

    Args:
        labels: (column, row, slice), background 0.
        like: the series.
        names: of the classes, background first.
        path: the file.
        model: name of the algorithm.
        deidentify: as of `dicom_seg.write_dicom_seg`.

    Raises:
        UserError: the volume is no DICOM series.
    """
    if not like.frames:
        raise UserError(f"RTSTRUCT needs a DICOM series as input, this is {like.kind}", "use --format nifti")
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    sources, order = source_datasets(like, deidentify=deidentify)
    first = sources[0]
    uid = generate_uid(entropy_srcs=[str(first.SeriesInstanceUID), model, "RTSTRUCT"])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(RT_STRUCTURE_SET), uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    structure = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    structure.SOPClassUID, structure.SOPInstanceUID = RT_STRUCTURE_SET, uid
    for name in PATIENT_AND_STUDY:
        setattr(structure, name, first.get(name, "") or "")
    now = datetime.now()
    structure.Modality, structure.Manufacturer = "RTSTRUCT", "attention-suite"
    structure.SeriesInstanceUID = generate_uid(entropy_srcs=[str(uid), "series"])
    structure.SeriesNumber, structure.InstanceNumber = 1001, 1
    structure.StructureSetLabel, structure.StructureSetName = "SEGMENTATION", "Segmentation, for research only"
    structure.StructureSetDate, structure.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    structure.OperatorsName, structure.ApprovalStatus = "", "UNAPPROVED"
    frame_of_reference = str(first.get("FrameOfReferenceUID", "") or generate_uid())
    structure.FrameOfReferenceUID = frame_of_reference
    images = [_referenced(source) for source in sources]
    structure.ReferencedFrameOfReferenceSequence = [_reference(first, frame_of_reference, images)]
    structure.StructureSetROISequence, structure.ROIContourSequence = [], []
    structure.RTROIObservationsSequence = []
    for number, name in enumerate(names):
        if number == 0:
            continue
        region = Dataset()
        region.ROINumber, region.ROIName = number, name[:64]
        region.ReferencedFrameOfReferenceUID, region.ROIGenerationAlgorithm = frame_of_reference, "AUTOMATIC"
        structure.StructureSetROISequence.append(region)
        drawn = Dataset()
        drawn.ReferencedROINumber = number
        drawn.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
        drawn.ContourSequence = _contours(labels == number, like, images, order)
        structure.ROIContourSequence.append(drawn)
        observation = Dataset()
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
        structure.RTROIObservationsSequence.append(observation)
    with writing(path) as part:
        structure.save_as(part, enforce_file_format=True)
    return path


def _referenced(source: Any) -> Any:
    from pydicom.dataset import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return image


def _reference(first: Any, frame_of_reference: str, images: Sequence[Any]) -> Any:
    from pydicom.dataset import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, list(images)
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = first.StudyInstanceUID, [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = frame_of_reference, [study]
    return frame


def _contours(mask: NDArray[np.bool_], like: Volume, images: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """Closed lines half-way between voxels of the region and their neighbours, slice by slice."""
    import contourpy
    from pydicom.dataset import Dataset

    to_lps = LPS @ like.geometry.affine
    contours = []
    for k in np.flatnonzero(mask.any((0, 1))).tolist():
        padded = np.pad(mask[:, :, k].astype(np.float32), 1)
        # x is the first axis of the array: contourpy wants it last
        for line in contourpy.contour_generator(z=padded.T).lines(0.5):
            points = np.asarray(line)[:-1] - 1  # closed by definition; the border was added
            if len(points) < 3:
                continue
            index = np.concatenate([points, np.full((len(points), 1), k), np.ones((len(points), 1))], 1)
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{value:.4f}" for value in (index @ to_lps.T)[:, :3].ravel()]
            source = images[order.index(k) if len(images) == len(order) else 0]
            contour.ContourImageSequence = [source]
            contours.append(contour)
    return contours
