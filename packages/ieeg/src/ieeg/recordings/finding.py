"""Which recordings a folder holds, and of which patients. Imports nothing heavy."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from core_runtime.errors import UserError
from ieeg.recordings.formats import KNOWN_FORMATS, kind_of

SIDECARS = ("_channels.tsv", "_electrodes.tsv", "_coordsystem.json", "_ieeg.json")


@dataclass(frozen=True)
class RecordingFile:
    """A recording in a folder: its path, a name that is unique in the folder, the patient, and the data set."""

    path: Path
    name: str
    patient: str
    dataset: str = ""


def find_recordings(path: Path) -> list[RecordingFile]:
    """A recording, or all recordings of a folder or BIDS data set, sorted by path.

    Patients are recognised by ``sub-…``, else by SWEC's ``ID…``, CHB-MIT's ``chb…`` or Siena's ``PN…``, else by the folder, else by the file.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "give a recording, a folder of them, or a BIDS data set")
    if path.is_file() or path.name.lower().endswith(".mefd"):
        return [_recording_file(path, path.parent, path.name.split(".")[0])]
    files = [file for file in sorted(path.rglob("*")) if _is_candidate(file, path)]
    # SWEC: NAME_total.h5 is a virtual file over the NAME_part_N.h5 beside it.
    folders_of_totals = {file.parent for file in files if file.name.endswith("_total.h5")}
    whole_files = []
    for file in files:
        part_of_total = file.parent in folders_of_totals and re.search(r"_part_\d+\.h5$", file.name)
        if not part_of_total and not _continues_another(file):
            whole_files.append(file)
    if not whole_files:
        raise UserError(f"{path} holds no recording", f"known: {KNOWN_FORMATS}")
    stems = Counter(file.name.split(".")[0] for file in whole_files)
    recordings = []
    for file in whole_files:
        name = file.name.split(".")[0]
        if stems[name] > 1:  # distinguished by their folders
            name = "_".join([*file.relative_to(path).parent.parts, name])
        recordings.append(_recording_file(file, path, name))
    return recordings


def _recording_file(path: Path, root: Path, name: str) -> RecordingFile:
    return RecordingFile(path, name, patient_of(path, root), dataset_of(path, root))


def _is_candidate(path: Path, root: Path) -> bool:
    """Whether a path below `root` is a recording by itself, as far as its name and first bytes tell."""
    *folders, name = path.relative_to(root).parts
    if any(part.startswith(".") for part in (*folders, name)):
        return False
    if any(folder.lower().endswith(".mefd") for folder in folders):
        return False  # a part of a MEF3 session
    if {"derivatives", "sourcedata"} & {*folders, name}:
        return False  # BIDS: results computed from the recordings, and files that they were converted from
    if path.suffix.lower() == ".eeg" and path.with_suffix(".vhdr").exists():
        return False  # BrainVision's data beside its header
    return kind_of(path) not in (None, "BIDS data set")  # of a data set inside of the folder, its recordings count


def _continues_another(path: Path) -> bool:
    """Whether this is a later part of a FIF recording that MNE split: ``x-1.fif`` beside ``x.fif``, ``…_split-02_…`` beside ``…_split-01_…``."""
    if not path.name.endswith((".fif", ".fif.gz")):
        return False
    numbered = re.fullmatch(r"(.+)-\d+(\.fif(?:\.gz)?)", path.name)
    if numbered and path.with_name(numbered[1] + numbered[2]).is_file():
        return True
    split = re.search(r"_split-(\d+)", path.name)
    if split is None or int(split[1]) <= 1:
        return False
    first = path.name.replace(split[0], f"_split-{1:0{len(split[1])}}")
    return path.with_name(first).is_file()


def dataset_of(path: Path, root: Path) -> str:
    """The data set that a recording belongs to: the name in its dataset_description.json, else the folder that was given."""
    for folder in path.parents:
        description = folder / "dataset_description.json"
        if description.is_file():
            try:
                described = json.loads(description.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return str(folder.resolve())
            if isinstance(described, dict) and described.get("Name"):
                return str(described["Name"])
            return str(folder.resolve())
    return str(root.resolve())


def patient_of(path: Path, root: Path) -> str:
    """The patient of a recording, as far as its path tells."""
    inside = path.parts[len(root.parts) :]
    for part in (*reversed(inside), *reversed(path.parts)):  # the nearest name first
        match = re.match(r"(sub-[A-Za-z0-9]+|ID\d+|chb\d+|PN\d+)(?=[_\-.]|$)", part, re.IGNORECASE)
        if match:
            return match[1]
    if path.parent != root:
        return path.parent.name
    return path.name.split(".")[0]


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS name: ``sub-01_task-ltm_ieeg.edf`` → ``{"sub": "01", "task": "ltm"}``."""
    pairs = [part.split("-", 1) for part in path.name.split(".")[0].split("_") if "-" in part]
    return dict(pairs)


def sidecar(path: Path, suffix: str) -> Path | None:
    """The nearest file of a kind that applies: in the same folder or above it, all its entities among the recording's.

    This is BIDS's inheritance principle, except that BIDS joins the fields of all levels and this takes only the nearest file.
    """
    own_entities = entities(path)
    for folder in (path.parent, *path.parent.parents):
        files = [file for file in folder.glob(f"*{suffix}") if file.is_file()]
        applicable = [file for file in files if entities(file).items() <= own_entities.items()]
        if applicable:
            return max(applicable, key=lambda file: len(entities(file)))
        if (folder / "dataset_description.json").exists() or folder == folder.parent:
            return None
        if not re.match(r"(sub|ses)-|ieeg$|eeg$", folder.name):  # folders above a subject's hold nothing about it
            return None
    return None


def find_table(path: Path) -> Path | None:
    """The seizure table beside a recording, by the conventions of the four data sets."""
    stem = path.name.split(".")[0]
    bids = re.sub(r"_(ieeg|eeg)$", "", stem)
    case = stem.split("_")[0]
    names = (
        f"{bids}_events.tsv",
        f"{stem}.csv_bi",
        f"{stem}.tsv",
        f"{case}-summary.txt",
        f"Seizures-list-{stem.split('-')[0]}.txt",
    )
    for name in names:
        candidate = path.parent / name
        if candidate.is_file():
            return candidate
    return None


def files_of(path: Path) -> list[Path]:
    """The files that a recording is read from: itself, its parts beside it, its sidecars and seizure table."""
    if path.is_dir():
        return [path]
    stem = path.name.split(".")[0]
    parts = re.compile(rf"{re.escape(stem)}(-\d+)?(_part_\d+)?")  # of MNE, of SWEC
    files = {path}
    for file in path.parent.iterdir():
        if file.is_file() and parts.fullmatch(file.name.split(".")[0]):
            files.add(file)
    if "sub" in entities(path):
        for suffix in SIDECARS:
            side_file = sidecar(path, suffix)
            if side_file is not None:
                files.add(side_file)
    table = find_table(path)
    if table is not None:
        files.add(table)
    return sorted(files)
