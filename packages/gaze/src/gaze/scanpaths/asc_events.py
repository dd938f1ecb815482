"""The event lines of an EyeLink ASC file, streamed: memory does not grow with the samples.

Events stand on lines that begin with a letter, samples on lines that begin with a digit. A search for line ends that a letter follows passes
over the samples at the speed of memory.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from gaze.scanpaths.asc_samples import BLOCK, LONGEST_LINE, eyes_in, number_in
from gaze.scanpaths.assembly import Account
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Eye

# A line that begins with a letter or with ** (the preamble), and whether samples stand before it.
_EVENT = re.compile(rb"\n([A-Z*][^\n]*)")
_EYES: dict[bytes, Eye] = {b"L": "left", b"R": "right"}
_MESSAGE = re.compile(rb"MSG\s+(-?\d+(?:\.\d*)?)[ \t]*([^\r\n]*)")
_TRIAL_ID = re.compile(r"^(?:-?\d+ )?TRIALID\s*(.*)")
_TRIAL_RESULT = re.compile(r"^(?:-?\d+ )?TRIAL_RESULT\b")
_TRIAL_VARIABLE = re.compile(r"!V TRIAL_VAR\s+(\S+)\s*(.*)")
_PICTURE = re.compile(r"!V IMGLOAD\s+(?:FILL|CENTER|TOP_LEFT)?\s*(\S.*?\.\w+)\b")
_COORDINATES = re.compile(r"\b(DISPLAY_COORDS|GAZE_COORDS)\s*=?\s+(-?[\d.]+)\s+(-?[\d.]+)\s+(-?[\d.]+)\s+(-?[\d.]+)")
_UNREADABLE = "event lines that cannot be read"
OUTSIDE = "fixations that begin outside of every trial"
_FIELDS = 8  # EFIX, eye, start, end, duration, x, y, pupil
_DISAGREE = 10.0  # ms; a line's duration counts its last sample, too, which may last 8 ms


@dataclass
class AscTrial:
    """A trial as its messages draw it."""

    name: str
    start: float
    end: float = inf
    named: bool = True  # by a message, not by the recording block
    stimulus: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    fixations: dict[Eye, list[tuple[float, float, float, float]]] = field(default_factory=dict)


@dataclass
class AscBlock:
    """From START to END."""

    start: float
    eyes: tuple[Eye, ...]
    has_samples: bool = False
    sample_columns: Sequence[str] = ()


@dataclass
class AscState:
    account: Account
    options: ReadOptions
    trials: list[AscTrial] = field(default_factory=list)
    blocks: list[AscBlock] = field(default_factory=list)
    recording: bool = False
    open_fixations: dict[bytes, float] = field(default_factory=dict)
    open_events: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    displays: dict[str, tuple[int, int]] = field(default_factory=dict)
    corners: set[tuple[float, float]] = field(default_factory=set)  # what the upper left corner of the screen counts as
    upside_down: bool = False
    preamble: dict[str, str] = field(default_factory=dict)
    rates: set[float] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    provenance: str = "tracker"
    outside: list[AscTrial] = field(default_factory=list)  # of each block, for fixations outside of the named trials


def read_events(path: Path, state: AscState) -> None:
    for samples_before, line, whole in _event_lines(path):
        if samples_before and state.recording and state.blocks:
            state.blocks[-1].has_samples = True
        # without the pupil's size behind it, the last number of the position may lack digits
        if not whole and line.startswith(b"EFIX") and len(line.split()) < _FIELDS:
            state.account.leave_out("fixations on a last line that is cut")
            continue
        _take(line, state)
    if state.recording:
        state.account.note("the file ends within a recording block (no END line): was it cut?")
    state.counts["open"] = len(state.open_fixations)
    state.account.leave_out("fixation starts without an end", len(state.open_fixations))


def _event_lines(path: Path) -> Iterator[tuple[bool, bytes, bool]]:
    """(whether samples stand before it, line, whether a line end follows) for each line that is not a sample."""
    try:
        with path.open("rb") as file:
            rest = b"\n"
            between = 0  # bytes of other lines since the last event
            while block := file.read(BLOCK):
                if b"\r" in block and b"\n" not in block:
                    block = block.replace(b"\r", b"\n")  # line ends of old Macs
                data = rest + block
                cut = data.rfind(b"\n")
                if cut <= 0 and len(data) > LONGEST_LINE:
                    raise UserError(
                        f"{path} has a line of more than {LONGEST_LINE:,} characters: it is not an ASC file"
                    )
                whole, rest = data[: cut + 1], data[cut:]
                at = 0
                for match in _EVENT.finditer(whole, 0, cut + 1):
                    between += match.start() - at
                    yield between > 3, match.group(1), True
                    at, between = match.end(), 0
                between += len(whole) - 1 - at
            for match in _EVENT.finditer(rest):
                yield between > 3, match.group(1), False
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _take(line: bytes, state: AscState) -> None:
    """One event line."""
    word = line[:5]
    if word.startswith(b"MSG"):
        _take_message(line, state)
    elif word.startswith(b"EFIX"):
        _take_fixation(line, state)
    elif word.startswith(b"SFIX"):
        parts = line.split()
        if len(parts) < 3 or parts[1] not in _EYES:
            state.account.leave_out(_UNREADABLE)
            return
        if parts[1] in state.open_fixations:
            state.account.leave_out("fixation starts without an end")
        state.open_fixations[parts[1]] = number_in(parts[2])
    elif line[1:5] in (b"SACC", b"BLIN"):
        _take_other_event(line, state)
    elif word == b"START":
        _take_start(line, state)
    elif word.startswith(b"END"):
        state.recording = False
        state.account.leave_out("fixation starts without an end", len(state.open_fixations))
        state.open_fixations.clear()
        state.open_events.clear()
    elif word == b"SAMPL" or word == b"EVENT":
        _take_columns(line, state)
    elif word.startswith(b"**") and b":" in line:
        name, _, value = line[2:].decode("utf-8", "replace").partition(":")
        state.preamble.setdefault(name.strip(), value.strip())


def _take_start(line: bytes, state: AscState) -> None:
    parts = line.split()
    start = nan
    if len(parts) > 1:
        start = number_in(parts[1])
    eyes = eyes_in(parts)
    if not isfinite(start):
        state.account.leave_out(_UNREADABLE)
        start = 0.0
    state.blocks.append(AscBlock(start, eyes))
    state.outside.append(AscTrial(f"block {len(state.blocks)}", start, named=False))
    state.recording = True
    state.open_fixations.clear()


def _take_columns(line: bytes, state: AscState) -> None:
    words = line.decode("ascii", "replace").split()
    if "RATE" in words[:-1]:
        rate = number_in(words[words.index("RATE") + 1].encode())
        if isfinite(rate) and rate > 0:
            state.rates.add(rate)
    if words[0] == "EVENTS":
        state.units |= {"HREF", "PUPIL"} & set(words[1:2])
    elif state.blocks:
        state.blocks[-1].sample_columns = words[1:]


def _take_fixation(line: bytes, state: AscState) -> None:
    state.counts["EFIX"] += 1
    parts = line.split()
    if len(parts) < 7 or parts[1] not in _EYES:
        state.account.leave_out(_UNREADABLE)
        return
    eye = _EYES[parts[1]]
    onset, end, duration, x, y = (number_in(part) for part in parts[2:7])
    started = state.open_fixations.pop(parts[1], None)
    if started is None:
        state.counts["fixation ends without a start"] += 1
    if not (isfinite(onset) and isfinite(end) and isfinite(duration)):
        state.account.leave_out(_UNREADABLE)
        return
    if end < onset:
        state.account.leave_out("fixations that end before they begin")
        return
    if abs(end - onset - duration) > _DISAGREE:
        state.counts["fixation lines whose duration is not the time from start to end"] += 1
    trial = trial_of(onset, state)
    if trial is None:
        state.account.leave_out(OUTSIDE)
        return
    trial.fixations.setdefault(eye, []).append((onset, duration, x, y))


def trial_of(onset: float, state: AscState, block: int = -1) -> AscTrial | None:
    """The latest trial that was running at that time; without one, the recording block, or None where trials are the user's own."""
    for trial in reversed(state.trials):
        if trial.start <= onset:
            if onset <= trial.end:
                return trial
            break
    if state.options.trial_start is not None:
        return None
    if not state.outside:  # events before the first START: a file that was cut
        state.outside.append(AscTrial("before the first block", 0.0, named=False))
    return state.outside[block]


def _take_other_event(line: bytes, state: AscState) -> None:
    """Saccades and blinks are counted; those of two eyes may overlap, and ends may lack their start."""
    parts = line.split()
    if len(parts) < 3 or parts[1] not in _EYES:
        state.account.leave_out(_UNREADABLE)
        return
    kind = parts[0][1:].decode("ascii", "replace")
    key = (kind, parts[1])
    if line.startswith(b"S"):
        state.open_events[key] += 1
        return
    state.counts[kind] += 1
    if state.open_events[key]:
        state.open_events[key] -= 1
    else:
        state.counts[f"{kind} without a start"] += 1


def _take_message(line: bytes, state: AscState) -> None:
    match = _MESSAGE.match(line)
    if match is None:
        state.account.leave_out("messages that cannot be read")
        return
    time, text = float(match.group(1)), match.group(2).decode("utf-8", "replace").strip()
    options = state.options
    start = re.search(options.trial_start, text) if options.trial_start is not None else _TRIAL_ID.search(text)
    if start is not None:
        state.trials.append(AscTrial(_trial_name(start, len(state.trials)), time))
        return
    # with a start of the user's own, TRIAL_RESULT may belong to something else: a trial then ends where the next begins
    if options.trial_end is not None:
        ends = re.search(options.trial_end, text) is not None
    else:
        ends = options.trial_start is None and _TRIAL_RESULT.search(text) is not None
    running = None
    if state.trials:
        running = state.trials[-1]
    if ends and running is not None:
        running.end = min(running.end, time)
    picture, variable = _PICTURE.search(text), _TRIAL_VARIABLE.search(text)
    if variable is not None and running is not None:
        running.details[variable.group(1)] = variable.group(2)
    if picture is not None:
        # a picture may be named before the first trial begins: it then belongs to the block
        place = running or (state.outside[-1] if state.outside else None)
        if place is not None:
            place.stimulus = picture.group(1).replace("\\", "/").rsplit("/", 1)[-1]
    coordinates = _COORDINATES.search(text)
    if coordinates is not None:
        _take_coordinates(coordinates, state)


def _trial_name(match: re.Match[str], number: int) -> str:
    """The first group of the expression, else the number of the trial."""
    named = ""
    if match.re.groups:
        named = (match.group(1) or "").strip()
    return named or str(number + 1)


def _take_coordinates(match: re.Match[str], state: AscState) -> None:
    try:
        left, top, right, bottom = (float(value) for value in match.groups()[1:])
    except ValueError:
        state.account.leave_out("messages that cannot be read")
        return
    size = (_extent(left, right), _extent(top, bottom))
    state.upside_down |= size[0] < 0 or size[1] < 0
    if size[0] > 0 and size[1] > 0:
        state.corners.add((left, top))
        state.displays.setdefault(match.group(1), size)
        if state.displays[match.group(1)] != size:
            state.displays[f"{match.group(1)} later"] = size


def _extent(first: float, last: float) -> int:
    """Pixels from the first to the last: 0 1919 are 1920, and so are 0 1920, which some experiments write."""
    extent = round(last - first)
    return extent + extent % 2
