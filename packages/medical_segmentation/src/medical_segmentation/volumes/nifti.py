"""NIfTI in and out. The affine is authoritative; what is written is equal to its source bit for bit in shape and affine."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from medical_segmentation.volumes.geometry import Geometry, check_affine, warnings_of
from medical_segmentation.volumes.volume import ReadingOptions, Volume, finish

CHUNK = 1 << 20
GZIP_MOST = 1100  # times its own size that a gzip file can hold at most
TEXTS = ("descrip", "aux_file", "intent_name", "db_name")  # fields in which tools keep names of patients


def read_nifti(path: Path, options: ReadingOptions = ReadingOptions()) -> Volume:
    """A NIfTI file (or .hdr/.img pair).

    Raises:
        UserError: it cannot be read (a truncated one is said to be), is not three- or four-dimensional, or has an affine that is no affine.
    """
    with _open_stream(path) as stream:
        image = _open_image(path, stream)
        header = image.header
        shape = _plain_shape(image.shape, path)
        affine, warnings = _affine(header, path, options)
        _check_size(header, shape, path, packed=isinstance(stream, gzip.GzipFile))
        try:
            array = np.asanyarray(image.dataobj).reshape(shape)
            while stream.read(CHUNK):
                pass  # the checksum stands at the end of gzip: what was read may be wrong until then
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise UserError(f"{path} is damaged: {_reason(error)}", "copy or download it again") from None
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    # the machine's own byte order, and single precision where scaling made doubles
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    x, y, z = array.shape[:3]
    geometry = Geometry((x, y, z), affine)
    unit = _unit(header)
    if unit not in ("mm", "unknown"):
        factor = {"meter": 1000.0, "micron": 0.001}[unit]
        warnings.append(f"its unit is {unit}: lengths are read as such (× {factor:g} mm)")
        geometry = Geometry(geometry.shape, np.diag([factor, factor, factor, 1.0]) @ affine)
    volume = Volume(
        array, geometry, "NIfTI", [path], warnings=[*warnings, *warnings_of(geometry)], header=header.copy()
    )
    volume.facts["stored as"] = f"{header.get_data_dtype().newbyteorder('=')}"
    if header.endianness == ">":
        volume.facts["byte order"] = "big-endian"
    return finish(volume, options, path)


def _open_stream(path: Path) -> Any:
    """The content of a file, unpacked where its first bytes say gzip, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _open_image(path: Path, stream: Any) -> Any:
    """The image, its voxels still unread: those of a pair by its name, else those of the stream.

    Raises:
        UserError: it is not NIfTI, or damaged.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        if path.suffix.lower() in (".hdr", ".img"):
            image: Any = nib.load(path)
            if not isinstance(image, nib.Nifti1Pair):
                raise UserError(f"{path} is {type(image).__name__}, not NIfTI", "convert it: nib-convert, dcm2niix")
            return image
        head = stream.read(4)
        stream.seek(0)
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            size = int(kind.header_class.sizeof_hdr).to_bytes(4, "little")
            if head in (size, size[::-1]):
                return kind.from_file_map({"image": nib.FileHolder(str(path), stream)})
        raise ImageFileError("it is empty" if not head else "it is not NIfTI")
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, WrapStructError, HeaderDataError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}", "copy or download it again") from None


def _plain_shape(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Two to four axes, without trailing ones of length one.

    Raises:
        UserError: there are others.
    """
    plain = shape
    while len(plain) > 4 and plain[-1] == 1:  # spelled out by some tools
        plain = plain[:-1]
    if len(plain) == 5 and plain[3] == 1:  # channels on the fifth axis, as the standard has vectors
        plain = (*plain[:3], plain[4])
    if len(plain) not in (2, 3, 4) or min(plain, default=0) < 1:
        raise UserError(f"{path} has {len(shape)} axes {shape}: three or four are needed")
    return plain


def _unit(header: Any) -> str:
    """The unit of lengths; "unknown" for a code that the standard does not have."""
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _check_size(header: Any, shape: tuple[int, ...], path: Path, *, packed: bool) -> None:
    """The voxels that the header describes can be in the file: nothing is allocated for those that cannot.

    Raises:
        UserError: they cannot.
    """
    described = int(np.prod(shape, dtype=object)) * header.get_data_dtype().itemsize
    data = path.with_suffix(".img") if path.suffix.lower() == ".hdr" else path
    stored = data.stat().st_size if data.exists() else 0
    most = stored * GZIP_MOST if packed else stored
    if described > most:
        raise UserError(
            f"{path} is damaged: it is truncated, or its header is wrong ({described:,} bytes of voxels described, {stored:,} in the file)",
            "copy or download it again",
        )


def _affine(header: Any, path: Path, options: ReadingOptions) -> tuple[NDArray[np.float64], list[str]]:
    """sform if its code is set, else qform, else the spacing alone."""
    from nibabel.spatialimages import HeaderDataError

    warnings = []
    zooms = [float(each) for each in header.get_zooms()[:3]] + [1.0] * (3 - len(header.get_zooms()[:3]))
    if header["sform_code"] > 0:
        affine = check_affine(header.get_sform(), path)
    elif header["qform_code"] > 0:
        try:
            affine = check_affine(header.get_qform(), path)
        except (ValueError, HeaderDataError) as error:
            raise UserError(f"{path}: its qform is no rotation ({error})", "convert the volume again") from None
    else:
        if options.spacing is not None:
            zooms = list(options.spacing)
        affine = check_affine(np.diag([*zooms, 1.0]), path)
        warnings.append("it has no affine: orientation and place are not known, only the spacing is")
        return affine, warnings
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(lengths, zooms, rtol=1e-3, atol=1e-4):
        stated = " × ".join(f"{each:.4g}" for each in zooms)
        actual = " × ".join(f"{each:.4g}" for each in lengths)
        warnings.append(f"pixdim says {stated} mm, the affine {actual} mm: the affine is used")
    return affine, warnings


def write_nifti(mask: NDArray, like: Volume, path: Path) -> Path:
    """Writes labels on the grid of a volume: same shape, affine, units and codes; no text of the source is taken over.

    Args:
        mask: (x, y, z), integers or floats.
        like: its grid; a NIfTI's own header is copied, so that sform and qform stay as they are bit for bit.
        path: .nii or .nii.gz.
    """
    import nibabel as nib

    if mask.shape != like.geometry.shape:
        raise ValueError(f"labels of shape {mask.shape} for a volume of {like.geometry.shape}")
    if like.header is not None:
        header = like.header.copy()
        affine = None  # sform and qform stay in the header as they are
    else:
        header = nib.Nifti1Header()
        affine = like.geometry.affine
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(mask.shape)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    for text in TEXTS:
        if text in header:
            header[text] = b""
    header.extensions = type(header.extensions)()
    if like.header is None:
        header.set_xyzt_units("mm")
        image = nib.Nifti1Image(mask, affine, header)
        image.set_sform(affine, 1)
        if like.geometry.shear <= 0.01:  # a rotation cannot hold shear: the qform would lie
            image.set_qform(affine, 1)
    else:
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(mask, None, kind.header_class.from_header(header, check=False))
        for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
            image.header[field] = like.header[field]
        for field in ("qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units"):
            image.header[field] = like.header[field]
        image.header["pixdim"][:4] = like.header["pixdim"][:4]
    with writing(path) as part:
        data = image.to_bytes()
        if path.name.endswith(".gz"):
            # without a time stamp: the same labels are the same file
            data = gzip.compress(data, compresslevel=3, mtime=0)
        part.write_bytes(data)
    return path


def _reason(error: BaseException) -> str:
    text = str(error)
    if (
        isinstance(error, (EOFError, zlib.error))
        or "end-of-stream" in text
        or "Expected" in text
        or "wrong size" in text
    ):
        return "it is truncated"
    return text.splitlines()[0] if text else type(error).__name__
