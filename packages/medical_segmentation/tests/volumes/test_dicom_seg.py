"""DICOM segmentations, read back by an independent program (dcmqi) and by ourselves."""

import numpy as np
import pydicom
import pytest
from reading_back import DCMQI, places_of, read_by_dcmqi

from medical_segmentation.volumes.dicom import read_series
from medical_segmentation.volumes.dicom_seg import read_dicom_seg, write_dicom_seg
from medical_segmentation.volumes.rtstruct import write_rtstruct

NAMES = ("background", "liver", "spleen")


@pytest.fixture
def labelled(series):
    volume = read_series(series.folder)
    labels = np.random.default_rng(1).integers(0, 3, volume.geometry.shape).astype(np.uint8)
    labels[:, :, 4] = 0  # a slice without organs, which has no frame of its own
    return volume, labels


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_the_same_labels_come_back(labelled, tmp_path, form):
    volume, labels = labelled
    path = write_dicom_seg(labels, volume, NAMES, tmp_path / "seg.dcm", model="test", form=form)
    assert np.array_equal(read_dicom_seg(path, volume), labels)
    written = pydicom.dcmread(path)
    source = pydicom.dcmread(volume.files[0])
    assert written.PatientID == source.PatientID
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert written.FrameOfReferenceUID == source.FrameOfReferenceUID


@pytest.mark.skipif(DCMQI is None, reason="needs dcmqi")
@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_dcmqi_gets_the_same_voxels_at_the_same_place(labelled, tmp_path, form):
    volume, labels = labelled
    path = write_dicom_seg(labels, volume, NAMES, tmp_path / "seg.dcm", model="test", form=form)
    again = read_by_dcmqi(path, volume.geometry, tmp_path / "itk", form=form)
    assert np.array_equal(again, labels)


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_highdicom_gets_the_same_voxels_at_the_same_place(labelled, tmp_path, form):
    import warnings

    import highdicom as hd

    volume, labels = labelled
    path = write_dicom_seg(labels, volume, NAMES, tmp_path / "seg.dcm", model="test", form=form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = hd.seg.segread(path).get_volume(combine_segments=True)
    indices = np.argwhere(read.array > 0)
    ras = np.diag([-1, -1, 1, 1]) @ read.affine
    again = np.zeros_like(labels)
    again[places_of(ras, indices, volume.geometry)] = read.array[tuple(indices.T)]
    assert np.array_equal(again, labels)


def test_an_empty_mask_is_a_valid_result(labelled, tmp_path):
    volume, labels = labelled
    path = write_dicom_seg(np.zeros_like(labels), volume, NAMES, tmp_path / "seg.dcm", model="test")
    assert not read_dicom_seg(path, volume).any()


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_deidentified_outputs_name_nobody(labelled, tmp_path, write):
    volume, labels = labelled
    path = write(labels, volume, NAMES, tmp_path / "out.dcm", model="test", deidentify=True)
    data = path.read_bytes()
    for word in (b"Muster", b"S-4711", b"A-0815", b"19500101", b"20260101"):
        assert word not in data, word
    source = pydicom.dcmread(volume.files[0])
    assert str(source.StudyInstanceUID).encode() not in data


def test_contours_surround_their_voxels(labelled, tmp_path):
    volume, labels = labelled
    labels = np.zeros_like(labels)
    labels[3:8, 2:7, 1:3] = 1
    path = write_rtstruct(labels, volume, NAMES, tmp_path / "rt.dcm", model="test")
    structures = pydicom.dcmread(path)
    contours = structures.ROIContourSequence[0].ContourSequence
    assert len(contours) == 2
    points = np.array(contours[0].ContourData, float).reshape(-1, 3)
    ras = np.c_[points * [-1, -1, 1], np.ones(len(points))]
    index = (np.linalg.inv(volume.geometry.affine) @ ras.T)[:3]
    assert index[0].min() == pytest.approx(2.5, abs=1e-3)
    assert index[0].max() == pytest.approx(7.5, abs=1e-3)
    assert np.allclose(index[2], 1, atol=1e-3)
    assert str(pydicom.dcmread(volume.files[1]).SOPInstanceUID) in {
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID for contour in contours
    }
