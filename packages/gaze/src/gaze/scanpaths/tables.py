"""Fixations and raw samples in tables with columns of any name: reports of EyeLink Data Viewer, spreadsheets, exports of other programs."""

import re
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core_runtime.errors import UserError, few
from gaze.scanpaths.assembly import MS_PER, Account, Trial, Units, assemble, the_display
from gaze.scanpaths.columns import Columns, folded, is_missing, open_columns
from gaze.scanpaths.names import FIXATION_NAMES, SAMPLE_NAMES, Meaning, is_degrees, unit_in
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.samples import FASTEST, SLOWEST, Samples
from gaze.scanpaths.scanpath import Eye, Reading

_EYES: dict[str, Eye] = {
    "l": "left",
    "left": "left",
    "r": "right",
    "right": "right",
    "b": "both",
    "both": "both",
    "binocular": "both",
}


def read_table_of_fixations(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """A table with a row for each fixation.

    Columns are those of ``--columns``, else those of usual names. Rows of one subject, stimulus, trial and eye make a scanpath, in the order of
    the file or, where onsets are known, of time.

    Raises:
        UserError: a column is missing, or nothing of use is in it.
    """
    table = open_columns(path)
    account = Account(notes=table.notes)
    columns = _meanings(table, options, FIXATION_NAMES)
    _say_columns(columns, options, account)
    # Pupil's export: the unit square from below, times in s, durations in ms
    pupil = folded(columns["x"]) == "normposx"
    units = Units(
        position=unit_in(columns["x"], "position"),
        time="s" if pupil else unit_in(columns.get("onset", ""), "time"),
        duration=options.time_unit or unit_in(columns.get("duration", ""), "time") or "ms",
        origin="bottom-left" if pupil else None,
    )
    kind = "table of fixations"
    if folded(columns["x"]) == "currentfixx":
        kind = "EyeLink fixation report"
    groups: dict[tuple[str, ...], dict[str, array[float]]] = {}
    meanings: list[Meaning] = list(columns)
    order = {meaning: place for place, meaning in enumerate(meanings)}
    keys = [order.get(meaning) for meaning in ("subject", "stimulus", "trial", "eye", "task")]
    for cells in table.rows([columns[meaning] for meaning in meanings]):
        key = tuple("" if place is None or is_missing(cells[place]) else cells[place] for place in keys)
        group = groups.get(key)
        if group is None:
            group = groups[key] = {name: array("d") for name in ("x", "y", "duration", "onset", "end")}
        for name, values in group.items():
            place = order.get(name)  # pyright: ignore[reportArgumentType, reportCallIssue]
            values.append(table.number(cells[place]) if place is not None else np.nan)
    for reason, count in table.left_out.items():
        account.leave_out(reason, count)
    if "duration" in columns:
        _look_for_samples(list(groups.values()), path)
    display = the_display(options)
    if display.size is None:
        account.note("the file does not say how large the screen is; --screen WIDTH,HEIGHT does")
    trials = []
    other_eyes: set[str] = set()
    for (subject, stimulus, trial, eye, task), group in groups.items():
        values = {name: np.array(numbers) for name, numbers in group.items()}
        duration = values["duration"]
        if "duration" not in columns and "end" in columns:
            duration = _lengths(values, columns, options)
        eye_name = _EYES.get(re.sub(r"[\s_-]*eye$", "", eye.lower()), "unknown")
        if eye and eye_name == "unknown":
            other_eyes.add(eye)
        trials.append(
            Trial(
                values["x"],
                values["y"],
                duration,
                values["onset"],
                stimulus,
                subject,
                trial,
                eye_name,
                display,
                task=task or None,
            )
        )
    if other_eyes:
        account.note(
            f"eyes that are not known: {few([repr(eye) for eye in sorted(other_eyes)])} (left, right or both are)"
        )
    return assemble(trials, kind, path, options, account, units=units, facts={"columns": dict(columns)})


def _lengths(values: Mapping[str, np.ndarray], columns: Mapping[Meaning, str], options: ReadOptions) -> np.ndarray:
    """End minus onset, each in the unit of its own column, in the unit that durations are taken for."""
    ends = []
    for meaning in ("onset", "end"):
        unit = options.time_unit or unit_in(columns.get(meaning, ""), "time") or "ms"
        ends.append(values[meaning] * MS_PER[unit])
    return (ends[1] - ends[0]) / MS_PER[options.time_unit or "ms"]


def _look_for_samples(groups: "Sequence[Mapping[str, array[float]]]", path: Path) -> None:
    """Raises where most rows repeat position and duration of the row before them: each is a sample of a fixation, not a fixation."""
    rows = repeats = 0
    for group in groups:
        values = np.array([group[name] for name in ("x", "y", "duration")])
        rows += values.shape[1]
        repeats += int((np.diff(values, axis=1) == 0).all(0).sum())
    if repeats > rows / 2:
        raise UserError(
            f"{path}: {repeats} of {rows} rows repeat position and duration of the row before: these are samples, not fixations",
            "write one row for each fixation",
        )


def _meanings(table: Columns, options: ReadOptions, names: Mapping[Meaning, tuple[str, ...]]) -> dict[Meaning, str]:
    """Meaning → column: those that the options name, then those of usual names."""
    mapped = options.mapped_columns()
    named = {table.named(column) for column in mapped.values()}
    columns: dict[Meaning, str] = {}
    for meaning, usual in names.items():
        column = table.named(mapped[meaning]) if meaning in mapped else table.find(*usual)
        if column is not None and column in columns.values() and meaning in mapped:
            other = next(name for name, taken in columns.items() if taken == column)
            raise UserError(f"--columns takes {column!r} for {other} and for {meaning}", "name a column for each")
        if column is not None and column not in columns.values() and (meaning in mapped or column not in named):
            columns[meaning] = column
    for needed in ("x", "y"):
        if needed not in columns:
            raise UserError(
                f"{table.path} has no column that is known as {needed}",
                f"name it: --columns x=…,y=…,duration=…; its columns are {few([repr(name) for name in table.names])}",
            )
    return columns


def _say_columns(columns: Mapping[Meaning, str], options: ReadOptions, account: Account) -> None:
    mapped = options.mapped_columns()
    guessed = []
    for meaning, column in columns.items():
        if meaning not in mapped and folded(column) != meaning:
            guessed.append(f"{meaning} {column}")
    if guessed:
        account.note(f"columns were taken by their names: {', '.join(guessed)}")
    if "duration" not in columns and "end" not in columns:
        account.note("there is no column of durations: they are not known")
    if unit_in(columns.get("duration", ""), "time") is None and options.time_unit is None and "duration" in columns:
        account.note("durations are taken as ms (--time-unit says otherwise)")


def read_table_of_samples(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """A table with a row for each sample: its fixations are detected.

    Raises:
        UserError: ``--detect never``, the geometry is not known, or coordinates are not on a screen.
    """
    if options.detect == "never":
        raise UserError(
            f"{path} holds raw samples and no fixations", "--detect auto finds them (I-VT), given the geometry"
        )
    from gaze.scanpaths.events import detect_reading, need_geometry

    table = open_columns(path)
    if is_degrees(table.names):
        raise UserError(
            f"{path} holds raw samples in degrees of visual angle, not on a screen", "export positions in pixels"
        )
    need_geometry(str(path), the_display(options))
    account = Account(notes=table.notes)
    samples = samples_of_table(table, options, account)
    return detect_reading(
        samples, str(path), "table of samples", options, account, subject=path.stem, display=the_display(options)
    )


def samples_of_table(table: Columns, options: ReadOptions, account: Account) -> Samples:
    """The samples of a table in pixels and ms, each subject, stimulus and trial a block."""
    mapped = options.mapped_columns()
    sides: dict[Eye, tuple[str, str]] = {}
    for eye, (xs, ys) in SAMPLE_NAMES.items():
        x, y = table.find(*xs), table.find(*ys)
        if x is not None and y is not None:
            sides[eye] = (x, y)
    if "x" in mapped and "y" in mapped:
        sides = {"unknown": (table.named(mapped["x"]), table.named(mapped["y"]))}
    if not sides:
        raise UserError(
            f"{table.path} has no columns of gaze positions that are known", "name them: --columns x=…,y=…,onset=…"
        )
    if len(sides) > 1:
        sides.pop("unknown", None)  # the mean of both eyes
    time = table.named(mapped["onset"]) if "onset" in mapped else table.find(*FIXATION_NAMES["onset"], "n")
    if time is None:
        raise UserError(f"{table.path} has no column of times", "name it: --columns onset=…")
    groups: dict[str, str] = {}
    others: tuple[tuple[Meaning, str | None], ...] = (
        ("subject", None),
        ("stimulus", "book_name"),
        ("trial", "screen_id"),
    )
    for meaning, other in others:
        usual = FIXATION_NAMES[meaning] + ((other,) if other is not None else ())
        column = mapped.get(meaning) or table.find(*usual)
        if column is not None:
            groups[meaning] = table.named(column)
    kind_of_row = table.find("Type")
    needed = [time, *(column for pair in sides.values() for column in pair), *groups.values()]
    if kind_of_row is not None:
        needed.append(kind_of_row)
    numbers = 1 + 2 * len(sides)
    values = [array("d") for _ in range(numbers)]
    block, blocks = array("q"), dict[tuple[str, ...], int]()
    for cells in table.rows(needed):
        if kind_of_row is not None and cells[-1] != "SMP":  # messages of SMI's exports
            continue
        for column, cell in zip(values, cells[:numbers], strict=True):
            column.append(table.number(cell))
        key = tuple(cells[numbers : numbers + len(groups)])
        block.append(blocks.setdefault(key, len(blocks)))
    for reason, count in table.left_out.items():
        account.leave_out(reason, count)
    unit = options.time_unit or unit_in(time, "time") or ("us" if kind_of_row is not None else "ms")
    per_ms: dict[str, float] = {"s": 1000.0, "ms": 1.0, "us": 0.001}
    times = np.array(values[0]) * per_ms[unit]
    known = np.isfinite(times)
    account.leave_out("samples without a time", (~known).sum())
    display = the_display(options)
    points = {}
    for place, (eye, (x_name, _)) in enumerate(sides.items()):
        pair = np.stack([np.array(values[1 + 2 * place]), np.array(values[2 + 2 * place])], 1)[known]
        points[eye] = _positions(pair, options.units or unit_in(x_name, "position"), display.size, table.path)
    names = {number: dict(zip(groups, key, strict=True)) for key, number in blocks.items()}
    samples = Samples(times[known], points, np.array(block, np.int64)[known], names=names)
    _look_at_rate(samples, table.path, options, unit)
    return samples


def _positions(points: np.ndarray, unit: str | None, size: tuple[int, int] | None, path: Path) -> np.ndarray:
    if unit == "normalised" and size is not None:
        return points * size
    if unit not in (None, "px"):
        raise UserError(f"{path}: samples in {unit} are not read", "export positions in pixels")
    return points


def _look_at_rate(samples: Samples, path: Path, options: ReadOptions, unit: str) -> None:
    """Raises where the times cannot be in that unit."""
    rate = samples.rate()
    if options.time_unit is None and not SLOWEST <= rate <= FASTEST:
        raise UserError(
            f"{path}: if times are in {unit}, there are {rate:.3g} samples per second",
            "name the unit: --time-unit s, ms or us",
        )
