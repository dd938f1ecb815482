"""Writes EyeLink ASC files, with samples and events as the tracker's converter writes them: for samples, tests and benchmarks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from core_runtime.folders import writing
from gaze.scanpaths.scanpath import Display, Eye, Scanpath
from gaze.scanpaths.synthetic_samples import need_times, sampled, with_onsets

_LETTERS: dict[Eye, str] = {"left": "L", "right": "R"}


def write_recording(
    scanpaths: Sequence[Scanpath],
    path: Path,
    *,
    rate: int = 1000,
    date: str = "Mon Jan  5 09:00:00 2026",
    start: int = 1_000_000,
) -> None:
    """The trials of one subject as an ASC file; scanpaths of both eyes of one trial stand side by side.

    Args:
        scanpaths: those of an eye that is not known are written as the left eye's.
        path: the file; the subject is its name.
        rate: samples per second.
        date: of the preamble.
        start: time of the tracker at the first trial, in ms.

    Raises:
        UserError: durations are not known.
    """
    trials: dict[str, dict[Eye, Scanpath]] = {}
    for scanpath in scanpaths:
        eye: Eye = scanpath.eye if scanpath.eye in _LETTERS else "left"
        scanpath = with_onsets(scanpath)
        need_times(scanpath, "an ASC file")
        trials.setdefault(scanpath.trial or scanpath.stimulus, {})[eye] = scanpath
    with writing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            f"** CONVERTED FROM {path.stem}.edf\n** DATE: {date}\n** TYPE: EDF_FILE BINARY EVENT SAMPLE TAGGED\n"
        )
        file.write("** VERSION: EYELINK II 1\n** SOURCE: EYELINK CL\n**\n\n")
        display = scanpaths[0].display if scanpaths else Display()
        if display.width is not None and display.height is not None:
            file.write(f"MSG\t{start - 10} DISPLAY_COORDS 0 0 {display.width - 1} {display.height - 1}\n")
        for name, eyes in trials.items():
            start = _write_trial(file, name, eyes, start, rate) + 500


def _write_trial(file: IO[str], name: str, eyes: dict[Eye, Scanpath], start: int, rate: int) -> int:
    """Writes one trial that begins at `start`; returns its end."""
    ordered: dict[Eye, Scanpath] = {eye: eyes[eye] for eye in ("left", "right") if eye in eyes}
    first = next(iter(ordered.values()))
    ends = [float((each.onset + each.duration).max(initial=0)) for each in ordered.values()]
    end = start + int(max(ends)) + 20
    tracked = "\t".join(eye.upper() for eye in ordered)
    file.write(f"MSG\t{start} TRIALID {name}\n")
    if first.stimulus:
        file.write(f"MSG\t{start} !V IMGLOAD FILL {first.stimulus}\n")
    file.write(f"START\t{start} \t{tracked}\tSAMPLES\tEVENTS\nPRESCALER\t1\nVPRESCALER\t1\nPUPIL\tAREA\n")
    for kind in ("EVENTS", "SAMPLES"):
        file.write(f"{kind}\tGAZE\t{tracked}\tRATE\t{rate:7.2f}\tTRACKING\tCR\tFILTER\t2\n")
    _write_lines(file, ordered, start, end, rate)
    file.write(f"END\t{end} \tSAMPLES\tEVENTS\tRES\t  40.00\t  40.00\n")
    variables = {**first.details, **({"target": first.task} if first.task else {})}
    for variable, value in variables.items():
        file.write(f"MSG\t{end} !V TRIAL_VAR {variable} {value}\n")
    file.write(f"MSG\t{end} TRIAL_RESULT 0\n")
    return end


def _write_lines(file: IO[str], eyes: dict[Eye, Scanpath], start: int, end: int, rate: int) -> None:
    """Samples and events in the order of time."""
    step = 1000 / rate
    times = np.arange(start, end, step)
    pairs = [sampled(scanpath, times - start) for scanpath in eyes.values()]
    dots = "....."
    if len(eyes) == 1:
        dots = "..."
    events = sorted(event for eye, scanpath in eyes.items() for event in _events(scanpath, _LETTERS[eye], start, step))
    spelled = _spell(times, step)
    at = 0
    for time, _, line in events:
        until = int(np.searchsorted(times, time, "left"))
        _write_samples(file, spelled, pairs, at, until, dots)
        at = max(at, until)
        file.write(line)
    _write_samples(file, spelled, pairs, at, len(times), dots)


def _spell(times: np.ndarray, step: float) -> list[str]:
    if step >= 1 and float(step).is_integer():
        return list(map(str, times.astype(np.int64).tolist()))
    return [f"{time:.1f}" for time in times.tolist()]


def _write_samples(file: IO[str], spelled: list[str], pairs: list[np.ndarray], at: int, until: int, dots: str) -> None:
    if until <= at:
        return
    columns = [pair[at:until].tolist() for pair in pairs]
    lines = []
    for place, time in enumerate(spelled[at:until]):
        eyes = "\t".join(f"{column[place][0]:7.1f}\t{column[place][1]:7.1f}\t  500.0" for column in columns)
        lines.append(f"{time}\t{eyes}\t{dots}\n")
    file.write("".join(lines))


def _events(scanpath: Scanpath, letter: str, start: int, step: float) -> Iterator[tuple[float, int, str]]:
    """(time of its line, order at that time, line): fixations, and a saccade wherever two have a gap between them."""
    before: tuple[float, float, float] | None = None
    for x, y, duration, onset in zip(scanpath.x, scanpath.y, scanpath.duration, scanpath.onset, strict=True):
        begin, end = start + onset, start + onset + duration - step
        if before is not None and begin - step >= before[0] + step:
            first, last = before[0] + step, begin - step
            moved = f"{before[1]:7.1f}\t{before[2]:7.1f}\t{x:7.1f}\t{y:7.1f}"
            yield first, 1, f"SSACC {letter}  {_plain(first)}\n"
            yield (
                last + step,
                0,
                f"ESACC {letter}  {_plain(first)}\t{_plain(last)}\t{_plain(last - first + step)}\t{moved}\t   1.00\t    100\n",
            )
        yield begin, 2, f"SFIX {letter}   {_plain(begin)}\n"
        yield (
            end + step,
            0,
            f"EFIX {letter}   {_plain(begin)}\t{_plain(end)}\t{_plain(duration)}\t{x:7.1f}\t{y:7.1f}\t    500\n",
        )
        before = (end, x, y)


def _plain(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
