"""NIfTI: the affine as it is, and every kind of damage in one line."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from core_runtime.errors import UserError
from medical_segmentation.volumes.nifti import read_nifti, write_nifti
from medical_segmentation.volumes.opening import find_volumes, open_volume, read_labels
from medical_segmentation.volumes.volume import ReadingOptions, require_image, require_single

LAS = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -40], [0, 0, 3, -10], [0, 0, 0, 1]])
OBLIQUE = np.array([[1.0, 0, 0, 5], [0, 1.95, -0.4, 2], [0, 0.3, 2.4, -9], [0, 0, 0, 1]])
SHEARED = np.array([[1.0, 0.3, 0, 5], [0, 1, 0.2, 2], [0, 0, 2, -9], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [LAS, OBLIQUE, SHEARED], ids=["LAS", "oblique", "sheared"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4"])
def test_what_is_written_has_the_grid_of_its_source_bit_for_bit(nifti, tmp_path, affine, dtype):
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    path = nifti(values, affine, "source.nii", sform_code=2)
    volume = read_nifti(path)
    assert np.array_equal(volume.array, values)
    mask = (values % 3 == 0).astype(np.uint8)
    write_nifti(mask, volume, tmp_path / "mask.nii.gz")
    source, written = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(source.affine, written.affine)
    assert source.shape == written.shape
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), mask)
    for field in ("sform_code", "qform_code", "srow_x", "quatern_b", "xyzt_units"):
        assert np.array_equal(source.header[field], written.header[field]), field


def test_sheared_axes_are_named_since_itk_refuses_them(nifti):
    assert any("sheared" in warning for warning in read_nifti(nifti(np.zeros((4, 4, 4), np.int16), SHEARED)).warnings)


def test_no_text_of_the_source_is_taken_over(nifti, tmp_path):
    path = nifti(np.zeros((4, 4, 4), np.int16), descrip=b"Erika Muster", aux_file=b"MUSTER")
    write_nifti(np.zeros((4, 4, 4), np.uint8), read_nifti(path), tmp_path / "mask.nii")
    assert b"uster" not in (tmp_path / "mask.nii").read_bytes()


@pytest.mark.parametrize(
    ("affine", "says"),
    [(np.diag([1.0, 0, 1, 1]), "singular"), (np.diag([1.0, np.nan, 1, 1]), "not finite")],
    ids=["singular", "NaN"],
)
def test_affines_that_are_none(nifti, affine, says):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    path = nifti(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image = nib.load(path)
    header = image.header.copy()
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = affine[row]
    data = bytearray(header.binaryblock + b"\0" * 4 + np.zeros((4, 4, 4), np.int16).tobytes())
    path.write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(UserError, match=says):
        read_nifti(path)


def test_without_affine_the_spacing_alone_is_known(nifti):
    path = nifti(np.zeros((4, 4, 4), np.int16), None, pixdim=[1, 1.5, 1.5, 4, 1, 1, 1, 1])
    volume = read_nifti(path)
    assert any("no affine" in warning for warning in volume.warnings)
    assert volume.geometry.spacing == pytest.approx((1.5, 1.5, 4))


def test_sform_wins_over_qform_and_both_are_kept(nifti, tmp_path):
    path = nifti(np.arange(64, dtype=np.int16).reshape(4, 4, 4), LAS)
    image = nib.load(path)
    turned = np.diag([2.0, -2, 3, 1])
    image.set_sform(LAS, 1)
    image.set_qform(turned, 1)
    nib.save(image, tmp_path / "both.nii")
    volume = read_nifti(tmp_path / "both.nii")
    assert np.array_equal(volume.geometry.affine, LAS)
    write_nifti(np.ones((4, 4, 4), np.uint8), volume, tmp_path / "mask.nii")
    mask = nib.load(tmp_path / "mask.nii")
    assert np.array_equal(mask.get_sform(), LAS)
    assert np.allclose(mask.get_qform(), turned)


def test_pixdim_that_contradicts_the_affine(nifti):
    path = nifti(np.zeros((4, 4, 4), np.int16), np.diag([1.5, 1.5, 4, 1]), pixdim=[1, 1.5, 1.5, 3, 1, 1, 1, 1])
    volume = read_nifti(path)
    assert any("pixdim says" in warning for warning in volume.warnings)
    assert volume.geometry.spacing[2] == pytest.approx(4)


def test_a_truncated_file_is_said_to_be(nifti):
    path = nifti(np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="truncated"):
        read_nifti(path)


def test_four_dimensions_where_three_are_needed(nifti):
    path = nifti(np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32))
    with pytest.raises(UserError, match="4-D"):
        require_single(read_nifti(path), path)
    chosen = read_nifti(path, ReadingOptions(channel=2))
    assert chosen.array.shape == (4, 5, 6)
    with pytest.raises(UserError, match="no --channel 5"):
        read_nifti(path, ReadingOptions(channel=5))


def test_voxels_that_are_not_finite(nifti):
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    path = nifti(values)
    with pytest.raises(UserError, match=r"2 of 120 voxels are NaN or infinite") as error:
        require_image(read_nifti(path), path)
    assert "--fill" in error.value.hint
    assert np.isfinite(read_nifti(path, ReadingOptions(fill=-1)).array).all()


def test_a_constant_image(nifti):
    path = nifti(np.full((4, 4, 4), 7, np.int16))
    with pytest.raises(UserError, match="every voxel is 7"):
        require_image(read_nifti(path), path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.float32(0.5), "not whole numbers"),
        (np.int16(-3), r"-3 \(1 voxels\)"),
        (np.int16(900), r"900 \(1 voxels\)"),
        (np.int16(7), r"not known: 7 \(1 voxels\)"),
    ],
    ids=["float", "negative", "large", "unknown"],
)
def test_labels_that_are_none(nifti, values, says):
    labels = np.zeros((4, 4, 4), values.dtype)
    labels[1, 1, 1] = values
    with pytest.raises(UserError, match=says):
        read_labels(nifti(labels), None, names={0: "background", 1: "liver"})


def test_labels_of_255_can_be_mapped_and_nearly_whole_ones_are_rounded(nifti):
    labels = np.zeros((4, 4, 4), np.float32)
    labels[1, 1, 1] = 254.9999
    read, _ = read_labels(nifti(labels), None, names={0: "background", 1: "liver"}, mapping={255: 1})
    assert read[1, 1, 1] == 1
    assert read.sum() == 1


def test_labels_on_another_grid(nifti):
    image = read_nifti(nifti(np.ones((4, 4, 4), np.int16), LAS))
    moved = LAS.copy()
    moved[0, 3] += 2
    for affine, says in ((np.diag([2.0, 2, 3, 1]), "axes LAS beside|axes RAS beside"), (moved, "mm away")):
        with pytest.raises(UserError, match=says):
            read_labels(nifti(np.ones((4, 4, 4), np.uint8), affine, "labels.nii.gz"), image)
    with pytest.raises(UserError, match="beside 4 × 4 × 4"):
        read_labels(nifti(np.ones((4, 4, 5), np.uint8), LAS, "labels.nii.gz"), image)


def test_hidden_files_spaces_and_umlauts(nifti, tmp_path):
    path = nifti(np.ones((4, 4, 4), np.int16), name="a folder/Bäuche 1.nii.gz")
    path.with_name("._Bäuche 1.nii.gz").write_bytes(b"\0\5\x16\7")
    assert find_volumes(path.parent) == [path]
    assert open_volume(path).geometry.shape == (4, 4, 4)


def test_slices_as_pictures_are_a_volume_where_the_spacing_is_said(cli, untrained, tmp_path):
    from PIL import Image

    folder = tmp_path / "case"
    folder.mkdir()
    for number in (2, 10, 1):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"slice{number}.png")
    assert find_volumes(folder) == [folder]
    assert find_volumes(tmp_path) == [folder]
    code, _, err = cli("organs", "predict", folder, "--model", untrained, "--out", tmp_path / "out")
    assert code == 2
    assert "does not say its spacing" in err
    code, _, err = cli(
        "organs", "predict", folder, "--model", untrained, "--spacing", "1,1,3", "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert nib.load(tmp_path / "out" / "case" / "case.nii.gz").shape == (16, 20, 3)


def test_a_header_without_its_data_names_the_file(nifti, tmp_path):
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(str(nifti(np.ones((4, 4, 4), np.int16)))), str(tmp_path / "a.mhd"))
    assert open_volume(tmp_path / "a.mhd").geometry.shape == (4, 4, 4)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(UserError, match=r"names a\.raw, which is not there"):
        open_volume(tmp_path / "a.mhd")
    header = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(header.replace("a.raw", "/etc/hostname"))
    with pytest.raises(UserError, match="outside of its folder"):
        open_volume(tmp_path / "a.mhd")


def test_a_metaimage_that_is_cut(nifti, tmp_path):
    import SimpleITK as sitk

    path = tmp_path / "cut.mha"
    sitk.WriteImage(sitk.ReadImage(str(nifti(np.ones((8, 8, 8), np.int16)))), str(path))
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UserError, match="it is cut, or its header describes other data"):
        open_volume(path)


def test_other_formats_agree_with_nifti(nifti, tmp_path):
    import nrrd
    import SimpleITK as sitk

    values = np.random.default_rng(0).integers(-500, 500, (5, 6, 7)).astype(np.int16)
    # at right angles, as ITK asks
    turn = np.radians(10)
    affine = LAS.copy()
    affine[:3, :3] = (
        np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) @ LAS[:3, :3]
    )
    path = nifti(values, affine)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "volume.mha"))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(tmp_path / "volume.nrrd"), values, header)
    for name in ("volume.mha", "volume.nrrd"):
        volume = open_volume(tmp_path / name)
        assert np.array_equal(volume.array, values), name
        assert np.allclose(volume.geometry.affine, affine, atol=1e-4), name
