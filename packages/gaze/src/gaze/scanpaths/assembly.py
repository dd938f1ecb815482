"""What every reader does last: units to pixels and milliseconds, and each fixation either used or left out for a reason that is counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Eye, Reading, Scanpath, digest_of

MS_PER = {"s": 1000.0, "ms": 1.0, "us": 0.001}
_UNIT_SQUARE = 0.9  # share of positions between -0.5 and 1.5 in both directions: no recording in pixels has so many
_PERCENT = 101.0  # pixels; with some way beyond the edge of the screen
_ENOUGH = 10  # fixations, to judge their unit by where they lie
_OVERLAP = 20.0  # ms: times rounded to a sample of a slow tracker


@dataclass
class Trial:
    """Fixations as a file has them: lists in the file's own units, a missing value NaN. `assemble` makes a `Scanpath` of it."""

    x: Any
    y: Any
    duration: Any = None
    onset: Any = None
    stimulus: str = ""
    subject: str = ""
    trial: str = ""
    eye: Eye = "unknown"
    display: Display = field(default_factory=Display)
    provenance: str = "file"
    task: str | None = None
    target_box: tuple[float, float, float, float] | None = None
    target_present: bool | None = None
    split: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Account:
    """What was left out, and what the user should know."""

    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """A note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def leave_out(self, reason: str, count: int = 1) -> None:
        if count:
            self.left_out[reason] += int(count)


@dataclass(frozen=True)
class Units:
    """What a file says of its numbers; an option that is given overrules it.

    Attributes:
        position: "px", "normalised", "mm"; None: the file does not say, pixels are assumed and looked at.
        time: of onsets; None: it does not say, milliseconds are assumed and looked at.
        duration: as `time`.
        origin: "top-left", "bottom-left", "centre".
        by_definition: whether the format itself says so, against which no option can stand.
    """

    position: str | None = None
    time: str | None = None
    duration: str | None = None
    origin: str | None = None
    by_definition: bool = False


def the_display(options: ReadOptions, says: Display = Display(), account: Account | None = None) -> Display:
    """What the options say of the screen; what they leave open, as the file says. Where they differ, the account has a note."""
    if account is not None and options.screen is not None and says.size not in (None, options.screen):
        account.note(
            f"the file says that the screen has {says.width} × {says.height} px; "
            f"--screen {options.screen[0]:g},{options.screen[1]:g} counts"
        )
    width, height = options.screen or (says.width, says.height)
    width_mm, height_mm = options.screen_mm or (says.width_mm, says.height_mm)
    return Display(
        None if width is None else round(width),
        None if height is None else round(height),
        width_mm,
        height_mm,
        options.distance_mm or says.distance_mm,
    )


def assemble(
    trials: Iterable[Trial],
    kind: str,
    path: Path,
    options: ReadOptions,
    account: Account,
    *,
    units: Units = Units(),
    facts: Mapping[str, Any] | None = None,
) -> Reading:
    """The reading of a file.

    A fixation without a position or with a negative duration is left out, as one that repeats the onset before it; fixations out of order
    are sorted by their onset; trials without a fixation are left out. All of it is counted.

    Raises:
        UserError: nothing is left; numbers look like other units than the file's or the options'; units need a screen that is not known.
    """
    trials = list(trials)
    _look_at_options(trials, units, options, path, account)
    in_pixels = [_in_pixels(trial, units, options, path, account) for trial in trials]
    if units.position in (None, "px") and options.units is None:
        _look_for_normalised(in_pixels, path)
        _look_for_percent(in_pixels, trials, account)
    _look_for_seconds(trials, units, options, path)
    _look_at_onsets(trials, units, options, path)
    scanpaths = []
    for trial, points in zip(trials, in_pixels, strict=True):
        if options.eye != "both" and trial.eye in ("left", "right") and trial.eye != options.eye:
            account.leave_out(f"fixations of the {trial.eye} eye", len(trial.x))
            continue
        scanpath = _scanpath(trial, points, units, options, account)
        if scanpath is not None:
            scanpaths.append(scanpath)
    _name_apart(scanpaths)
    total = sum(map(len, scanpaths))
    beside = sum(int((~scanpath.on_screen()).sum()) for scanpath in scanpaths)
    if beside > total / 2:
        account.note(f"{beside} of {total} fixations lie beside the screen: are --screen, --units and --origin right?")
    if not scanpaths:
        reasons = ", ".join(f"{count} {reason}" for reason, count in account.left_out.items())
        raise UserError(f"{path} holds no fixations" + (f" that can be used: {reasons}" if reasons else ""))
    return Reading(scanpaths, kind, dict(account.left_out), account.notes, dict(facts or {}))


def _look_at_options(trials: list[Trial], units: Units, options: ReadOptions, path: Path, account: Account) -> None:
    """Raises where an option contradicts the format; notes where one counts more than what the file says, or can do nothing."""
    asked = {"--units": (options.units, units.position), "--time-unit": (options.time_unit, units.time),
             "--origin": (options.origin, units.origin)}  # fmt: skip
    for option, (asked_for, stated) in asked.items():
        if asked_for is None or stated is None or asked_for == stated:
            continue
        if units.by_definition:
            raise UserError(f"{path}: {option} {asked_for}, but the format counts in {stated}", f"leave {option} out")
        account.note(f"the file says {stated}; {option} {asked_for} counts")
    if options.eye != "both":
        _count_note(
            account,
            f"path(s) do not say which eye it was, and are kept (--eye {options.eye})",
            sum(trial.eye not in ("left", "right") for trial in trials),
        )


def _in_pixels(
    trial: Trial, units: Units, options: ReadOptions, path: Path, account: Account
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y from the upper left corner, in pixels."""
    x, y = np.asarray(trial.x, np.float64), np.asarray(trial.y, np.float64)
    position = options.units or units.position or "px"
    origin = options.origin or units.origin or "top-left"
    display = trial.display
    if position == "px" and origin == "top-left":
        return x, y
    if display.width is None or display.height is None:
        raise UserError(
            f"{path}: {position} from {origin} become pixels by the size of the screen",
            "give --screen WIDTH,HEIGHT in pixels",
        )
    width, height = display.width, display.height
    if position == "normalised":
        x, y = x * width, y * height
    elif position == "mm":
        if display.width_mm is None or display.height_mm is None:
            raise UserError(
                f"{path}: mm become pixels by the size of the screen", "give --screen-mm WIDTH,HEIGHT beside --screen"
            )
        x, y = x * width / display.width_mm, y * height / display.height_mm
    if origin == "bottom-left":
        y = height - y
    elif origin == "centre":  # y upwards, as in experiments that are drawn around the middle
        x, y = x + width / 2, height / 2 - y
    account.note(f"positions were {position} from {origin}; they are pixels from the upper left now")
    return x, y


def _look_for_normalised(points: list[tuple[NDArray[np.float64], NDArray[np.float64]]], path: Path) -> None:
    """Raises where positions that are said to be pixels lie in the unit square, but for a few far off."""
    positions = _known(points)
    if not len(positions):
        return
    in_unit = (np.abs(positions - 0.5) <= 1.0).mean(0) > _UNIT_SQUARE
    if len(positions) >= _ENOUGH and in_unit.sum() == 1:
        fraction, other = ("x", "y") if in_unit[0] else ("y", "x")
        raise UserError(
            f"{path}: {fraction} lies between 0 and 1, {other} does not: they are in different units",
            "write both in pixels, or both as shares of the screen; --units px if they are pixels all the same",
        )
    near: NDArray[np.bool_] = np.all(np.abs(positions - 0.5) <= 1.0, axis=1)
    if near.mean() <= _UNIT_SQUARE and np.abs(positions).max() > 2:
        return
    inside = positions
    if near.any():
        inside = positions[near]
    raise UserError(
        f"{path}: {near.sum()} of {len(positions)} positions lie between {inside.min():.3g} and {inside.max():.3g}: they are not pixels",
        "--units normalised with --screen WIDTH,HEIGHT; --units px if they are pixels all the same",
    )


def _look_for_percent(
    points: list[tuple[NDArray[np.float64], NDArray[np.float64]]], trials: list[Trial], account: Account
) -> None:
    """Notes where all fixations lie in the first hundred pixels of a screen that is far larger, or of unknown size."""
    positions = _known(points)
    sizes = [trial.display.size for trial in trials if trial.display.size is not None]
    if len(positions) < _ENOUGH or any(min(size) < 3 * _PERCENT for size in sizes):
        return
    if positions.min() >= -1 and positions.max() <= _PERCENT:
        account.note("all positions lie in the first 100 × 100 pixels: are they percent? They are taken as pixels")


def _known(points: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """(fixations, 2) of all trials, without those that lack a position."""
    positions = np.concatenate([np.stack(pair, 1) for pair in points] or [np.zeros((0, 2))])
    return positions[np.isfinite(positions).all(1)]


def _look_for_seconds(trials: list[Trial], units: Units, options: ReadOptions, path: Path) -> None:
    """Raises where durations cannot be in the unit that they are taken for: a median fixation is shorter than 5 ms or longer than 20 s.

    A tracker's own file knows its unit.
    """
    if options.time_unit is not None:
        return
    unit = units.duration or units.time or "ms"
    known = [
        np.asarray(trial.duration, np.float64)
        for trial in trials
        if trial.duration is not None and trial.provenance == "file"
    ]
    durations = np.concatenate(known or [np.zeros(0)]) * MS_PER[unit]
    durations = durations[np.isfinite(durations) & (durations > 0)]
    if not len(durations):
        return
    median = float(np.median(durations))
    if 5 <= median <= 20_000:
        return
    raise UserError(
        f"{path}: if durations are in {unit}, half of the fixations last {'less' if median < 5 else 'more'} than {median:.3g} ms",
        f"name the unit: --time-unit s, ms or us ({unit} if that is right)",
    )


def _look_at_onsets(trials: list[Trial], units: Units, options: ReadOptions, path: Path) -> None:
    """Raises where fixations begin far faster, or far slower, one after the other than they last: onsets are in another unit."""
    ratios = []
    for trial in trials:
        if trial.onset is None or trial.duration is None or trial.provenance != "file" or len(trial.x) < 2:
            continue
        onset = np.sort(_times(trial.onset, len(trial.x), options.time_unit or units.time or "ms"))
        duration = _times(trial.duration, len(trial.x), options.time_unit or units.duration or units.time or "ms")
        steps = np.diff(onset)
        known = duration[np.isfinite(duration) & (duration > 0)]
        if np.isfinite(steps).all() and (steps > 0).any() and len(known):
            ratios.append(float(np.median(steps[steps > 0]) / np.median(known)))
    if ratios and not 0.05 <= np.median(ratios) <= 200:
        ratio = float(np.median(ratios))
        words = f"{ratio:.0f} times slower" if ratio > 1 else f"{1 / ratio:.0f} times faster"
        raise UserError(
            f"{path}: fixations begin {words} than they last: onsets and durations have different units",
            "put the units into the columns' names: onset_s, duration_ms",
        )


def _scanpath(
    trial: Trial,
    points: tuple[NDArray[np.float64], NDArray[np.float64]],
    units: Units,
    options: ReadOptions,
    account: Account,
) -> Scanpath | None:
    x, y = points
    if len(x) == 0:
        account.leave_out("trials without a fixation")
        return None
    duration = _times(trial.duration, len(x), options.time_unit or units.duration or units.time or "ms")
    onset = _times(trial.onset, len(x), options.time_unit or units.time or "ms")
    keep = np.isfinite(x) & np.isfinite(y)
    account.leave_out("fixations without a position", (~keep).sum())
    source = digest_of(x[keep], y[keep], duration[keep])  # whatever options leave out below
    negative = keep & (duration < 0)
    account.leave_out("fixations that end before they begin", negative.sum())
    keep &= ~negative
    short = keep & (duration < options.min_duration)
    account.leave_out(f"fixations shorter than {options.min_duration:g} ms", short.sum())
    keep &= ~short
    x, y, duration, onset = (values[keep] for values in (x, y, duration, onset))
    if trial.duration is not None:
        _count_note(account, "fixation(s) have no duration that is a number, and are kept", np.isnan(duration).sum())
    if len(onset) and np.isfinite(onset).all():
        order = np.argsort(onset, kind="stable")
        if (np.diff(order) < 0).any():
            account.note("fixations that were not in the order of time were sorted by their onset")
        x, y, duration, onset = (values[order] for values in (x, y, duration, onset))
        repeated = np.concatenate([[False], np.diff(onset) == 0])
        account.leave_out("fixations that repeat an onset", repeated.sum())
        x, y, duration, onset = (values[~repeated] for values in (x, y, duration, onset))
        early = onset[:-1] + duration[:-1] - onset[1:] > _OVERLAP
        _count_note(account, "fixation(s) begin before the one before them has ended", early.sum())
    x, y, on_screen = _on_screen(x, y, trial.display, options, account)
    if not on_screen.all() and options.off_screen == "drop":
        x, y, duration, onset = (values[on_screen] for values in (x, y, duration, onset))
    if len(x) == 0:
        account.leave_out("trials without a fixation")
        return None
    names = (
        "stimulus",
        "subject",
        "trial",
        "eye",
        "display",
        "provenance",
        "task",
        "target_box",
        "target_present",
        "split",
        "details",
    )
    return Scanpath(x, y, duration, onset, **{name: getattr(trial, name) for name in names}, source=source)


def _times(values: Any, count: int, unit: str) -> NDArray[np.float64]:
    """In ms; infinite ones are not known."""
    if values is None:
        return np.full(count, np.nan)
    times = np.asarray(values, np.float64) * MS_PER[unit]
    return np.where(np.isfinite(times), times, np.nan)


def _on_screen(
    x: NDArray[np.float64], y: NDArray[np.float64], display: Display, options: ReadOptions, account: Account
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    size = display.size
    if size is None:
        return x, y, np.ones(len(x), bool)
    inside = (x >= 0) & (y >= 0) & (x < size[0]) & (y < size[1])
    outside = int((~inside).sum())
    if not outside:
        return x, y, inside
    if options.off_screen == "drop":
        account.leave_out("fixations beside the screen", outside)
        return x, y, inside
    if options.off_screen == "keep":
        _count_note(account, "fixation(s) beside the screen were kept", outside)
    else:
        _count_note(account, "fixation(s) beside the screen were moved to its edge", outside)
    if options.off_screen == "clip":
        x, y = np.clip(x, 0, size[0] - 1), np.clip(y, 0, size[1] - 1)
    return x, y, inside


def _count_note(account: Account, text: str, count: int) -> None:
    """A note that begins with a number, which grows; none for 0."""
    if not count:
        return
    for place, note in enumerate(account.notes):
        number, _, rest = note.partition(" ")
        if rest == text and number.isdigit():
            account.notes[place] = f"{int(number) + int(count)} {text}"
            return
    account.notes.append(f"{int(count)} {text}")


def _name_apart(scanpaths: list[Scanpath]) -> None:
    """Makes the trials' names unique within a subject, stimulus and eye where the file repeats them."""
    counts: Counter[tuple[str, ...]] = Counter()
    for place, scanpath in enumerate(scanpaths):
        key = (scanpath.subject, scanpath.trial or scanpath.stimulus, scanpath.eye)
        counts[key] += 1
        if counts[key] > 1:
            name = f"{scanpath.trial or scanpath.stimulus or 'trial'} ({counts[key]})"
            scanpaths[place] = Scanpath(**{**scanpath.__dict__, "trial": name})
