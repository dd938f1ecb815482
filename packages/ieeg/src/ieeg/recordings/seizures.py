"""When the seizures are: a recording's own marks, and the tables of BIDS, SzCORE, CHB-MIT, Siena and TUH beside it.

Both sources are read; if they disagree, a warning says so. A recording is known to have no seizure only where a source states it: labels that are not
understood are named and never taken as "none".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, counted
from ieeg.recordings.finding import find_table
from ieeg.recordings.labels import LabelOptions, read_label_map, resembles_seizure
from ieeg.recordings.marks import Mark, Reading, read_marks
from ieeg.recordings.recording import Recording, some_of
from ieeg.recordings.seizure_tables import read_seizure_table

_MAPPED = "--label-map FILE gives the meaning of labels"


@dataclass(frozen=True)
class Seizures:
    """The marked seizures of a recording.

    Attributes:
        events: (seizures, 2) onset and offset, seconds from the first sample, inside the recording.
        source: where they are from ("annotations", the table's name), or "" if there is no record of whether there are any.
        warnings: what did not fit, was not understood, or had to be assumed.
        open_ended: onsets of seizures whose end is not marked.
        doubtful: labels, with counts, that may be of seizures and are not understood: around them, no second is known to be free of seizures.
    """

    events: NDArray[np.float64]
    source: str
    warnings: tuple[str, ...] = ()
    open_ended: tuple[float, ...] = ()
    doubtful: str = ""

    @property
    def known(self) -> bool:
        return bool(self.source)

    @property
    def unfit(self) -> str:
        """Why nothing can be learned from this recording, nor a detector judged by it; "" if there is no reason."""
        if not self.known:
            return "; ".join(["no record of whether it has seizures", *self.warnings])
        if self.doubtful:
            return f"labels that may be of seizures are not understood: {self.doubtful}; {_MAPPED}"
        return ""


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
    return replace(seizures, warnings=warnings)


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


def _as_seizures(reading: Reading, recording: Recording, source: str) -> Seizures:
    """A reading as seizures inside the recording, with everything that the user should know about it."""
    inside, warnings = _inside(reading.spans, recording.duration)
    if reading.spans and not inside:
        source = ""
    if not reading.spans and not reading.says_none:
        source = ""
        if reading.none:
            marked = counted(len(reading.none), "label")
            warnings.append(f"{marked} of no seizure, for a part of the recording: whether the rest has any is unknown")
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
    named = _counted(doubtful) if source else ""
    return Seizures(events, source, (*reading.warnings, *warnings), tuple(open_ended), named)


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
