"""Tables of seizures: BIDS, SzCORE, CHB-MIT, Siena and TUH."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.tables import Table, read_table
from ieeg.recordings.labels import LabelOptions, Meaning, meaning_of
from ieeg.recordings.marks import Mark, Reading, read_marks
from ieeg.recordings.recording import Recording

LABEL_COLUMNS = (
    "eventType", "event_type", "trial_type", "HED", "HED_annotations", "description", "annotation", "annotations", "label", "event", "type", "name", "value",
)  # fmt: skip
_CLOCK = re.compile(r"(\d{1,2})[.:](\d{2})[.:](\d{2})")


def read_seizure_table(
    path: Path,
    recording: Recording,
    labels: LabelOptions = LabelOptions(),
    label_map: Mapping[str, Meaning] | None = None,
) -> Reading | None:
    """The content of a table of any known form; None if it has no entry for this recording.

    Raises:
        UserError: unreadable, or of no known form.
    """
    try:
        with path.open("rb") as file:
            head = file.read(65536).decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "give a table of seizures") from None
    if path.name.endswith("-summary.txt") or re.search(r"^Number of Seizures in File", head, re.MULTILINE):
        return _listed(chbmit(_text(path), recording.path.name))
    if path.name.startswith("Seizures-list") or re.search(r"^\s*Seizure n\s*\d+", head, re.MULTILINE):
        return _listed(siena(_text(path), recording.path.name))
    table = read_table(path, comment="#")
    onsets = table.column("onset", "start_time", required=False)
    if onsets is None or table.column("duration", "stop_time", required=False) is None:
        raise UserError(
            f"{path.name} is not a seizure table",
            "known: CHB-MIT *-summary.txt, Siena Seizures-list-*.txt, TUH *.csv_bi, events.tsv with onset and duration",
        )
    return read_marks_table(table, recording.duration, labels, label_map or {})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _listed(spans: list[tuple[float, float]] | None) -> Reading | None:
    """The reading of a list that names its recordings: an empty entry states that there are no seizures."""
    if spans is None:
        return None
    return Reading(spans, says_none=not spans)


def read_marks_table(table: Table, duration: float, labels: LabelOptions, label_map: Mapping[str, Meaning]) -> Reading:
    """BIDS, SzCORE and TUH: a row for each event, with a label in one of the usual columns."""
    onsets = table.column("onset", "start_time")
    durations, stops = table.column("duration", required=False), table.column("stop_time", required=False)
    assert onsets is not None
    columns = _label_columns(table)
    tags = _hed_tags(table.path)
    marks = []
    for row in table:
        try:
            onset = table.number(row, onsets)
            length = None
            # BIDS and SzCORE give a duration, TUH a stop time
            length = None
            if durations is not None:
                length = table.number(row, durations)
            elif stops is not None and onset is not None:
                stop = table.number(row, stops)
                if stop is not None:
                    length = stop - onset
        except UserError:
            table.leave_out(row, "whose time is not a number")
            continue
        if onset is None:
            table.leave_out(row, "without an onset")
            continue
        if length is not None and length < 0:
            table.leave_out(row, "that end before they begin")
            continue
        texts = []
        for column in columns:
            if row[column] is not None:
                texts.append(row[column])
        for column in columns:  # after all texts: a HED tag counts only if no text is understood
            tag = tags.get((column, row[column] or ""))
            if tag is not None:
                texts.append(tag)
        marks.append(Mark(onset, length, _first_understood(texts, label_map)))
    reading = read_marks(marks, duration, labels, label_map)
    if table.left_out:
        reading.warnings.append(table.account())
    reading.warnings += table.notes
    reading.warnings += _of_another_recording(table, duration)
    if not columns:
        reading.warnings.append(f"{table.path.name} has no column of labels ({', '.join(LABEL_COLUMNS[:3])} …)")
    return reading


def _of_another_recording(table: Table, duration: float) -> list[str]:
    """A word where SzCORE's column recordingDuration is not that of this recording."""
    column = table.column("recordingDuration", required=False)
    for row in table if column is not None else ():
        text = row[str(column)]
        try:
            stated = float(text or "nan")
        except ValueError:
            stated = math.nan
        if abs(stated - duration) > max(1.0, 0.01 * duration):
            return [
                f"{table.path.name} is of a recording of {stated:g} s, this one has {duration:g} s: does it belong here?"
            ]
    return []


def _label_columns(table: Table) -> list[str]:
    """The columns of a table that may hold labels, in order of preference."""
    columns = []
    for name in LABEL_COLUMNS:
        column = table.column(name, required=False)
        if column is not None:
            columns.append(column)
    return columns


def _first_understood(texts: Sequence[str], label_map: Mapping[str, Meaning]) -> str:
    """The first text with a meaning, else the first of all, so that a warning can quote it."""
    for text in texts:
        if meaning_of(text, label_map):
            return text
    if texts:
        return texts[0]
    return ""


def _hed_tags(path: Path) -> dict[tuple[str, str], str]:
    """HED tags for the levels of each column, from the JSON beside an events.tsv."""
    try:
        described: Any = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    tags: dict[tuple[str, str], str] = {}
    if not isinstance(described, dict):
        return tags
    for column, about in described.items():
        levels = about.get("HED") if isinstance(about, dict) else None
        if isinstance(levels, dict):  # BIDS also allows one text for a whole column, which is the same for all rows
            for level, tag in levels.items():
                tags[column, str(level)] = str(tag)
    return tags


def chbmit(text: str, file: str) -> list[tuple[float, float]] | None:
    """CHB-MIT's summary: the seizures of a file, in seconds.

    Raises:
        UserError: a seizure with a start but no end.
    """
    for block in re.split(r"(?=^File Name:)", text, flags=re.MULTILINE):
        if re.match(rf"File Name:\s*{re.escape(file)}\s*$", block, re.MULTILINE | re.IGNORECASE):
            starts = re.findall(r"Seizure(?:\s+\d+)?\s+Start Time:\s*(\d+)", block)
            ends = re.findall(r"Seizure(?:\s+\d+)?\s+End Time:\s*(\d+)", block)
            if len(starts) != len(ends):
                raise UserError(f"the summary of {file} has {len(starts)} starts and {len(ends)} ends of seizures")
            return [(float(start), float(end)) for start, end in zip(starts, ends, strict=True)]
    return None


def siena(text: str, file: str) -> list[tuple[float, float]] | None:
    """Siena's lists: clock times of registration and seizure, perhaps past midnight; with points or colons, and stray letters."""
    spans: list[tuple[float, float]] | None = None
    name = ""
    for block in re.split(r"(?=^\s*Seizure n\s*\d+)", text, flags=re.MULTILINE):
        named = re.search(r"File name:\s*(\S+)", block)
        if named:  # else the block continues the file of the one before
            name = named[1]
        if _plain(name) != _plain(file):
            continue
        times = {}
        # The keys are spelled in several ways, and some lists leave "Seizure" out.
        for key, pattern in (
            ("registration", r"Registration start time:?\s*([^\n]+)"),
            ("start", r"^\s*(?:Seizure\s+)?[Ss]tart time:?\s*([^\n]+)"),
            ("end", r"^\s*(?:Seizure\s+)?[Ee]nd time:?\s*([^\n]+)"),
        ):
            line = re.search(pattern, block, re.MULTILINE)
            clock = None
            if line:
                clock = _CLOCK.search(line[1])
            if clock:
                hours, minutes, seconds = map(int, clock.groups())
                times[key] = hours * 3600 + minutes * 60 + seconds
        spans = spans or []
        if {"start", "end", "registration"} <= times.keys():
            # Clock times: modulo a day, so that a recording may pass midnight.
            onset = (times["start"] - times["registration"]) % 86400
            length = (times["end"] - times["start"]) % 86400
            spans.append((float(onset), float(onset + length)))
    return spans


def _plain(name: str) -> str:
    """Siena writes PN01-1.edf, PNO1-1.edf and PN01.edf for the same file."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix(".edf").replace("pno", "pn0"))


def table_events(path: Path) -> NDArray[np.float64]:
    """(onset, offset) of the events in a detector's events.tsv.

    Raises:
        UserError: it cannot be read, or an event has no onset and duration.
    """
    table = read_table(path)
    onset, duration = table.column("onset"), table.column("duration")
    columns = _label_columns(table)
    assert onset is not None
    assert duration is not None
    events = []
    for row in table:
        meanings = [meaning_of(row[column] or "") for column in columns]
        if "seizure" not in meanings and "begin" not in meanings:
            continue
        begin, length = table.number(row, onset), table.number(row, duration)
        if begin is None or length is None or length < 0:
            raise UserError(f"{path}, line {row.line}: an event without onset and duration", "complete the line")
        events.append((begin, begin + length))
    return np.array(sorted(events), np.float64).reshape(-1, 2)
