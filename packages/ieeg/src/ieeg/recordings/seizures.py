"""When the seizures are: a recording's own marks, and the tables of BIDS, SzCORE, CHB-MIT, Siena and TUH beside it.

Both sources are read; if they disagree, a warning says so. A recording is known to have no seizure only where a source states it: labels that are not
understood are named and never taken as "none".
"""

import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.tables import Table, read_table
from ieeg.recordings.finding import find_table
from ieeg.recordings.labels import LabelOptions, Meaning, bare_meaning, meaning_of, read_label_map, resembles_seizure
from ieeg.recordings.recording import Recording, some_of

LABEL_COLUMNS = (
    "eventType", "event_type", "trial_type", "HED", "HED_annotations", "description", "annotation", "annotations", "label", "event", "type", "name", "value",
)  # fmt: skip
POINT = 0.5  # seconds: a shorter mark is a moment, not an interval
COVERED = 0.95  # share of a recording that must be marked as background for it to be known as seizure-free
_CLOCK = re.compile(r"(\d{1,2})[.:](\d{2})[.:](\d{2})")
_MAPPED = "--label-map FILE gives the meaning of labels"


@dataclass(frozen=True)
class Seizures:
    """The marked seizures of a recording.

    Attributes:
        events: (seizures, 2) onset and offset, seconds from the first sample, inside the recording.
        source: where they are from ("annotations", the table's name), or "" if there is no record of whether there are any.
        warnings: what did not fit, was not understood, or had to be assumed.
        open_ended: onsets of seizures whose end is not marked.
    """

    events: NDArray[np.float64]
    source: str
    warnings: tuple[str, ...] = ()
    open_ended: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.source)


@dataclass(frozen=True)
class Mark:
    """A label at a time; `duration` is None if it is not given."""

    onset: float
    duration: float | None
    label: str


@dataclass
class Reading:
    """The content of one source.

    Attributes:
        spans: (onset, offset) of seizures.
        none: (onset, offset) of intervals marked as free of seizures.
        says_none: the source states that there are none in the whole recording.
        open_ended: onsets of the spans whose end is assumed.
        not_understood: labels, by how often they occur.
    """

    spans: list[tuple[float, float]] = field(default_factory=list)
    none: list[tuple[float, float]] = field(default_factory=list)
    says_none: bool = False
    open_ended: list[float] = field(default_factory=list)
    not_understood: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def seizures_of(recording: Recording, labels: LabelOptions = LabelOptions(), table: Path | None = None) -> Seizures:
    """The seizures of a recording, from a table beside it (or `table`) and from its own annotations.

    Raises:
        UserError: a table cannot be read, or the given table does not name this recording.
    """
    label_map = read_label_map(labels.label_map)
    path = table or find_table(recording.path)
    marks = [Mark(event.onset, event.duration, event.label) for event in recording.events]
    own = read_marks(marks, recording.duration, labels, label_map)
    beside = None
    if path is not None:
        beside = read_seizure_table(path, recording, labels, label_map)
        if beside is None and table is not None:
            raise UserError(
                f"{path} has no entry for {recording.path.name}", "tables name the recording, or lie beside it"
            )
    if path is None or beside is None:
        return _as_seizures(own, recording, "annotations")
    # The table takes precedence; the annotations are used only where they mark seizures and it marks none.
    if own.spans and not beside.spans:
        seizures = _as_seizures(own, recording, "annotations")
    else:
        seizures = _as_seizures(beside, recording, path.name)
    if not seizures.known and own.says_none:
        seizures = _as_seizures(own, recording, "annotations")
    warnings = (*_disagreement(beside, own, path.name), *seizures.warnings)
    return Seizures(seizures.events, seizures.source, warnings, seizures.open_ended)


def marked_seizures(recording: Recording, labels: LabelOptions = LabelOptions()) -> Seizures:
    """As `seizures_of`; a table beside the recording that cannot be read is a warning, and the seizures are unknown.

    Raises:
        UserError: the table of ``--label-map`` cannot be read.
    """
    read_label_map(labels.label_map)
    try:
        return seizures_of(recording, labels)
    except UserError as error:
        return Seizures(np.zeros((0, 2)), "", (f"marked seizures are unknown: {error.message}",))


def _disagreement(beside: Reading, own: Reading, name: str) -> list[str]:
    """Differences between the table and the recording's own annotations, in words."""
    if own.spans and not beside.spans:
        return [f"{name} marks no seizure, the recording's own annotations mark {len(own.spans)}: these are taken"]
    if not own.spans:
        return []
    only_one_source = [span for span in beside.spans if not _touches(span, own.spans)]
    only_one_source += [span for span in own.spans if not _touches(span, beside.spans)]
    if not only_one_source:
        return []
    counts = f"{len(beside.spans)} seizures in {name}, {len(own.spans)} in the recording's own annotations"
    times = some_of([f"{onset:.1f} s" for onset, _ in sorted(only_one_source)])
    return [f"{counts}, and they disagree (at {times}): the table is taken"]


def _touches(span: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether a span is within a second of any other: tables are often rounded to seconds."""
    return any(span[0] <= offset + 1 and onset - 1 <= span[1] for onset, offset in others)


def read_marks(
    marks: Sequence[Mark], duration: float, labels: LabelOptions, label_map: Mapping[str, Meaning]
) -> Reading:
    """Seizures among labels with times: intervals, moments, and pairs of a beginning and an end."""
    reading = Reading()
    meanings = [meaning_of(mark.label, label_map) for mark in marks]
    # "onset" and "offset" alone may be of anything, so they count only if no label is about a seizure.
    bare_meanings = [bare_meaning(mark.label) for mark in marks]
    if not any(meanings) and {"begin", "end"} <= set(bare_meanings):
        meanings = bare_meanings
        reading.warnings.append("'onset' and 'offset' are taken as those of seizures")
    begins: list[float] = []
    ends: list[float] = []
    for mark, meaning in zip(marks, meanings, strict=True):
        is_interval = mark.duration is not None and mark.duration >= POINT
        if meaning in ("seizure", "begin") and is_interval:
            reading.spans.append((mark.onset, mark.onset + (mark.duration or 0)))
        elif meaning in ("seizure", "begin"):  # a moment: its end is marked elsewhere, or nowhere
            begins.append(mark.onset)
        elif meaning == "end":
            ends.append(mark.onset)
        elif meaning == "none":
            reading.none.append((mark.onset, mark.onset + (mark.duration or 0)))
        elif meaning is None and mark.label.strip():
            reading.not_understood[mark.label.strip()] += 1
    _pair_up(reading, sorted(set(begins)), sorted(ends), duration, labels.seizure_length)
    reading.spans = merged(reading.spans, begins)
    covered = 0.0
    for onset, offset in merged(reading.none):
        if offset > 0 and onset < duration:
            covered += min(offset, duration) - max(onset, 0.0)
    reading.says_none = not reading.spans and duration > 0 and covered >= COVERED * duration
    return reading


def _pair_up(
    reading: Reading, begins: Sequence[float], ends: Sequence[float], duration: float, seizure_length: float | None
) -> None:
    """Adds to a reading the seizures from each beginning to the first end after it, but before the next beginning; both lists are sorted."""
    for onset, limit in pairwise([*begins, math.inf]):
        end = next((time for time in ends if onset < time <= limit), None)
        if end is None:
            reading.open_ended.append(onset)
            end = min(limit, duration)
            if seizure_length is not None:
                end = min(end, onset + seizure_length)
        reading.spans.append((onset, max(end, onset)))
    # An end inside a span that is marked already adds nothing; any other has lost its beginning.
    unpaired = []
    for time in ends:
        belongs = any(onset < time <= offset + 1e-6 for onset, offset in reading.spans)
        if not belongs:
            unpaired.append(f"{time:.1f} s")
    if unpaired:
        times = some_of(unpaired)
        reading.warnings.append(f"the end of a seizure is marked at {times} without its beginning: left out")


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
            said = float(text or "nan")
        except ValueError:
            said = math.nan
        if abs(said - duration) > max(1.0, 0.01 * duration):
            return [
                f"{table.path.name} is of a recording of {said:g} s, this one has {duration:g} s: does it belong here?"
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


def merged(spans: Iterable[tuple[float, float]], begins: Container[float] = ()) -> list[tuple[float, float]]:
    """Spans in order, overlapping and touching ones merged; at one of `begins` a new span begins where the previous one ends."""
    joined: list[tuple[float, float]] = []
    for onset, offset in sorted(spans):
        overlaps = joined and onset < joined[-1][1]
        touches = joined and onset == joined[-1][1] and onset not in begins
        if overlaps or touches:
            joined[-1] = (joined[-1][0], max(offset, joined[-1][1]))
        else:
            joined.append((onset, offset))
    return joined


def _as_seizures(reading: Reading, recording: Recording, source: str) -> Seizures:
    """A reading as seizures inside the recording, with everything that the user should know about it."""
    inside, warnings = _inside(reading.spans, recording.duration)
    if reading.spans and not inside:
        source = ""
    if not reading.spans and not reading.says_none:
        source = ""
    open_ended = [onset for onset in reading.open_ended if 0 <= onset < recording.duration]
    if open_ended:
        times = some_of([f"{onset:.1f} s" for onset in open_ended])
        warnings.append(
            f"the end of the seizure at {times} is not marked: assumed at the next onset or the end of the recording "
            "(--seizure-length SECONDS sets another length)"
        )
    doubtful, others = reading.not_understood, Counter[str]()
    if source:
        # The seizures are known: only labels that resemble one are doubtful; the rest (tasks, stimuli) is named all the same.
        resembling = Counter({label: count for label, count in doubtful.items() if resembles_seizure(label)})
        doubtful, others = resembling, doubtful - resembling
    if doubtful:
        warnings.append(f"labels that are not understood: {_counted(doubtful)}; {_MAPPED}")
    if others:
        warnings.append(f"labels that were not taken as seizures: {_counted(others)}; {_MAPPED}")
    events = np.array(inside, np.float64).reshape(-1, 2)
    return Seizures(events, source, (*reading.warnings, *warnings), tuple(open_ended))


def _counted(labels: Counter[str]) -> str:
    return some_of([f"{label!r} ({count})" for label, count in labels.most_common()], 6)


def _inside(spans: Sequence[tuple[float, float]], duration: float) -> tuple[list[tuple[float, float]], list[str]]:
    """The parts of spans inside the recording, and what did not fit."""
    inside, warnings = [], []
    for onset, offset in sorted(spans):
        low, high = max(onset, 0.0), min(offset, duration)
        if offset < onset:
            warnings.append(f"a seizure from {onset:.1f} s to {offset:.1f} s ends before it begins: left out")
        elif high <= low:
            warnings.append(f"a seizure at {onset:.1f} s is outside the recording of {duration:.1f} s: left out")
        else:
            if (low, high) != (onset, offset):
                warnings.append(f"the seizure from {onset:.1f} s to {offset:.1f} s extends beyond the recording: cut")
            inside.append((low, high))
    return inside, warnings


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
