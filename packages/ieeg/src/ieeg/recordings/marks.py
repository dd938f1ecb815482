"""Labels with times, and what they say of seizures: intervals, moments, pairs of a beginning and an end."""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ieeg.recordings.labels import LabelOptions, Meaning, bare_meaning, meaning_of
from ieeg.recordings.recording import some_of

POINT = 0.5  # seconds: a shorter mark is a moment, not an interval
COVERED = 0.95  # share of a recording that must be marked as background for it to be known as seizure-free


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
