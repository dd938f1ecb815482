"""Which recordings a folder holds, and whose they are. Imports nothing heavy."""

import json
import re
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

    Patients are told by ``sub-…``, else by SWEC's ``ID…``, CHB-MIT's ``chb…`` or Siena's ``PN…``, else by the folder, else by the file.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "give a recording, a folder of them, or a BIDS data set")
    if path.is_file() or path.name.lower().endswith(".mefd"):
        return [
            RecordingFile(path, path.name.split(".")[0], patient_of(path, path.parent), dataset_of(path, path.parent))
        ]
    files = [p for p in sorted(path.rglob("*")) if _candidate(p, path)]
    parts = {p.parent for p in files if p.name.endswith("_total.h5")}
    files = [p for p in files if not (p.parent in parts and re.search(r"_part_\d+\.h5$", p.name))]
    files = [p for p in files if not _continues_another(p)]
    if not files:
        raise UserError(f"{path} holds no recording", f"known: {KNOWN_FORMATS}")
    stems = [p.name.split(".")[0] for p in files]
    names = [
        s if stems.count(s) == 1 else "_".join([*p.relative_to(path).parent.parts, s])
        for s, p in zip(stems, files, strict=True)
    ]
    return [RecordingFile(p, n, patient_of(p, path), dataset_of(p, path)) for p, n in zip(files, names, strict=True)]


def _candidate(path: Path, root: Path) -> bool:
    inside = path.relative_to(root).parts
    if any(part.startswith(".") or part.lower().endswith(".mefd") for part in inside[:-1]) or path.name.startswith("."):
        return False
    if {"derivatives", "sourcedata"} & set(inside):
        return False
    if path.suffix.lower() == ".eeg" and path.with_suffix(".vhdr").exists():
        return False  # BrainVision's data beside its header
    return kind_of(path) is not None


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
            name = described.get("Name") if isinstance(described, dict) else None
            return str(name) if name else str(folder.resolve())
    return str(root.resolve())


def patient_of(path: Path, root: Path) -> str:
    """Whose recording this is, as far as its path says."""
    for part in (*reversed(path.parts[len(root.parts) :]), *reversed(path.parts)):
        match = re.match(r"(sub-[A-Za-z0-9]+|ID\d+|chb\d+|PN\d+)(?=[_\-.]|$)", part, re.IGNORECASE)
        if match:
            return match[1]
    return path.parent.name if path.parent != root else path.name.split(".")[0]


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS name: ``sub-01_task-ltm_ieeg.edf`` → ``{"sub": "01", "task": "ltm"}``."""
    return dict(part.split("-", 1) for part in path.name.split(".")[0].split("_") if "-" in part)


def sidecar(path: Path, suffix: str) -> Path | None:
    """The nearest file of a kind that applies: in the same folder or above it, all its entities among the recording's."""
    mine = entities(path)
    for folder in (path.parent, *path.parent.parents):
        fitting = [p for p in folder.glob(f"*{suffix}") if p.is_file() and entities(p).items() <= mine.items()]
        if fitting:
            return max(fitting, key=lambda p: len(entities(p)))
        if (folder / "dataset_description.json").exists() or folder == folder.parent:
            return None
        if not re.match(r"(sub|ses)-|ieeg$|eeg$", folder.name):
            return None
    return None


def find_table(path: Path) -> Path | None:
    """The seizure table that lies beside a recording, by the conventions of the four data sets."""
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
    files = {path, *(p for p in path.parent.iterdir() if p.is_file() and parts.fullmatch(p.name.split(".")[0]))}
    if "sub" in entities(path):
        files |= {p for suffix in SIDECARS if (p := sidecar(path, suffix)) is not None}
    table = find_table(path)
    if table is not None:
        files.add(table)
    return sorted(files)
