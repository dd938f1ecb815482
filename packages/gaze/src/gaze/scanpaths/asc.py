"""EyeLink ASC files: fixations of trials, with what the file says of screen, eyes and rate. Times are the tracker's, in ms."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.errors import UserError, few
from gaze.scanpaths.asc_events import OUTSIDE, AscState, AscTrial, read_events, trial_of
from gaze.scanpaths.asc_samples import read_samples
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Reading

_UNITS = Units("px", "ms", "ms", by_definition=True)


def read_asc(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """The fixations of an EyeLink ASC file, each eye's of each trial as a scanpath.

    Without ``--trial-start``, trials begin at TRIALID messages; what lies outside of them is kept as the trial of its recording block. With
    it, a fixation belongs to the trial in which it begins, and others are left out.

    Raises:
        UserError: not such a file, coordinates other than gaze, two sizes of the screen, or nothing of use in it.
    """
    state = AscState(Account(), options)
    read_events(path, state)
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


def _detect(path: Path, state: AscState, display: Display) -> None:
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
            trial = trial_of(onset, state, detected.details["block"])
            if trial is None:
                state.account.leave_out(OUTSIDE)
            else:
                trial.fixations.setdefault(detected.eye, []).append((onset, *others))


def _trials(path: Path, state: AscState, display: Display, provenance: str) -> Iterator[Trial]:
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


def _corner(path: Path, state: AscState) -> tuple[float, float]:
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


def _in_order(state: AscState) -> list[AscTrial]:
    """Named trials and what lies outside of them, by time; stable where the clock was set back."""
    outside = [trial for trial in state.outside if trial.fixations]
    if not outside:
        return state.trials
    return sorted([*state.trials, *outside], key=lambda trial: trial.start)


def _the_display(path: Path, state: AscState) -> Display:
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


def _say_what_is_odd(state: AscState) -> None:
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
    # the tracker's clock runs on through a recording: a block that begins earlier comes from another file
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


def _facts(path: Path, state: AscState) -> dict[str, Any]:
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
