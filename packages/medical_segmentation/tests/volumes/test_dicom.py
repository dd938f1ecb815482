"""DICOM series: places, never names; every reason to refuse in one line."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from core_runtime.errors import UserError
from medical_segmentation.volumes.dicom import read_series
from medical_segmentation.volumes.opening import case_name
from medical_segmentation.volumes.volume import ReadingOptions


def test_slices_are_sorted_by_where_they_lie(series):
    volume = read_series(series.folder)
    assert np.array_equal(volume.array, series.values)
    assert np.allclose(volume.geometry.affine, series.affine, atol=1e-5)
    assert volume.modality == "CT"


def test_two_series_in_a_folder_and_the_choice_of_one(series):
    def another(dataset):
        dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3.4", 9

    series.change(another, 0)
    with pytest.raises(UserError, match=r"holds 2 series: 1: CT, 5 images; 2: CT, 1 images") as error:
        read_series(series.folder)
    assert "Muster" not in str(error.value) + error.value.hint
    assert read_series(series.folder, ReadingOptions(series="1")).geometry.shape[2] == 5
    with pytest.raises(UserError, match="no series 7"):
        read_series(series.folder, ReadingOptions(series="7"))


def test_a_missing_slice(series):
    series.change(lambda dataset: None)[2].unlink()
    with pytest.raises(UserError, match="1 slice is missing"):
        read_series(series.folder)


def test_doubled_places_and_copied_files(series):
    files = series.change(lambda dataset: None)
    (series.folder / "copy.dcm").write_bytes(files[0].read_bytes())
    volume = read_series(series.folder)
    assert volume.geometry.shape[2] == 6
    assert any("copies" in warning for warning in volume.warnings)
    dataset = pydicom.dcmread(files[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
    dataset.save_as(series.folder / "copy.dcm")
    with pytest.raises(UserError, match="1 slice at the place of another"):
        read_series(series.folder)


def test_uneven_spacing(series):
    def move(dataset):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) + 0.4]

    series.change(move, 3)
    with pytest.raises(UserError, match="unevenly spaced"):
        read_series(series.folder)


def _moved(dataset):
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [float(x) + 30, y, z]


def _mirrored(dataset):
    dataset.PixelSpacing = [-0.8, 0.8]


def _of_one_name(dataset):
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"


def _inverted(dataset):
    dataset.PhotometricInterpretation = "MONOCHROME1"


@pytest.mark.parametrize(
    ("change", "number", "says"),
    [
        (_moved, 3, "1 slice up to 30.0 mm beside the line"),
        (_mirrored, None, "PixelSpacing is negative"),
        (_of_one_name, None, "have one SOPInstanceUID and lie at different places"),
        (_inverted, 3, "2 kinds of grey values"),
    ],
)
def test_slices_that_do_not_belong_together(series, change, number, says):
    series.change(change) if number is None else series.change(change, number)
    with pytest.raises(UserError, match=says):
        read_series(series.folder)


def test_a_place_that_is_not_a_number(series):
    file = series.change(lambda dataset: None)[3]
    stored = pydicom.dcmread(file).get_item("ImagePositionPatient").value
    file.write_bytes(file.read_bytes().replace(stored, b"0\\0\\nan".ljust(len(stored))))
    with pytest.raises(UserError, match=rf"{file.name}: its position or spacing is not a finite number"):
        read_series(series.folder)


def test_a_gap_that_is_no_multiple_is_uneven_not_a_missing_slice(series):
    def move(dataset):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) + 1.7]

    series.change(move, 5)
    with pytest.raises(UserError, match=r"unevenly spaced \(2\.500 to 4\.200 mm\)"):
        read_series(series.folder)


def test_a_localiser_is_left_out_and_another_orientation_refused(series):
    def localiser(dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    series.change(localiser, 5)
    volume = read_series(series.folder)
    assert volume.geometry.shape[2] == 5
    assert any("localiser" in warning for warning in volume.warnings)

    def coronal(dataset):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    series.change(coronal, 0)
    with pytest.raises(UserError, match="another orientation"):
        read_series(series.folder)


def test_gantry_tilt_is_kept_exactly_and_named(series):
    def tilt(dataset):
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + 0.3 * z, z]

    series.change(tilt)
    volume = read_series(series.folder)
    assert any("tilted" in warning for warning in volume.warnings)
    assert volume.geometry.affine[1, 2] == pytest.approx(-0.3 * 2.5, abs=1e-4)


def test_an_empty_slice_thickness_matters_for_one_slice_only(series):
    def empty(dataset):
        dataset.SliceThickness = None

    files = series.change(empty)
    assert read_series(series.folder).geometry.spacing[2] == pytest.approx(2.5)
    with pytest.raises(UserError, match="its depth is not known"):
        read_series(files[0])


def test_monochrome1_is_inverted_and_signed_and_short_bits_are_read(series):
    def inverted(dataset):
        dataset.PhotometricInterpretation = "MONOCHROME1"

    series.change(inverted)
    volume = read_series(series.folder)
    stored = series.values.astype(int) + 1024
    assert np.array_equal(volume.array, 65535 - stored - 1024)

    def signed(dataset):
        dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 1
        dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 12, 11, "0"
        values = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 1024
        dataset.PixelData = (values & 0xFFF).astype("<u2").tobytes()  # the upper bits are not part of the value

    series.change(signed)
    assert np.array_equal(read_series(series.folder).array, series.values)


def test_rescale_slopes_that_are_fractions(series):
    def scaled(dataset):
        dataset.RescaleSlope = "0.5"

    series.change(scaled)
    expected = (series.values.astype(float) + 1024) * 0.5 - 1024
    assert np.allclose(read_series(series.folder).array, expected)


def test_objects_without_pixels_and_colour(series):
    def without(dataset):
        del dataset.PixelData, dataset.Rows

    series.change(without, 0)
    with pytest.raises(UserError, match="holds no pixel data"):
        read_series(series.folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rtplan.dcm", "no pixel data"),
        ("SC_rgb_rle.dcm", "colour picture"),
        ("JPEG-lossy.dcm", "colour|NM|frames|lie"),
    ],
)
def test_files_of_pydicom_that_are_no_slices(name, says):
    from pydicom.data import get_testdata_file

    with pytest.raises(UserError, match=says):
        read_series(Path(get_testdata_file(name)))


def test_a_compression_without_decoder_names_the_package(series, monkeypatch):
    def deflate(dataset):
        dataset.compress(pydicom.uid.RLELossless)

    series.change(deflate)
    assert np.array_equal(read_series(series.folder).array, series.values)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.RLELossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(UserError, match="no decoder for it is installed") as error:
        read_series(series.folder)
    assert "compressed" in error.value.hint


def test_byte_orders_and_compressions_of_the_same_slice_agree():
    from pydicom.data import get_testdata_file

    names = ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm")
    arrays = [read_series(Path(get_testdata_file(name))).array for name in names]
    for array in arrays[1:]:
        assert np.array_equal(array, arrays[0])


def test_an_empty_folder_and_noise(tmp_path):
    with pytest.raises(UserError, match="no DICOM files"):
        read_series(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)))
    with pytest.raises(UserError):
        read_series(tmp_path)


def test_a_folder_named_after_the_patient_gives_no_file_name(series):
    folder = series.folder.rename(series.folder.with_name("MUSTER_ERIKA"))
    name = case_name(folder, folder)
    assert name.startswith("case-")
    assert "muster" not in name.lower()


def test_labels_in_pictures_belong_to_the_files_of_their_names(series, tmp_path):
    """CHAOS: the ground truth of IM0003.dcm is IM0003.png, wherever that slice lies."""
    from PIL import Image

    from medical_segmentation.volumes.opening import read_labels

    volume = read_series(series.folder)
    expected = (volume.array > 0).astype(np.uint8)
    ground = tmp_path / "Ground"
    ground.mkdir()
    for k, path in enumerate(volume.files):
        Image.fromarray(np.ascontiguousarray(expected[:, :, k].T)).save(ground / f"{path.stem}.png")
    labels, _ = read_labels(ground, volume)
    assert np.array_equal(labels, expected)


def multi_frame(series, path, order):
    """The slices of a series as one enhanced object, its frames in any order."""
    from pydicom.dataset import Dataset
    from pydicom.uid import EnhancedCTImageStorage, generate_uid

    sources = [pydicom.dcmread(file) for file in series.change(lambda dataset: None)]
    whole = sources[0].copy()
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    shared = Dataset()
    measures, turn, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, "2.5"
    turn.ImageOrientationPatient = whole.ImageOrientationPatient
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = whole.RescaleSlope, whole.RescaleIntercept, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    shared.PixelValueTransformationSequence = [values]
    whole.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in order:
        place, own = Dataset(), Dataset()
        place.ImagePositionPatient = sources[number].ImagePositionPatient
        own.PlanePositionSequence = [place]
        frames.append(own)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(whole, name)
    whole.PerFrameFunctionalGroupsSequence, whole.NumberOfFrames = frames, len(frames)
    whole.PixelData = b"".join(sources[number].PixelData for number in order)
    whole.save_as(path)
    return path


def test_frames_of_one_object_are_sorted_like_slices_and_its_segmentation_too(series, tmp_path):
    from medical_segmentation.volumes.dicom_seg import read_dicom_seg, write_dicom_seg

    volume = read_series(multi_frame(series, tmp_path / "enhanced.dcm", [3, 0, 5, 1, 4, 2]))
    assert np.array_equal(volume.array, series.values)
    assert np.allclose(volume.geometry.affine, series.affine, atol=1e-5)
    labels = np.random.default_rng(0).integers(0, 2, volume.geometry.shape).astype(np.uint8)
    path = write_dicom_seg(labels, volume, ("background", "liver"), tmp_path / "seg.dcm", model="test")
    assert np.array_equal(read_dicom_seg(path, volume), labels)


def test_pixel_spacing_is_that_between_rows_then_that_between_columns(series):
    series.change(lambda dataset: setattr(dataset, "PixelSpacing", [0.5, 0.8]))
    # x runs along a row, from one column to the next
    assert read_series(series.folder).geometry.spacing == pytest.approx((0.8, 0.5, 2.5), abs=1e-5)
