"""BIDS-iEEG, read tolerantly: sidecars are joined by name, whatever their number and order; missing ones are left open."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.tables import read_table
from ieeg.recordings.agreement import mains, unlike_channels, unlike_recording
from ieeg.recordings.finding import entities, sidecar
from ieeg.recordings.recording import Channel, Recording, some_of

# BIDS's channel types → ours; all others are "misc".
_KINDS = {
    "seeg": "seeg",
    "ecog": "ecog",
    "dbs": "seeg",
    "eeg": "eeg",
    "ecg": "ecg",
    "eog": "eog",
    "emg": "emg",
    "heog": "eog",
    "veog": "eog",
    "trig": "stim",
    "stim": "stim",
}
_Change = Callable[[Channel, dict[str, str | None]], Channel]
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}


def join_sidecars(recording: Recording) -> None:
    """Adds to a recording what its BIDS sidecars state: kinds, bads, groups, positions, mains frequency. Entries that do not fit become warnings."""
    path = recording.path
    if "sub" not in entities(path):
        return
    channels, electrodes = sidecar(path, "_channels.tsv"), sidecar(path, "_electrodes.tsv")
    about = sidecar(path, "_ieeg.json")
    if channels is None:
        recording.warnings.append("no channels.tsv beside the recording: channel types are guessed from the names")
    else:
        rows = _table(channels, recording)
        _join(recording, rows, channels.name, _as_described)
        if rows:
            by_name = {_key(row.get("name") or ""): row for row in rows}
            keyed = [(channel, _key_of_row(channel, by_name)) for channel in recording.channels]
            differences = unlike_channels(by_name, keyed, recording)
            recording.warnings += [f"{channels.name} {difference}" for difference in differences]
    if electrodes is not None:
        metres = _metres(path, recording)
        if metres is not None:
            rows = _table(electrodes, recording)
            _join(recording, rows, electrodes.name, lambda channel, row: _with_position(channel, row, metres))
    if about is not None:
        described = _json(about, recording)
        recording.power_line = mains(described)
        recording.warnings += [f"{about.name} {difference}" for difference in unlike_recording(described, recording)]


def _key(name: str) -> str:
    """Names are compared in this form: A'1 is written with several apostrophes, and in either case."""
    return re.sub(r"[’`´]", "'", name.strip()).casefold()


def _join(recording: Recording, rows: Sequence[dict[str, str | None]], name: str, change: _Change) -> None:
    """Changes the channels that have a row in the sidecar called `name`, and warns of rows without a channel."""
    by_name = {_key(row.get("name") or ""): row for row in rows}
    matched = set()
    for i, channel in enumerate(recording.channels):
        row = by_name.get(_key_of_row(channel, by_name))
        if row is not None:
            recording.channels[i] = change(channel, row)
            matched.add(_key(row.get("name") or ""))
    unmatched = [row.get("name") or "?" for key, row in by_name.items() if key not in matched]
    if unmatched:
        recording.warnings.append(f"{name} names {some_of(unmatched)}, not in the recording: ignored")
    if rows and not matched:
        recording.warnings.append(f"{name} shares no name with the recording")


def _key_of_row(channel: Channel, rows: Mapping[str, Any]) -> str:
    """The key of a channel's row. Repeated names were numbered: A1-2 is another A1."""
    key = _key(channel.name)
    return key if key in rows else _key(re.sub(r"-\d+$", "", channel.name))


def _as_described(channel: Channel, row: dict[str, str | None]) -> Channel:
    """A channel with the type, status and group of its row in channels.tsv; for n/a it keeps its own."""
    kind, bad = channel.kind, channel.bad
    bids_type = _cell(row, "type").lower()
    if bids_type:
        kind = _KINDS.get(bids_type, "misc")
    if _cell(row, "status").lower() == "bad":
        bad = "marked bad in channels.tsv"
        why = _cell(row, "status_description")
        if why:
            bad += f": {why}"
    return replace(channel, kind=kind, bad=bad, group=_cell(row, "group"))


def _cell(row: dict[str, str | None], column: str) -> str:
    """The text of a cell; "" if it is absent or missing (n/a)."""
    return (row.get(column) or "").strip()


def _with_position(channel: Channel, row: dict[str, str | None], metres: float) -> Channel:
    """A channel with the position of its row in electrodes.tsv; `metres` is the length of the table's unit."""
    try:
        x, y, z = (float(row[axis] or "") * metres for axis in ("x", "y", "z"))
    except (KeyError, TypeError, ValueError):
        return channel
    return replace(channel, position=(x, y, z))


def _metres(path: Path, recording: Recording) -> float | None:
    """The unit of positions in metres, millimetres where nothing says it; None where it is no length (pixels), which is said."""
    system = sidecar(path, "_coordsystem.json")
    if not system:
        return _METRES["mm"]
    unit = _json(system, recording).get("iEEGCoordinateUnits", "mm")
    if unit not in _METRES:
        recording.warnings.append(f"{system.name} gives {unit!r} as the unit of coordinates: positions are not used")
        return None
    return _METRES[unit]


def _table(path: Path, recording: Recording) -> list[dict[str, str | None]]:
    """The rows of a sidecar; missing values are None. What cannot be used becomes a warning."""
    try:
        table = read_table(path)
    except UserError as error:
        recording.warnings.append(f"{error.message}: ignored")
        return []
    if "name" not in table.columns:
        recording.warnings.append(f"{path.name} has no column 'name': ignored")
        return []
    rows = [dict(row.cells) for row in table]
    if table.left_out:
        recording.warnings.append(table.account())
    recording.warnings += table.notes
    return rows


def _json(path: Path, recording: Recording) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        recording.warnings.append(f"{path.name} is not readable as JSON: ignored")
        return {}
    if not isinstance(loaded, dict):
        recording.warnings.append(f"{path.name} holds no JSON object: ignored")
        return {}
    return loaded
