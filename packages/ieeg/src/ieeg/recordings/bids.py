"""BIDS-iEEG, read tolerantly: sidecars are joined by name, whatever their number and order; what is missing is left open."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.tables import read_table
from ieeg.recordings.finding import entities, sidecar
from ieeg.recordings.recording import Recording, some_of

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
}
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}


def join_sidecars(recording: Recording) -> None:
    """Adds to a recording what its BIDS sidecars say: kinds, bads, groups, positions, mains frequency. Says what does not fit."""
    path = recording.path
    if "sub" not in entities(path):
        return
    channels, electrodes, about = (sidecar(path, s) for s in ("_channels.tsv", "_electrodes.tsv", "_ieeg.json"))
    if channels is None:
        recording.warnings.append("no channels.tsv beside the recording: channel types are guessed from the names")
    else:
        _join(recording, _table(channels, recording), channels.name, _channel)
    if electrodes is not None:
        unit = _METRES.get(_coordinate_unit(path), 1e-3)
        rows = _table(electrodes, recording)
        _join(recording, rows, electrodes.name, lambda channel, row: _electrode(channel, row, unit))
    if about is not None:
        line = _json(about, recording).get("PowerLineFrequency")
        recording.power_line = float(line) if isinstance(line, (int, float)) and line > 0 else 0.0


def _key(name: str) -> str:
    return re.sub(r"[’`´]", "'", name.strip()).casefold()


def _join(recording: Recording, rows: Sequence[dict[str, str | None]], name: str, change: Any) -> None:
    by_name = {_key(row.get("name") or ""): row for row in rows}
    hit = set()
    for i, channel in enumerate(recording.channels):
        key = _key(channel.name)
        row = by_name.get(key) or by_name.get(_key(re.sub(r"-\d+$", "", channel.name)))
        if row is not None:
            recording.channels[i] = change(channel, row)
            hit.add(_key(row.get("name") or ""))
    extra = [row.get("name") or "?" for key, row in by_name.items() if key not in hit]
    if extra:
        recording.warnings.append(f"{name} names {some_of(extra)}, not in the recording: ignored")
    if rows and not hit:
        recording.warnings.append(f"{name} shares no name with the recording")


def _channel(channel: Any, row: dict[str, str | None]) -> Any:
    kind = (row.get("type") or "").strip().lower()
    kind = _KINDS.get(kind, "stim" if kind in ("trig", "stim") else "misc") if kind and kind != "n/a" else channel.kind
    bad = channel.bad
    if (row.get("status") or "").strip().lower() == "bad":
        why = (row.get("status_description") or "").strip()
        bad = "marked bad in channels.tsv" + (f": {why}" if why not in ("", "n/a") else "")
    group = (row.get("group") or "").strip()
    return replace(channel, kind=kind, bad=bad, group="" if group == "n/a" else group)


def _electrode(channel: Any, row: dict[str, str | None], unit: float) -> Any:
    try:
        x, y, z = (float(row[axis] or "") * unit for axis in ("x", "y", "z"))
    except (KeyError, TypeError, ValueError):
        return channel
    return replace(channel, position=(x, y, z))


def _coordinate_unit(path: Path) -> str:
    found = sidecar(path, "_coordsystem.json")
    try:
        return str(json.loads(found.read_text(encoding="utf-8")).get("iEEGCoordinateUnits", "mm")) if found else "mm"
    except (OSError, ValueError):
        return "mm"


def _table(path: Path, recording: Recording) -> list[dict[str, str | None]]:
    """The rows of a sidecar; missing values are None. What cannot be used is said."""
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
        return loaded if isinstance(loaded, dict) else {}
    except (OSError, ValueError):
        recording.warnings.append(f"{path.name} is not readable as JSON: ignored")
        return {}
