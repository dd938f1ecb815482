"""When the seizures are: what a recording marks itself, and the tables of CHB-MIT, Siena, TUH and SzCORE that lie beside it."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from ieeg.recordings.finding import find_table
from ieeg.recordings.recording import Event, Recording

_SEIZURE = re.compile(r"^(sz\b|sz[_\-]|seiz|ictal|(fn|gn|sp|cp|ab|tn|cn|tc|at|my)sz$)", re.IGNORECASE)
_BEGIN = re.compile(r"\b(sz|seizure|seiz)\w*\b.*\b(start|onset|begin)", re.IGNORECASE)
_END = re.compile(r"\b(sz|seizure|seiz)\w*\b.*\b(end|stop|offset)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2})[.:](\d{2})[.:](\d{2})")


@dataclass(frozen=True)
class Seizures:
    """The marked seizures of a recording.

    Attributes:
        events: (seizures, 2) onset and offset, seconds from the first sample, inside the recording.
        source: where they are from ("annotations", the table's name), or "" where nothing says whether there are any.
        warnings: what did not fit.
    """

    events: NDArray[np.float64]
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.source)


def seizures_of(recording: Recording, table: Path | None = None) -> Seizures:
    """The seizures of a recording: from `table`, else from a table beside it, else from its own annotations.

    Raises:
        UserError: the table asked for cannot be read, or says nothing of this recording.
    """
    path = table or find_table(recording.path)
    if path is not None:
        found = read_table(path, recording)
        if found is not None:
            return _inside(found, recording, path.name)
        if table is not None:
            raise UserError(
                f"{path} says nothing of {recording.path.name}", "tables name the recording, or lie beside it"
            )
    marked = from_annotations(recording.events, recording.duration)
    return _inside(marked, recording, "annotations" if recording.events else "")


def read_table(path: Path, recording: Recording) -> list[tuple[float, float]] | None:
    """(onset, offset) in seconds from a table of any known form; None if it does not speak of this recording.

    Raises:
        UserError: unreadable, or of no known form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "give a table of seizures") from None
    if path.name.endswith("-summary.txt") or re.search(r"^Number of Seizures in File", text, re.MULTILINE):
        return chbmit(text, recording.path.name)
    if path.name.startswith("Seizures-list") or re.search(r"^Seizure n\s*\d+", text, re.MULTILINE):
        return siena(text, recording.path.name)
    if "start_time" in text and "stop_time" in text:
        return tuh(text)
    header = text.split("\n", 1)[0].strip().split("\t")
    if "onset" in header and "duration" in header:
        return tsv(text, path.name)
    raise UserError(
        f"{path.name} is no seizure table",
        "known: CHB-MIT *-summary.txt, Siena Seizures-list-*.txt, TUH *.csv_bi, events.tsv",
    )


def chbmit(text: str, file: str) -> list[tuple[float, float]] | None:
    """CHB-MIT's summary: seconds a file."""
    for block in re.split(r"(?=^File Name:)", text, flags=re.MULTILINE):
        if re.match(rf"File Name:\s*{re.escape(file)}\s*$", block, re.MULTILINE | re.IGNORECASE):
            starts = re.findall(r"Seizure(?:\s+\d+)?\s+Start Time:\s*(\d+)", block)
            ends = re.findall(r"Seizure(?:\s+\d+)?\s+End Time:\s*(\d+)", block)
            return [(float(a), float(b)) for a, b in zip(starts, ends, strict=False)]
    return None


def siena(text: str, file: str) -> list[tuple[float, float]] | None:
    """Siena's lists: clock times of registration and seizure, which may pass midnight; points and colons, letters in the way."""
    found: list[tuple[float, float]] | None = None
    parts = re.split(r"(?=^\s*Seizure n\s*\d+)", text, flags=re.MULTILINE)
    last: dict[str, str] = {}
    for block in parts:
        named = re.search(r"File name:\s*(\S+)", block)
        name = named[1] if named else last.get("file", "")
        last["file"] = name
        if _plain(name) != _plain(file):
            continue
        times = {}
        for key, pattern in (
            ("registration", r"Registration start time:?\s*([^\n]+)"),
            ("start", r"^\s*(?:Seizure\s+)?[Ss]tart time:?\s*([^\n]+)"),
            ("end", r"^\s*(?:Seizure\s+)?[Ee]nd time:?\s*([^\n]+)"),
        ):
            line = re.search(pattern, block, re.MULTILINE)
            clock = _CLOCK.search(line[1]) if line else None
            if clock:
                hours, minutes, seconds = (int(g) for g in clock.groups())
                times[key] = hours * 3600 + minutes * 60 + seconds
        found = found or []
        if {"start", "end", "registration"} <= times.keys():
            onset = (times["start"] - times["registration"]) % 86400
            found.append((float(onset), float(onset + (times["end"] - times["start"]) % 86400)))
    return found


def _plain(name: str) -> str:
    """Siena writes PN01-1.edf, PNO1-1.edf and PN01.edf for one file."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix(".edf").replace("pno", "pn0"))


def tuh(text: str) -> list[tuple[float, float]]:
    """TUH's csv and csv_bi: channel, start_time, stop_time, label; one event where channels say the same."""
    rows = csv.DictReader(line for line in text.splitlines() if line and not line.startswith("#"))
    spans = [
        (float(r["start_time"]), float(r["stop_time"]))
        for r in rows
        if r.get("label") and _SEIZURE.match(r["label"].strip())
    ]
    return merged(spans)


def tsv(text: str, name: str) -> list[tuple[float, float]]:
    """BIDS and SzCORE: onset, duration and eventType (event_type, trial_type, description); "bckg" and everything else is no seizure."""
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    spans = []
    for row in rows:
        label = next((row[k] for k in ("eventType", "event_type", "trial_type", "description") if row.get(k)), "")
        try:
            onset, duration = float(row["onset"]), float(row["duration"])
        except (TypeError, ValueError, KeyError):
            if _SEIZURE.match(label.strip()):
                raise UserError(
                    f"{name}: a seizure without onset and duration in seconds", "complete the line, or remove it"
                ) from None
            continue
        if _SEIZURE.match(label.strip()) and not _BEGIN.search(label):
            spans.append((onset, onset + duration))
    return spans


def from_annotations(events: Sequence[Event], duration: float) -> list[tuple[float, float]]:
    """Seizures among a recording's own marks: events with a duration ("sz", "seizure", "ictal"), and pairs of "start" and "end"."""
    spans = [
        (e.onset, e.onset + e.duration)
        for e in events
        if e.duration > 0 and _SEIZURE.match(_said(e.label)) and not _END.search(e.label)
    ]
    ends = sorted(e.onset for e in events if _END.search(e.label))
    spans += [
        (e.onset, next((t for t in ends if t >= e.onset), duration))
        for e in events
        if e.duration == 0 and _BEGIN.search(e.label)
    ]
    return sorted(spans)


def _said(label: str) -> str:
    """BrainVision's markers come as kind and text: "Comment/seizure"."""
    return label.rpartition("/")[2].strip()


def merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Overlapping and touching spans as one."""
    out: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if out and a <= out[-1][1]:
            out[-1] = (out[-1][0], max(b, out[-1][1]))
        else:
            out.append((a, b))
    return out


def _inside(spans: Sequence[tuple[float, float]], recording: Recording, source: str) -> Seizures:
    warnings, kept = [], []
    for a, b in sorted(spans):
        low, high = max(a, 0.0), min(b, recording.duration)
        if b < a:
            warnings.append(f"a seizure from {a:.1f} s to {b:.1f} s ends before it begins: left out")
        elif high <= low:
            warnings.append(
                f"a seizure at {a:.1f} s lies outside the recording of {recording.duration:.1f} s: left out"
            )
        else:
            if (low, high) != (a, b):
                warnings.append(f"the seizure from {a:.1f} s to {b:.1f} s reaches outside the recording: cut")
            kept.append((low, high))
    return Seizures(np.array(kept, np.float64).reshape(-1, 2), source, tuple(warnings))
