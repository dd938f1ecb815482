"""Which files are volumes, by name and first bytes. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from core_runtime.domains import Claim

NIFTI = (".nii", ".nii.gz", ".img", ".hdr")
METAIMAGE = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
ARRAYS = (".npy",)
ENDINGS = (*NIFTI, *METAIMAGE, *NRRD, *ARRAYS)
DICOM_ENDINGS = (".dcm", ".ima")
PICTURES = (".png", ".tif", ".tiff")
READ = "volumes are .nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr, .npy, DICOM files or a folder of one DICOM series"


def is_hidden(path: Path) -> bool:
    """Whether a file is hidden: ``._name`` beside every file is what macOS leaves on foreign disks."""
    return path.name.startswith(".")


def ending(path: Path) -> str:
    """The ending that names a volume's format; "" for others."""
    name = path.name.lower()
    for each in sorted(ENDINGS, key=len, reverse=True):
        if name.endswith(each):
            return each
    return ""


def stem(path: Path) -> str:
    """The name without that ending."""
    each = ending(path)
    return path.name[: -len(each)] if each else path.stem


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its preamble, or by its ending where it has none (an empty one is a damaged slice)."""
    if is_hidden(path) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:132] == b"DICM" or path.suffix.lower() in DICOM_ENDINGS


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder."""
    return sorted(path for path in folder.iterdir() if is_dicom(path))


def is_volume(path: Path) -> bool:
    """Whether a path is a volume: a file by its ending, a DICOM file, or a folder of DICOM files."""
    if is_hidden(path):
        return False
    if path.is_dir():
        return any(is_dicom(each) for each in path.iterdir())
    # a .img belongs to its .hdr
    return (ending(path) not in ("", ".img") and path.is_file()) or is_dicom(path)


def claim(path: Path) -> Claim | None:
    """How sure it is that a path is a volume of ours."""
    if path.is_dir():
        if (path / "dataset.json").is_file() and ((path / "imagesTr").is_dir() or (path / "imagesTs").is_dir()):
            return Claim("nnU-Net or Decathlon folder", 0.95, "dataset.json beside imagesTr")
        if dicom_files(path):
            return Claim("DICOM series", 0.9, "DICOM files")
        return None
    if is_hidden(path) or not path.is_file():
        return None
    name = ending(path)
    if name in NIFTI and name != ".img" and _is_nifti(path):
        return Claim("NIfTI volume", 0.95, "NIfTI header")
    if name in METAIMAGE + NRRD:
        with path.open("rb") as file:
            head = file.read(64)
        if b"NRRD" in head or b"ObjectType" in head or b"NDims" in head:
            return Claim("volume", 0.9, f"{name} header")
        return None
    if is_dicom(path):
        with path.open("rb") as file:
            file.seek(128)
            if file.read(4) == b"DICM":
                return Claim("DICOM file", 0.85, "DICM after the preamble")
    return None


def _is_nifti(path: Path) -> bool:
    import gzip
    import zlib

    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            head = file.read(348)
    except (OSError, EOFError, zlib.error):
        return False
    # sizeof_hdr, in either byte order, of NIfTI-1 or NIfTI-2
    return head[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
