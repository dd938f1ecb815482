"""Opens a recording of any known format, with the information of its sidecars."""

from pathlib import Path

from core_runtime.errors import UserError
from ieeg.recordings.formats import EDF_SUFFIXES, KNOWN_FORMATS, MNE_SUFFIXES
from ieeg.recordings.recording import Recording


def open_recording(path: Path) -> Recording:
    """Opens a recording of any known format.

    Raises:
        UserError: absent, empty, of no known format, or unreadable.
    """
    name = path.name.lower()
    if not path.exists():
        raise UserError(
            f"no such file: {path}",
            "give an EDF, BDF, BrainVision (.vhdr), FIF, EEGLAB (.set), Persyst (.lay), MEF3 (.mefd) or SWEC (.h5) recording",
        )
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "copy it again from the recorder")
    from ieeg.recordings import readers
    from ieeg.recordings.bids import join_sidecars

    readers_by_suffix = (
        ((".mefd",), readers.MefRecording),
        (EDF_SUFFIXES, readers.EdfRecording),
        ((".h5", ".hdf5"), readers.SwecRecording),
        (MNE_SUFFIXES, readers.MneRecording),
    )
    for suffixes, reader in readers_by_suffix:
        if name.endswith(suffixes):
            recording = reader(path)
            if not recording.channels or recording.duration <= 0:
                raise UserError(f"{path} holds no samples", "the recorder wrote none, or the copy was cut off")
            recording.make_names_unique()  # before the sidecars, which are joined by name
            join_sidecars(recording)
            return recording
    raise UserError(f"{path} has no known recording format", f"known: {KNOWN_FORMATS}")
