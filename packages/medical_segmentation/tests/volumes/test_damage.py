"""Files that say something else than they hold: each is named in one line, none gives a wrong answer."""

import gzip
import shutil
import struct

import numpy as np
import pytest

from core_runtime.errors import UserError
from medical_segmentation.volumes.dicom import read_series
from medical_segmentation.volumes.dicom_seg import why_no_segmentation, write_dicom_seg
from medical_segmentation.volumes.nifti import read_nifti
from medical_segmentation.volumes.opening import open_volume, read_labels

NAMES = ("background", "liver", "spleen")


def noise(*shape):
    return np.random.default_rng(0).normal(0, 300, shape).astype(np.float32)


def test_gzip_is_told_by_its_first_bytes_whatever_the_file_is_called(nifti):
    values = noise(5, 4, 3)
    plain = nifti(values, np.eye(4), "plain.nii")
    packed = nifti(values, np.eye(4), "packed.nii.gz")
    for path, name in ((plain, "plain.nii.gz"), (packed, "packed.nii")):
        renamed = path.rename(path.with_name(name))
        assert np.array_equal(read_nifti(renamed).array, values), name


def test_a_flipped_bit_in_a_compressed_file_is_noticed(nifti):
    """The stream can still be unpacked; only its checksum tells."""
    path = nifti(noise(20, 20, 20), np.eye(4))
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged"):
        read_nifti(path)


@pytest.mark.parametrize("name", ["huge.nii", "huge.nii.gz"])
def test_a_header_that_describes_more_than_the_file_can_hold(nifti, name):
    path = nifti(np.zeros((4, 4, 4), np.int16), np.eye(4), "source.nii")
    data = bytearray(path.read_bytes())
    data[42:48] = struct.pack("<hhh", 30000, 30000, 30000)
    damaged = path.with_name(name)
    damaged.write_bytes(gzip.compress(bytes(data)) if name.endswith("gz") else bytes(data))
    with pytest.raises(UserError, match="54,000,000,000,000 bytes of voxels described"):
        read_nifti(damaged)


@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_files_that_end_early(nifti, name, share):
    path = nifti(noise(12, 12, 12), np.eye(4), name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"truncated|cannot be read"):
        read_nifti(path)


@pytest.mark.parametrize("name", ["empty.nii", "empty.nii.gz", "text.nii"])
def test_files_that_are_no_nifti(tmp_path, name):
    (tmp_path / name).write_bytes(b"hello " * 200 if name.startswith("text") else b"")
    with pytest.raises(UserError, match="cannot be read"):
        read_nifti(tmp_path / name)


@pytest.mark.parametrize("kind", ["complex64", "colours"])
def test_values_that_are_not_one_real_number(nifti, kind):
    values = noise(4, 4, 4).astype(np.complex64)
    if kind == "colours":
        values = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UserError, match=kind):
        read_nifti(nifti(values, np.eye(4)))


@pytest.mark.parametrize(
    ("affine", "says"),
    [
        (np.diag([1e-5, 1e-5, 1e-5, 1]), "hardly those of a body"),
        (np.diag([900.0, 900, 900, 1]), "hardly those of a body"),
    ],
)
def test_voxels_of_an_implausible_size(nifti, affine, says):
    assert any(says in warning for warning in read_nifti(nifti(noise(4, 4, 4), affine)).warnings)


def test_a_place_far_away(nifti):
    affine = np.eye(4)
    affine[0, 3] = 3e6
    assert any("3e+03 m from the origin" in warning for warning in read_nifti(nifti(noise(4, 4, 4), affine)).warnings)


def test_a_table_of_contents_beside_the_slices_is_passed_over(series):
    from pydicom.data import get_testdata_file

    shutil.copy(str(get_testdata_file("dicomdirtests/DICOMDIR")), series.folder)
    volume = read_series(series.folder)
    assert volume.geometry.shape[2] == 6
    assert any("DICOMDIR" in warning for warning in volume.warnings)


def test_an_empty_file_at_the_end_of_a_series_is_not_a_shorter_series(series):
    files = series.change(lambda dataset: None)
    files[-1].write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 6 files cannot be read as DICOM: .* \(empty\)"):
        read_series(series.folder)


def test_a_slice_without_ending_that_is_cut_short_is_named(series):
    files = [path.rename(path.with_suffix("")) for path in series.change(lambda dataset: None)]
    assert read_series(series.folder).warnings == []
    files[-1].write_bytes(b"\0" * 90)
    assert any("without DICOM" in warning for warning in read_series(series.folder).warnings)


@pytest.mark.parametrize("change", [-200, 300])
def test_pixels_that_are_not_as_many_as_described(series, change):
    def resize(dataset):
        data = dataset.PixelData
        dataset.PixelData = data[:change] if change < 0 else data + b"\0" * change

    series.change(resize, 2)
    with pytest.raises(UserError, match="bytes of pixels, its header describes 240"):
        read_series(series.folder)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("PixelSpacing", [0, 0], "singular"),
        ("PhotometricInterpretation", "PALETTE COLOR", "colour picture"),
        ("RescaleSlope", "0", "RescaleSlope is 0"),
        ("ImageOrientationPatient", [0] * 6, "no unit vectors"),
        ("ImagePositionPatient", None, "does not say where it lies"),
    ],
)
def test_headers_that_make_no_sense(series, field, value, says):
    series.change(lambda dataset: setattr(dataset, field, value))
    with pytest.raises(UserError, match=says):
        read_series(series.folder)


def test_a_value_that_is_shorter_than_its_kind(series):
    """Rows of one byte: pydicom finds out only when the value is asked for."""
    path = series.change(lambda dataset: None)[0]
    data = path.read_bytes()
    rows = b"\x28\x00\x10\x00US\x02\x00"
    assert data.count(rows) == 1
    at = data.index(rows)
    path.write_bytes(data[:at] + rows[:-2] + b"\x01\x00" + data[at + len(rows) : at + len(rows) + 1] + data[at + 10 :])
    with pytest.raises(UserError, match="headers are damaged"):
        read_series(path)


@pytest.mark.parametrize(("field", "says"), [("PatientID", "2 patients"), ("FrameOfReferenceUID", "2 frames of ref")])
def test_slices_of_two_bodies(series, field, says):
    series.change(lambda dataset: setattr(dataset, field, "1.2.3"), 1)
    with pytest.raises(UserError, match=says) as error:
        read_series(series.folder)
    assert "4711" not in str(error.value)


def test_every_second_slice_missing_is_said(series):
    for path in series.change(lambda dataset: setattr(dataset, "SliceThickness", "2.5"))[1::2]:
        path.unlink()
    assert any("slices are missing throughout" in warning for warning in read_series(series.folder).warnings)


def test_other_volumes_beside_a_series_are_named(series, nifti):
    assert not any("beside" in warning for warning in read_series(series.folder).warnings)
    (series.folder / "mask.nii.gz").write_bytes(nifti(np.zeros((2, 2, 2), np.uint8)).read_bytes())
    below = series.folder / "second"
    below.mkdir()
    (below / "a.dcm").write_bytes(series.change(lambda dataset: None)[0].read_bytes())
    warnings = read_series(series.folder).warnings
    assert "left out beside the slices: 2 other volumes (mask.nii.gz, second)" in warnings


def test_only_localisers_are_said_to_be(series):
    series.change(lambda dataset: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert any("localiser" in warning for warning in read_series(series.folder).warnings)


def test_a_series_without_frame_of_reference_gets_nifti_and_a_word(cli, series, untrained, tmp_path):
    def without(dataset):
        del dataset.FrameOfReferenceUID

    series.change(without)
    volume = read_series(series.folder)
    assert why_no_segmentation(volume) == "the series has no FrameOfReferenceUID"
    with pytest.raises(UserError, match="no FrameOfReferenceUID"):
        write_dicom_seg(np.zeros(volume.geometry.shape, np.uint8), volume, NAMES, tmp_path / "seg.dcm", model="test")
    code, out, err = cli("organs", "predict", series.folder, "--model", untrained, "--out", tmp_path / "out")
    assert code == 0, err
    assert "Warning: no DICOM segmentation is written: the series has no FrameOfReferenceUID" in out
    assert list((tmp_path / "out").rglob("*.nii.gz"))


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_a_segmentation_is_truth_and_no_image(series, tmp_path, form):
    volume = read_series(series.folder)
    labels = np.random.default_rng(1).integers(0, 3, volume.geometry.shape).astype(np.uint8)
    path = write_dicom_seg(labels, volume, NAMES, tmp_path / "seg.dcm", model="test", form=form)
    read, _ = read_labels(path, volume, names=dict(enumerate(NAMES)))
    assert np.array_equal(read, labels)
    with pytest.raises(UserError, match="needs the image"):
        read_labels(path, None)
    with pytest.raises(UserError, match="labels, not an image"):
        open_volume(path)


def test_a_segmentation_of_another_grid_is_no_truth(series, tmp_path):
    volume = read_series(series.folder)
    path = write_dicom_seg(np.ones(volume.geometry.shape, np.uint8), volume, NAMES, tmp_path / "seg.dcm", model="test")
    turned = [0, 1, 0, 1, 0, 0]
    for edit, says in (
        (lambda dataset: setattr(dataset, "ImageOrientationPatient", turned), "turned|no slice"),
        (lambda dataset: setattr(dataset, "Columns", 10), "pixels, the series"),
    ):
        copy = series.change(lambda dataset: None)
        original = [file.read_bytes() for file in copy]

        def both(dataset, edit=edit):
            edit(dataset)
            dataset.PixelData = dataset.PixelData[: int(dataset.Rows) * int(dataset.Columns) * 2]

        series.change(both)
        with pytest.raises(UserError, match=says):
            read_labels(path, read_series(series.folder))
        for file, data in zip(copy, original, strict=True):
            file.write_bytes(data)


def test_inspect_says_how_to_go_on(cli, nifti):
    """Labels are not predicted on; what is not finite gets --fill, what is 4-D a channel."""
    import json

    def next_of(path):
        code, out, err = cli("organs", "inspect", path, "--json")
        assert code == 0, err
        return " ".join(json.loads(out)["next"])

    assert "labels/" in next_of(nifti((noise(6, 6, 6) > 0).astype(np.uint8), np.eye(4), "labels.nii.gz"))
    holes = noise(6, 6, 6)
    holes[0, 0, 0] = np.nan
    assert "--fill 0" in next_of(nifti(holes, np.eye(4), "holes.nii.gz"))
    assert "--channel 0" in next_of(nifti(noise(6, 6, 6, 2), np.eye(4), "four.nii.gz"))
    assert next_of(nifti(np.full((6, 6, 6), 3, np.int16), np.eye(4), "constant.nii.gz")) == ""
