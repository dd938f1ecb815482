"""The files of an eye-tracking BIDS data set: tables without a header, and the JSON files that describe them.

A JSON file further up holds for every file whose name has its parts (``task-FreeView_physio.json``), and one closer by wins.
"""

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.scanpaths.assembly import Account
from gaze.scanpaths.columns import BROKEN, Columns
from gaze.scanpaths.json_files import read_json

_UNITS = {
    "s": "s",
    "ms": "ms",
    "us": "us",
    "µs": "us",
    "μs": "us",
    "second": "s",
    "seconds": "s",
    "sec": "s",
    "msec": "ms",
    "usec": "us",
    "microsecond": "us",
    "microseconds": "us",
    "millisecond": "ms",
    "milliseconds": "ms",
}


@dataclass
class BidsRecording:
    """One eye of one run."""

    samples: Path | None
    events: Path | None
    sidecar: Mapping[str, Any]
    event_sidecar: Mapping[str, Any]
    stimulus: Mapping[str, Any]  # the events.json of the task
    trials: Path | None

    @property
    def path(self) -> Path:
        path = self.events or self.samples
        assert path is not None
        return path

    @property
    def subject(self) -> str:
        return next((part[4:] for part in self.path.name.split("_") if part.startswith("sub-")), self.path.stem)

    @property
    def run(self) -> str:
        """The parts of its name beside the subject, the task and the eye."""
        parts = self.path.name.split("_")[:-1]
        return "_".join(part for part in parts if not part.startswith(("sub-", "recording-", "task-")))


def find_recordings(path: Path) -> Iterator[BidsRecording]:
    """Of a file: itself, with its partner; of a folder: all in it."""
    if path.is_dir():
        files = sorted([*path.rglob("*_physio.tsv*"), *path.rglob("*_physioevents.tsv*")])
    else:
        files = [path]
    stems = dict.fromkeys(
        (file.parent, re.sub(r"_(physio|physioevents)\.tsv(\.gz)?$", "", file.name)) for file in files
    )
    for folder, stem in stems:
        samples = _first(folder, stem + "_physio")
        events = _first(folder, stem + "_physioevents")
        if samples is None and events is None:
            continue
        sidecar = _sidecar(folder, stem, "physio")
        kind = sidecar.get("PhysioType", "eyetrack")
        if kind != "eyetrack":  # a pulse or a breathing belt
            continue
        run = re.sub(r"_recording-[A-Za-z0-9]+", "", stem)
        trials = _first(folder, run + "_events")
        yield BidsRecording(
            samples, events, sidecar, _sidecar(folder, stem, "physioevents"), _sidecar(folder, run, "events"), trials
        )


def _first(folder: Path, stem: str) -> Path | None:
    for suffix in (".tsv.gz", ".tsv"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    return None


def _sidecar(folder: Path, stem: str, suffix: str) -> dict[str, Any]:
    """The JSON files that hold for a table, those closer by over those further up."""
    entities = set(stem.split("_"))
    merged: dict[str, Any] = {}
    folders = [folder, *folder.parents]
    root = next((n for n, each in enumerate(folders) if (each / "dataset_description.json").is_file()), 0)
    for place in reversed(folders[: root + 1]):
        matches = []
        for file in place.glob(f"*{suffix}.json"):
            parts = file.name.removesuffix(".json").split("_")
            if parts[-1] == suffix and set(parts[:-1]) <= entities:
                matches.append((len(parts), file))
        for _, file in sorted(matches):
            values = read_json(file)
            if not isinstance(values, dict):
                raise UserError(f"{file} is not an object of fields")
            merged |= values
    return merged


def has_content(path: Path) -> bool:
    try:
        with _open(path) as file:
            return bool(file.read(64).strip())
    except BROKEN as error:
        raise UserError(f"{path} cannot be read: {error}", "copy it again") from error


def _open(path: Path) -> Any:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")
    return path.open("rb")


def unit_of(sidecar: Mapping[str, Any], column: str, default: str) -> str:
    """The unit of a column of times; `default` where none is named.

    Raises:
        UserError: one that is not known.
    """
    described = sidecar.get(column)
    unit = None
    if isinstance(described, dict):
        unit = described.get("Units")
    if unit is None:
        return default
    if not isinstance(unit, str) or unit.strip().lower() not in _UNITS:
        raise UserError(f"the JSON of the tables says that {column} is in {unit!r}", "write s, ms or us")
    return _UNITS[unit.strip().lower()]


def column_names(sidecar: Mapping[str, Any], path: Path | None) -> list[str]:
    columns = sidecar.get("Columns")
    if (
        not isinstance(columns, list)
        or not all(isinstance(name, str) for name in columns)
        or len(set(columns)) != len(columns)
    ):
        raise UserError(f"{path}: its JSON does not name the columns (Columns)", "write a list of different names")
    return columns


def read_cells(path: Path, names: Sequence[str], wanted: Sequence[str], account: Account) -> list[list[str]]:
    """The cells of some columns of a table without a header."""
    with_header = _has_header(path, names)
    if with_header:
        account.note(f"{path.name} has a header line, which BIDS does not foresee")
    table = Columns(path, names, "\t", "utf-8", int(with_header))
    rows = list(table.rows(wanted))
    for reason, count in table.left_out.items():
        account.leave_out(reason, count)
    return rows


def _has_header(path: Path, names: Sequence[str]) -> bool:
    try:
        with _open(path) as file:
            first = file.readline(10_000).decode("utf-8", "replace").strip().split("\t")
    except BROKEN as error:
        raise UserError(f"{path} cannot be read: {error}", "copy it again") from error
    return first[0] == names[0]


def to_numbers(rows: list[list[str]], width: int) -> NDArray[np.float64]:
    number = Columns(Path(), (), "\t", "utf-8", 0).number
    return np.array([[number(cell) for cell in row] for row in rows], np.float64).reshape(-1, width)
