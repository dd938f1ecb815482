"""Drawn abdomens: liver, spleen and kidneys in a body, with noise, a bias field, thick slices and odd orientations; NIfTI and DICOM series."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import write_text
from medical_segmentation.organs.options import SampleOptions
from medical_segmentation.volumes.geometry import LPS, Geometry
from medical_segmentation.volumes.nifti import write_nifti
from medical_segmentation.volumes.volume import Volume

CLASSES = ("background", "liver", "spleen", "kidneys")
# Hounsfield units: air, fat and muscle of the body, then the organs; neighbours overlap under noise, so that a threshold cannot tell them
AIR, BODY = -1000, 20
DENSITIES = {1: 62, 2: 58, 3: 66}
ORIENTATIONS = ("RAS", "LPS", "LAS", "RSA", "PIR")


def draw_abdomen(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A volume in Hounsfield units and its labels, axes RAS."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij")
    labels = np.zeros(shape, np.uint8)

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
        moved = [c + rng.normal(0, 0.04) for c in centre]
        stretched = [r * rng.uniform(0.88, 1.12) for r in radii]
        wobble = 1 + 0.12 * np.sin(3 * x + rng.uniform(0, 6)) * np.cos(2 * y + z + rng.uniform(0, 6))
        parts = zip((x, y, z), moved, stretched, strict=True)
        return sum(((axis - c) / r) ** 2 for axis, c, r in parts) < wobble

    body = ellipsoid((0, 0, 0), (0.88, 0.68, 3.0))
    # x runs to the patient's right in RAS: the liver lies there
    labels[ellipsoid((0.42, 0.12, 0.15), (0.38, 0.40, 0.75))] = 1
    labels[ellipsoid((-0.55, 0.12, 0.2), (0.20, 0.28, 0.6))] = 2
    for side in (-1, 1):
        labels[ellipsoid((side * 0.34, -0.34, -0.3), (0.17, 0.20, 0.55))] = 3
    labels[~body] = 0
    values = np.where(body, float(BODY), float(AIR))
    for number, density in DENSITIES.items():
        values[labels == number] = density + rng.normal(0, 2)
    spine = ((x / 0.12) ** 2 + ((y + 0.48) / 0.14) ** 2 < 1) & body & (labels == 0)
    values[spine] = 300
    values += body * 10 * (x * rng.normal() + y * rng.normal())  # the bias of a beam
    values += rng.normal(0, 12, shape)
    return np.clip(np.round(values), -1024, 3000).astype(np.int16), labels


def make_samples(
    out: Path, options: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> Path:
    """Writes an nnU-Net folder of labelled cases in odd orientations, unlabelled ones, and a DICOM series.

    Raises:
        UserError: the folder is there and holds something.
    """
    if out.exists() and any(out.iterdir()):
        if not overwrite or not (out / "dataset.json").is_file():
            raise UserError(
                f"{out} already holds files", "--overwrite replaces an earlier sample, another folder keeps both"
            )
        shutil.rmtree(out)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (out / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    total = options.cases + options.unlabelled
    for number in range(total):
        slices = options.slices + int(rng.integers(-2, 3))
        volume, labels = draw_abdomen(rng, (options.size, options.size, slices))
        affine = _affine(rng, volume.shape, thick=float(rng.choice([3.0, 4.0, 5.0])))
        axes = ORIENTATIONS[number % len(ORIENTATIONS)]
        name = f"abdomen_{number + 1:03d}"
        if number == total - 1:
            write_series(volume, affine, out / "imagesTs" / f"{name}_dicom", seed)
        elif number < options.cases:
            _write(volume, affine, axes, out / "imagesTr" / f"{name}_0000.nii.gz")
            _write(labels, affine, axes, out / "labelsTr" / f"{name}.nii.gz")
        else:
            _write(volume, affine, axes, out / "imagesTs" / f"{name}_0000.nii.gz")
    described = {
        "channel_names": {"0": "CT"},
        "drawn": True,
        "labels": {name: number for number, name in enumerate(CLASSES)},
        "numTraining": options.cases,
        "file_ending": ".nii.gz",
    }
    write_text(out / "dataset.json", json.dumps(described, indent=1) + "\n")
    return out


def _affine(rng: np.random.Generator, shape: tuple[int, ...], *, thick: float) -> NDArray[np.float64]:
    """RAS, 2 mm in the plane (a small table), slightly turned about z; the middle of the volume is the origin."""
    turn = np.radians(rng.uniform(-8, 8))
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([4.0, 4.0, thick])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _write(array: NDArray, affine: NDArray[np.float64], axes: str, path: Path) -> None:
    """A NIfTI file whose array runs along the given axes; the place of every voxel stays."""
    import nibabel as nib

    image = nib.Nifti1Image(array, affine)
    change: Any = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    turned: Any = image.as_reoriented(change)
    turned.set_sform(turned.affine, 1)
    turned.set_qform(turned.affine, 1)
    turned.header.set_xyzt_units("mm")
    data = np.asarray(turned.dataobj).astype(array.dtype)
    grid = Volume(data, Geometry(data.shape, turned.affine), "NIfTI", [path], header=turned.header)
    write_nifti(data, grid, path)


def write_series(
    values: NDArray[np.int16],
    affine: NDArray[np.float64],
    folder: Path,
    seed: int = 0,
    *,
    patient: str = "Muster^Erika",
) -> Path:
    """A CT series, one file per slice, named in no useful order, as archives do.

    Args:
        values: (x, y, z), Hounsfield units.
        affine: RAS.
        folder: for the files.
        seed: of the UIDs and names.
        patient: name in the headers.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    place = LPS @ affine
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = place[:3, :3] / lengths
    study, series, frame = (generate_uid(entropy_srcs=[kind, str(seed)]) for kind in ("study", "series", "frame"))
    order = np.random.default_rng(seed).permutation(values.shape[2])
    for k in range(values.shape[2]):
        uid = generate_uid(entropy_srcs=["image", str(seed), str(k)])
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{int(order[k]):04d}.dcm"
        image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, uid
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = (
            patient,
            "S-4711",
            "19500101",
            "O",
        )
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20260101", "120000", "1", "A-0815"
        image.ReferringPhysicianName, image.Manufacturer, image.Modality = "", "attention-suite", "CT"
        image.SeriesNumber, image.InstanceNumber = 2, int(order[k]) + 1
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        position = (place @ [0, 0, k, 1])[:3]
        image.ImagePositionPatient = [f"{value:.6f}" for value in position]
        image.ImageOrientationPatient = [f"{value:.8f}" for value in directions[:, :2].T.ravel()]
        image.PixelSpacing = [f"{lengths[1]:.6f}", f"{lengths[0]:.6f}"]
        image.SliceThickness = f"{lengths[2]:.4f}"
        image.Rows, image.Columns = values.shape[1], values.shape[0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = "1", "-1024", "HU"
        image.PixelData = (values[:, :, k].T.astype(np.int32) + 1024).astype("<u2").tobytes()
        image.save_as(path, enforce_file_format=True)
    return folder
