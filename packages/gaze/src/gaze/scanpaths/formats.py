"""What trackers and data sets write, told by names and first bytes. Imports nothing heavy."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import UserError
from gaze.scanpaths.columns import folded, header_of, read_head, split_header
from gaze.scanpaths.names import FIXATION_NAMES, SAMPLE_NAMES, is_degrees

COCO_SEARCH18 = "COCO-Search18 JSON"
AMAZON = "Amazon book covers JSON"
ASC = "EyeLink ASC"
BIDS = "eye-tracking BIDS"
TOBII = "Tobii table"
MULTIMATCH = "multimatch-gaze table"
FIXATIONS = "table of fixations"
SAMPLES = "table of samples"
PARQUET = "scanpaths (Parquet)"
JSON_LINES = "scanpaths (JSON lines)"
KNOWN_FORMATS = (
    "COCO-Search18 JSON, EyeLink ASC, eye-tracking BIDS, Tobii TSV, multimatch-gaze TSV, Amazon JSON, CSV of fixations, "
    "Parquet or JSON lines of ours"
)  # Kind → how sure it is that such a file is ours, and why.
_CERTAINTY = {
    COCO_SEARCH18: (0.95, "its records have X, Y, T and a subject"),
    AMAZON: (0.95, "its pictures have fixations and a ground_truth"),
    ASC: (1.0, "it begins as EyeLink's ASC files do"),
    BIDS: (1.0, "its JSON says eyetrack"),
    TOBII: (1.0, "its columns are Tobii's"),
    MULTIMATCH: (0.9, "its columns are start_x, start_y, duration"),
    FIXATIONS: (0.6, "it has columns of positions and durations"),
    SAMPLES: (0.4, "it has columns of times and positions"),
    PARQUET: (1.0, "its metadata say so"),
    JSON_LINES: (1.0, "its lines have x, y, duration and provenance"),
}
_TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_EVENT_LINE = re.compile(
    rb"(?:^|\n)(?:MSG[ \t]+\d|START[ \t]+\d|[ES]FIX [LR]|[ES]SACC [LR]|\*\* (?:CONVERTED FROM|TYPE: EDF_FILE))"
)
_FILES_LOOKED_AT = 5000  # of a folder
_PARQUET_MARK = b"attention-suite scanpaths"


def kind_of(path: Path) -> str | None:
    """What kind of recording a path holds, from its name and first bytes; None: none, or it cannot be read."""
    if path.is_dir():
        if _is_bids(path):
            return BIDS
        return None
    name = path.name.lower()
    if name.endswith(".parquet"):
        if _PARQUET_MARK in _tail(path):
            return PARQUET
        return None
    head = b""
    if name.endswith((".json", ".jsonl", ".asc", *_TABLES)):
        head = read_head(path, 64 * 1024)
    if name.endswith(".asc"):
        if _EVENT_LINE.search(head):
            return ASC
        return None
    if name.endswith((".json", ".jsonl")):
        return _kind_of_json(head, name)
    if re.search(r"_(physio|physioevents)\.tsv(\.gz)?$", name):
        if "_physioevents." in name or _says_eyetrack(path):
            return BIDS
        return None
    if not head.strip():
        return None
    if name.endswith(".txt") and _EVENT_LINE.search(head):
        return ASC
    return _kind_of_table(head)


def _kind_of_json(head: bytes, name: str) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if name.endswith(".jsonl"):
        line = start.split(b"\n", 1)[0]
        if all(f'"{key}"'.encode() in line for key in ("x", "y", "provenance")):
            return JSON_LINES
        return None
    if start.startswith(b"["):
        if b'"X"' in start and b'"Y"' in start:
            return COCO_SEARCH18
        return None
    if start.startswith(b"{"):
        if b'"fixations"' in start:
            return AMAZON
        return None
    return None


def _kind_of_table(head: bytes) -> str | None:
    header = header_of(head)
    if header is None:
        return None
    _, names = split_header(header[1])
    columns = {folded(name) for name in names}
    if {"startx", "starty", "duration"} <= columns and len(columns) <= 4:
        return MULTIMATCH
    # Tobii writes units behind its names: "Recording timestamp [ms]", "Fixation point X (px)"
    bare = {folded(re.split(r"[(\[]", name)[0]) for name in names}
    if ("eyemovementtype" in bare or "gazeeventtype" in bare) and (
        "recordingtimestamp" in bare or "fixationpointx" in bare
    ):
        return TOBII
    known = {}
    for meaning, usual in FIXATION_NAMES.items():
        known[meaning] = any(folded(name) in columns for name in usual)
    named_as_fixation = {"currentfixx", "fixationx", "fixx"} & columns
    if known["x"] and known["y"] and (known["duration"] or known["end"] or named_as_fixation):
        return FIXATIONS
    # x and y alone are any table of points: samples have a clock, or say that they are angles
    if not (known["onset"] or is_degrees(names)):
        return None
    for xs, ys in SAMPLE_NAMES.values():
        if any(folded(x) in columns for x in xs) and any(folded(y) in columns for y in ys):
            return SAMPLES
    return None


def _tail(path: Path) -> bytes:
    """The last bytes of a file: the footer of Parquet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 256 * 1024))
            return file.read()
    except OSError:
        return b""


def _is_bids(folder: Path) -> bool:
    """A data set, or a part of one, with an eye tracker's tables."""
    if not (folder / "dataset_description.json").is_file():
        return False
    return any(kind_of(path) == BIDS for path in islice(folder.rglob("*_physio*.tsv*"), 200))


def _says_eyetrack(path: Path) -> bool:
    """Whether a JSON file beside or above a table says that it is an eye tracker's."""
    for folder in islice(path.parents, 5):
        for sidecar in islice(folder.glob("*_physio.json"), 200):
            if b"eyetrack" in read_head(sidecar, 64 * 1024):
                return True
        if (folder / "dataset_description.json").is_file():
            break
    return False


def find_recordings(path: Path) -> list[Path]:
    """The recordings of a folder, sorted, a BIDS data set as one; of a file: itself.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", f"known: {KNOWN_FORMATS}")
    recordings = list(islice(_walk(path), _FILES_LOOKED_AT))
    if not recordings:
        raise UserError(f"{path} holds no recordings that are known", f"known: {KNOWN_FORMATS}")
    return recordings


def _walk(path: Path) -> Iterator[Path]:
    if kind_of(path) is not None:
        yield path
        return
    if not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith("."):
            yield from _walk(entry)


def claim(path: Path) -> Claim | None:
    """How sure this domain is that a file, or a folder of files, is its own."""
    try:
        kind = kind_of(path)
        if kind is not None:
            return Claim(kind, *_CERTAINTY[kind])
        if not path.is_dir():
            return None
        first = next(_walk(path), None)
    except (OSError, RecursionError):
        return None
    if first is None:
        return None
    kind = kind_of(first)
    certainty, why = _CERTAINTY[kind or SAMPLES]
    return Claim("folder of gaze recordings", min(certainty, 0.9), f"it holds {first.name}: {why}")
