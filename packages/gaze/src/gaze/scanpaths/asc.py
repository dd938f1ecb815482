"""EyeLink ASC files, streamed: memory does not grow with the samples.

Events stand on lines that begin with a letter, samples on lines that begin with a digit. Fixations are read from the former alone; a search for
line ends that a letter follows passes over the samples at the speed of memory. Times are the tracker's, in ms.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.errors import UserError, few
from gaze.scanpaths.asc_samples import BLOCK, LONGEST_LINE, eyes_in, number_in, read_samples
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Eye, Reading

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
_OUTSIDE = "fixations that begin outside of every trial"
_UNITS = Units("px", "ms", "ms", by_definition=True)
_FIELDS = 8  # EFIX, eye, start, end, duration, x, y, pupil
_DISAGREE = 10.0  # ms; a line's duration counts its last sample, too, which may last 8 ms


@dataclass
class _Trial:
    """A trial as its messages draw it."""

    name: str
    start: float
    end: float = inf
    named: bool = True  # by a message, not by the recording block
    stimulus: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    fixations: dict[Eye, list[tuple[float, float, float, float]]] = field(default_factory=dict)


@dataclass
class _Block:
    """From START to END."""

    start: float
    eyes: tuple[Eye, ...]
    has_samples: bool = False
    sample_columns: Sequence[str] = ()


@dataclass
class _State:
    account: Account
    options: ReadOptions
    trials: list[_Trial] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)
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
    outside: list[_Trial] = field(default_factory=list)  # of each block, for fixations outside of the named trials


def read_asc(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """The fixations of an EyeLink ASC file, each eye's of each trial as a scanpath.

    Without ``--trial-start``, trials begin at TRIALID messages; what lies outside of them is kept as the trial of its recording block. With
    it, a fixation belongs to the trial in which it begins, and others are left out.

    Raises:
        UserError: not such a file, coordinates other than gaze, two sizes of the screen, or nothing of use in it.
    """
    state = _State(Account(), options)
    _read_events(path, state)
    account = state.account
    if not state.blocks and not state.counts["EFIX"]:
        raise UserError(f"{path} holds no recording (no START line)", "convert the EDF again, with events")
    display = _the_display(path, state)
    if "HREF" in state.units or "PUPIL" in state.units:
        raise UserError(
            f"{path}: events are in {few(sorted(state.units))} coordinates, not on the screen",
            "convert the EDF with gaze coordinates",
        )
    _say_what_is_odd(state)
    facts = _facts(path, state)
    if state.counts["EFIX"] == 0 or options.detect in ("ivt", "idt"):
        if not any(block.has_samples for block in state.blocks):
            what = (
                "fixations (no EFIX line) and no samples"
                if state.counts["EFIX"] == 0
                else "samples to detect fixations in"
            )
            raise UserError(f"{path} holds no {what}", "convert the EDF again, with events and samples")
        if options.detect == "never":
            raise UserError(
                f"{path} holds no fixations (no EFIX line)",
                "convert the EDF with events, or let them be detected: --detect ivt",
            )
        _detect(path, state, display)
        kind, provenance = "EyeLink ASC, raw samples", None
    else:
        kind, provenance = "EyeLink ASC", "tracker"
    trials = _trials(path, state, display, provenance or state.provenance)
    return assemble(trials, kind, path, options, account, units=_UNITS, facts=facts)


def _detect(path: Path, state: _State, display: Display) -> None:
    """Puts detected fixations in the place of the tracker's, each into the trial in which it begins."""
    from gaze.scanpaths.events import detect

    for trial in [*state.trials, *state.outside]:
        trial.fixations.clear()
    for detected in detect(
        read_samples(path), str(path), state.options, state.account, subject=path.stem, display=display
    ):
        state.provenance = detected.provenance
        for onset, *others in np.stack(
            [detected.onset + detected.details["begins at (ms)"], detected.duration, detected.x, detected.y], 1
        ).tolist():
            trial = _trial_of(onset, state, detected.details["block"])
            if trial is None:
                state.account.leave_out(_OUTSIDE)
            else:
                trial.fixations.setdefault(detected.eye, []).append((onset, *others))


def _trials(path: Path, state: _State, display: Display, provenance: str) -> Iterator[Trial]:
    asked = state.options.eye
    left, top = _corner(path, state)
    for trial in _in_order(state):
        if not trial.fixations and trial.named:
            state.account.leave_out("trials without a fixation")
        for eye, fixations in trial.fixations.items():
            if asked != "both" and eye != asked:
                state.account.leave_out(f"fixations of the {eye} eye", len(fixations))
                continue
            onset, duration, x, y = np.array(fixations, np.float64).T
            details = dict(trial.details)
            task = details.pop("target", None) or details.pop("task", None)
            yield Trial(
                x - left,
                y - top,
                duration,
                onset - trial.start,
                stimulus=trial.stimulus,
                subject=path.stem,
                trial=trial.name,
                eye=eye,
                display=display,
                provenance=provenance,
                task=task,
                details=details,
            )


def _corner(path: Path, state: _State) -> tuple[float, float]:
    """What the tracker counts the upper left corner of the screen as.

    Raises:
        UserError: two messages differ.
    """
    if len(state.corners) > 1:
        raise UserError(
            f"{path}: DISPLAY_COORDS or GAZE_COORDS begin at different corners: {few([str(corner) for corner in sorted(state.corners)])}"
        )
    left, top = next(iter(state.corners), (0.0, 0.0))
    if (left, top) != (0, 0):
        state.account.note(f"positions count from ({left:g}, {top:g}) there; they are pixels from the upper left now")
    return left, top


def _in_order(state: _State) -> list[_Trial]:
    """Named trials and what lies outside of them, by time; stable where the clock was set back."""
    outside = [trial for trial in state.outside if trial.fixations]
    if not outside:
        return state.trials
    return sorted([*state.trials, *outside], key=lambda trial: trial.start)


def _read_events(path: Path, state: _State) -> None:
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


def _take(line: bytes, state: _State) -> None:
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


def _take_start(line: bytes, state: _State) -> None:
    parts = line.split()
    start = number_in(parts[1]) if len(parts) > 1 else nan
    eyes = eyes_in(parts)
    if not isfinite(start):
        state.account.leave_out(_UNREADABLE)
        start = 0.0
    state.blocks.append(_Block(start, eyes))
    state.outside.append(_Trial(f"block {len(state.blocks)}", start, named=False))
    state.recording = True
    state.open_fixations.clear()


def _take_columns(line: bytes, state: _State) -> None:
    words = line.decode("ascii", "replace").split()
    if "RATE" in words[:-1]:
        rate = number_in(words[words.index("RATE") + 1].encode())
        if isfinite(rate) and rate > 0:
            state.rates.add(rate)
    if words[0] == "EVENTS":
        state.units |= {"HREF", "PUPIL"} & set(words[1:2])
    elif state.blocks:
        state.blocks[-1].sample_columns = words[1:]


def _take_fixation(line: bytes, state: _State) -> None:
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
    trial = _trial_of(onset, state)
    if trial is None:
        state.account.leave_out(_OUTSIDE)
        return
    trial.fixations.setdefault(eye, []).append((onset, duration, x, y))


def _trial_of(onset: float, state: _State, block: int = -1) -> _Trial | None:
    """The latest trial that was running at that time; without one, the recording block, or None where trials are the user's own."""
    for trial in reversed(state.trials):
        if trial.start <= onset:
            if onset <= trial.end:
                return trial
            break
    if state.options.trial_start is not None:
        return None
    if not state.outside:  # events before the first START: a file that was cut
        state.outside.append(_Trial("before the first block", 0.0, named=False))
    return state.outside[block]


def _take_other_event(line: bytes, state: _State) -> None:
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


def _take_message(line: bytes, state: _State) -> None:
    match = _MESSAGE.match(line)
    if match is None:
        state.account.leave_out("messages that cannot be read")
        return
    time, text = float(match.group(1)), match.group(2).decode("utf-8", "replace").strip()
    options = state.options
    start = re.search(options.trial_start, text) if options.trial_start is not None else _TRIAL_ID.search(text)
    if start is not None:
        state.trials.append(_Trial(_trial_name(start, len(state.trials)), time))
        return
    if options.trial_end is not None:
        ends = re.search(options.trial_end, text) is not None
    else:
        ends = options.trial_start is None and _TRIAL_RESULT.search(text) is not None
    running = state.trials[-1] if state.trials else None
    if ends and running is not None:
        running.end = min(running.end, time)
    picture, variable = _PICTURE.search(text), _TRIAL_VARIABLE.search(text)
    if variable is not None and running is not None:
        running.details[variable.group(1)] = variable.group(2)
    if picture is not None:
        place = running or (state.outside[-1] if state.outside else None)
        if place is not None:
            place.stimulus = picture.group(1).replace("\\", "/").rsplit("/", 1)[-1]
    coordinates = _COORDINATES.search(text)
    if coordinates is not None:
        _take_coordinates(coordinates, state)


def _trial_name(match: re.Match[str], number: int) -> str:
    """The first group of the expression, else the number of the trial."""
    named = (match.group(1) or "").strip() if match.re.groups else ""
    return named or str(number + 1)


def _take_coordinates(match: re.Match[str], state: _State) -> None:
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


def _the_display(path: Path, state: _State) -> Display:
    """Of the options, else of the messages.

    Raises:
        UserError: two messages differ and no option decides.
    """
    if state.upside_down and state.options.screen is None:
        raise UserError(
            f"{path}: DISPLAY_COORDS count upwards or from the right",
            "give --screen WIDTH,HEIGHT and --origin bottom-left",
        )
    sizes = set(state.displays.values())
    if len(sizes) > 1 and state.options.screen is None:
        named = ", ".join(f"{name} {size[0]} × {size[1]}" for name, size in state.displays.items())
        raise UserError(f"{path} names two sizes of the screen: {named}", "give --screen WIDTH,HEIGHT")
    if not sizes and state.options.screen is None:
        state.account.note("the file does not say how large the screen is; --screen WIDTH,HEIGHT does")
        return the_display(state.options)
    if len(sizes) > 1:
        state.account.note("the file names two sizes of the screen: --screen decides")
        return the_display(state.options)
    width, height = sizes.pop() if sizes else (None, None)
    return the_display(state.options, Display(width, height), state.account)


def _say_what_is_odd(state: _State) -> None:
    account = state.account
    for name, words in (
        ("fixation ends without a start", "kept, their line holds both times"),
        ("fixation lines whose duration is not the time from start to end", "kept with the duration that they name"),
    ):
        if state.counts[name]:
            account.note(f"{state.counts[name]} {name}: {words}")
    for kind, word in (("BLINK", "blink"), ("SACC", "saccade")):
        count = state.counts[f"{kind} without a start"]
        if count:
            account.note(f"{count} {word} ends without a start")
    eyes = {block.eyes for block in state.blocks}
    if len(eyes) > 1:
        named = sorted(" and ".join(each) or "no eye" for each in eyes)
        account.note(f"the tracked eye changes between blocks: {', '.join(named)}; each eye has scanpaths of its own")
    elif eyes and len(next(iter(eyes))) == 2 and state.options.eye == "both":
        account.note("both eyes were recorded: each has scanpaths of its own (--eye left or right takes one)")
    if len(state.rates) > 1:
        account.note(f"the sampling rate changes: {', '.join(f'{rate:g}' for rate in sorted(state.rates))} Hz")
    starts = [block.start for block in state.blocks]
    earlier = [str(number) for number, (a, b) in enumerate(pairwise(starts), 2) if b <= a]
    if earlier:
        account.note(
            f"blocks that begin no later than the one before them: {few(earlier)}; are these several recordings?"
        )
    empty = [str(number) for number, block in enumerate(state.blocks, 1) if not block.has_samples]
    if empty and len(empty) < len(state.blocks):
        account.note(f"blocks without samples: {few(empty)}")
    if "DATE" not in state.preamble:
        account.note("the file has no date")


def _facts(path: Path, state: _State) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if "DATE" in state.preamble:
        facts["date"] = state.preamble["DATE"]
    if "SOURCE" in state.preamble:
        facts["tracker"] = state.preamble["SOURCE"]
    if state.rates:
        facts["sampling rate (Hz)"] = min(state.rates) if len(state.rates) == 1 else sorted(state.rates)
    facts["blocks"] = len(state.blocks)
    facts["fixation lines"] = state.counts["EFIX"]
    facts["saccades"] = state.counts["SACC"]
    facts["blinks"] = state.counts["BLINK"]
    return facts
