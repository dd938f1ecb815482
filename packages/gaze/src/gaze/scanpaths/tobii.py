"""Tables of Tobii Studio and Pro Lab: a row for each sample, which names the eye movement that it belongs to.

Column names changed with the versions: ``FixationPointX (MCSpx)`` (Studio), ``Fixation point X`` (Pro Lab v1),
``Fixation point X [MCS px]`` (v2). Units in a name count; where there is none, timestamps are compared with the durations of the fixations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from core_runtime.errors import UserError
from gaze.scanpaths.assembly import MS_PER, Account, Trial, Units, assemble, the_display
from gaze.scanpaths.columns import Columns, folded, open_columns
from gaze.scanpaths.names import unit_in
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Reading

# Meaning → names without case, blanks and units. `Columns.find` drops units in brackets.
_NAMES: dict[str, tuple[str, ...]] = {
    "time": ("Recording timestamp", "RecordingTimestamp"),
    "subject": ("Participant name", "ParticipantName"),
    "recording": ("Recording name", "RecordingName"),
    "stimulus": ("Presented Stimulus name", "Presented media name", "MediaName", "StimulusName"),
    "type": ("Eye movement type", "GazeEventType"),
    "index": ("Eye movement type index", "FixationIndex"),
    "duration": ("Gaze event duration", "GazeEventDuration"),
    "x": ("Fixation point X", "FixationPointX"),
    "y": ("Fixation point Y", "FixationPointY"),
    "width": ("Recording resolution width", "Presented Stimulus width"),
    "height": ("Recording resolution height", "Presented Stimulus height"),
    "resolution": ("RecordingResolution",),
    "sensor": ("Sensor",),
}
_SAMPLE_POSITIONS = ("Gaze point X", "GazePointX", "Gaze point left X", "GazePointLeftX")


@dataclass
class _Fixations:
    """Of one participant, recording and stimulus."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    duration: list[float] = field(default_factory=list)
    onset: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)  # time of the last row of each
    start: float = float("nan")  # time of the first row of any kind
    size: tuple[float, float] | None = None  # of the screen
    index: str = ""  # of the fixation that is open
    open: bool = False


def read_tobii(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """Fixations of a Tobii export, one scanpath for each participant, recording and stimulus.

    Raises:
        UserError: columns are missing, or nothing of use is in it.
    """
    table = open_columns(path)
    account = Account(notes=table.notes)
    columns = _columns(table)
    if options.detect in ("ivt", "idt"):
        raise UserError(
            f"{path}: fixations of a Tobii export are its own; --detect {options.detect} has no samples to look at",
            "leave --detect out, or name the sample columns: --columns x=…,y=…,onset=…",
        )
    groups, rows = _read_groups(table, columns)
    for reason, count in table.left_out.items():
        account.leave_out(reason, count)
    if not any(group.x for group in groups.values()):
        raise UserError(
            f"{path} holds no fixations ({rows} rows, none of the type Fixation)",
            "export it with a fixation filter (I-VT)",
        )
    sizes = {group.size for group in groups.values() if group.size is not None}
    if len(sizes) > 1:
        account.note(f"recordings have screens of {len(sizes)} sizes; each path has its own")
    position = unit_in(columns["x"], "position")
    if position is None and options.units is None:
        account.note("the names of the position columns have no unit")
    if "MCS" in columns["x"].upper():
        account.note("positions are in the coordinates of the stimulus (MCS), not of the screen")
    duration_unit = unit_in(columns.get("duration", ""), "time") or "ms"
    time_unit = _unit_of_timestamps(groups, columns.get("time", ""), duration_unit, path, options, account)
    trials = []
    for (subject, recording, stimulus), group in groups.items():
        onset = np.array(group.onset) * MS_PER[time_unit]
        duration = np.array(group.duration) * MS_PER[duration_unit]
        if "duration" not in columns:
            duration = np.array(group.last) * MS_PER[time_unit] - onset
        shown = Display() if group.size is None else Display(round(group.size[0]), round(group.size[1]))
        begin = 0.0
        if np.isfinite(group.start):
            begin = group.start * MS_PER[time_unit]
        trials.append(
            Trial(
                group.x,
                group.y,
                duration,
                onset - begin,  # from the first row of the stimulus
                stimulus=stimulus,
                subject=subject,
                trial=recording,
                eye="both",
                display=the_display(options, shown, account),
                provenance="tracker",
                details={"begins at (ms)": begin},
            )
        )
    if "duration" not in columns:
        account.note("there is no column of durations: they reach from a fixation's first to its last row")
    plain = replace(options, time_unit="ms")  # the times are ms by now
    units = Units(position, "ms", "ms", "top-left")
    return assemble(trials, _version(columns, table), path, plain, account, units=units, facts={"rows": rows})


def _columns(table: Columns) -> dict[str, str]:
    columns: dict[str, str] = {}
    for meaning, names in _NAMES.items():
        column = _preferred(table, names) if meaning in ("x", "y") else table.find(*names)
        if column is not None:
            columns[meaning] = column
    for meaning in ("x", "y", "type"):
        if meaning not in columns:
            raise UserError(
                f"{table.path} has no column {_NAMES[meaning][0]!r}", "export eye movement type and fixation points"
            )
    return columns


def _preferred(table: Columns, names: tuple[str, ...]) -> str | None:
    """Of positions in several units, those in pixels."""
    usual = {folded(name) for name in names}
    matches = [column for column in table.names if folded(_without_units(column)) in usual]
    return min(matches, key=lambda column: unit_in(column, "position") != "px", default=None)


def _without_units(column: str) -> str:
    return column.split("(")[0].split("[")[0]


def _read_groups(table: Columns, columns: dict[str, str]) -> tuple[dict[tuple[str, str, str], _Fixations], int]:
    place = {meaning: number for number, meaning in enumerate(columns)}
    groups: dict[tuple[str, str, str], _Fixations] = {}
    rows = 0
    current: _Fixations | None = None

    def cell(cells: list[str], meaning: str) -> str:
        if meaning in place:
            return cells[place[meaning]]
        return ""

    for cells in table.rows(list(columns.values())):
        rows += 1
        if cell(cells, "sensor") not in ("", "Eye Tracker"):
            continue
        kind = cell(cells, "type")
        key = (cell(cells, "subject"), cell(cells, "recording"), cell(cells, "stimulus"))
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Fixations(start=table.number(cell(cells, "time")))
        if current is not None and current is not group:
            current.open = False
        current = group
        if group.size is None:
            group.size = _size(cells, cell, table)
        if not kind:  # a row of an event, such as a key, stands within a fixation
            continue
        if kind != "Fixation":
            group.open = False
            continue
        _add(group, cell(cells, "index"), *(table.number(cell(cells, name)) for name in ("x", "y", "duration", "time")))
    return groups, rows


def _add(group: _Fixations, index: str, x: float, y: float, duration: float, time: float) -> None:
    """One row of a fixation: it begins one, or goes on with the open one."""
    if group.open and group.index == index:
        group.last[-1] = time
        if np.isnan(group.x[-1]):  # the first rows of a fixation may lack its position
            group.x[-1], group.y[-1] = x, y
        if np.isnan(group.duration[-1]):
            group.duration[-1] = duration
        return
    group.x.append(x)
    group.y.append(y)
    group.duration.append(duration)
    group.onset.append(time)
    group.last.append(time)
    group.index, group.open = index, True


def _size(cells: list[str], cell: Callable[[list[str], str], str], table: Columns) -> tuple[float, float] | None:
    width, height = table.number(cell(cells, "width")), table.number(cell(cells, "height"))
    if not (width > 0 and height > 0):
        parts = cell(cells, "resolution").lower().replace("×", "x").split("x")
        if len(parts) != 2:
            return None
        width, height = (table.number(part.strip()) for part in parts)
    if 1 <= width < 1e6 and 1 <= height < 1e6:
        return (width, height)
    return None


def _unit_of_timestamps(
    groups: dict[tuple[str, str, str], _Fixations],
    column: str,
    duration_unit: str,
    path: Path,
    options: ReadOptions,
    account: Account,
) -> str:
    """Of the option or the column's name; else milliseconds or microseconds, whichever makes a fixation's rows span its duration.

    Raises:
        UserError: option or name contradict the durations.
    """
    ratios = []
    for group in groups.values():
        for first, last, duration in zip(group.onset, group.last, group.duration, strict=True):
            if duration > 0 and last > first:
                ratios.append((last - first) / (duration * MS_PER[duration_unit]))
    ratio = float(np.median(ratios)) if ratios else None  # timestamps per ms
    named = options.time_unit or unit_in(column, "time")
    if named is not None:
        per_ms = None
        if ratio is not None:
            per_ms = ratio * MS_PER[named]
        if per_ms is not None and not 1 / 30 < per_ms < 30:
            raise UserError(
                f"{path}: if {column!r} is in {named}, the rows of a fixation span {per_ms:.3g} times its duration",
                "name the unit of the timestamps: --time-unit s, ms or us",
            )
        return named
    unit = "ms"
    if ratio is not None and ratio > 30:
        unit = "us"
    how = "as the fixations' durations show"
    if ratio is None:
        how = "as nothing says otherwise"
    account.note(f"timestamps are taken as {'µs' if unit == 'us' else 'ms'}, {how}")
    return unit


def _version(columns: dict[str, str], table: Columns) -> str:
    if folded(columns["type"]) == "gazeeventtype":
        return "Tobii Studio table"
    if "[" in columns["x"]:
        return "Tobii Pro Lab table (v2)"
    return "Tobii Pro Lab table (v1)"
