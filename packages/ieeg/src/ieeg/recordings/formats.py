"""The files of recorders, recognised by names and first bytes. Imports nothing heavy."""

from itertools import islice
from pathlib import Path

from core_runtime.domains import Claim

EDF_SUFFIXES = (".edf", ".bdf", ".rec")
MNE_SUFFIXES = (".vhdr", ".fif", ".fif.gz", ".set", ".lay", ".eeg", ".cnt", ".mff", ".nxe")
KNOWN_FORMATS = "EDF, BDF, BrainVision, FIF, EEGLAB, Persyst, Nihon Kohden, MEF3, SWEC HDF5"
# Kind → how sure it is that such a file is an intracranial recording, and why.
_CERTAINTY = {
    "MEF3 session": (1.0, "only MEF3 sessions are folders named .mefd"),
    "SWEC iEEG recording": (1.0, "its HDF5 holds data/ieeg"),
    "EDF recording": (0.8, "its header is EDF's"),
    "BrainVision recording": (0.8, "its header is BrainVision's"),
    "Nihon Kohden recording": (0.8, "it begins as Nihon Kohden's files do"),
    "recording (through MNE)": (0.5, "MNE reads files of this name"),
}
_FILES_LOOKED_AT = 2000  # of a folder: it may be a whole disk


def kind_of(path: Path) -> str | None:
    """The kind of recording at a path, from its name and first bytes; None: none, or it cannot be read."""
    name = path.name.lower()
    if path.is_dir():
        if name.endswith(".mefd"):
            return "MEF3 session"
        if (path / "dataset_description.json").is_file():
            return "BIDS data set"
        return None
    try:
        with path.open("rb") as file:
            head = file.read(40)
    except OSError:
        return None
    if name.endswith(EDF_SUFFIXES) and (head[:8].strip() == b"0" or head.startswith(b"\xffBIOSEMI")):
        return "EDF recording"
    if name.endswith((".h5", ".hdf5")):
        if head.startswith(b"\x89HDF\r\n\x1a\n") and _holds_ieeg(path):
            return "SWEC iEEG recording"
        return None
    if name.endswith(".eeg"):
        # also BrainVision's data, which has no header of its own and is not a recording by itself
        if head.startswith((b"EEG-", b"QI-", b"DAE-")):
            return "Nihon Kohden recording"
        return None
    if name.endswith(".vhdr") and b"brain" in head.lower():
        return "BrainVision recording"
    if name.endswith(MNE_SUFFIXES) and head:
        return "recording (through MNE)"
    return None


def _holds_ieeg(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "data/ieeg" in file
    except OSError:
        return False


def claim(path: Path) -> Claim | None:
    """How sure this domain is that a file, or a folder of files, is its own."""
    try:
        kind = kind_of(path)
        if path.is_dir() and kind != "MEF3 session":
            return _claim_folder(path, is_bids=kind is not None)
    except OSError:
        return None
    if kind is None:
        return None
    return Claim(kind, *_CERTAINTY[kind])


def _claim_folder(folder: Path, *, is_bids: bool) -> Claim | None:
    """Judged by the kinds of the recordings in it."""
    for path in islice(folder.rglob("*"), _FILES_LOOKED_AT):
        kind = kind_of(path)
        if kind in _CERTAINTY:
            certainty, why = _CERTAINTY[kind]
            if is_bids and path.parent.name in ("ieeg", "eeg"):
                return Claim("BIDS data set", 1.0, f"it holds {path.name} in a folder '{path.parent.name}'")
            return Claim("folder of recordings", certainty, f"it holds {path.name}: {why}")
    return None
