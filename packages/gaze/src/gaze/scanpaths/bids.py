"""Eye-tracking BIDS: samples in ``_physio.tsv.gz``, the tracker's events in ``_physioevents.tsv.gz``, what they mean in JSON beside and above them.

The tables have no header; a JSON file names their columns. A JSON file further up holds for every file whose name has its parts
(``task-FreeView_physio.json``), and one closer by wins.
"""

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, few
from core_runtime.fields import read_field
from gaze.scanpaths.assembly import MS_PER, Account, Trial, Units, assemble, the_display
from gaze.scanpaths.columns import Columns
from gaze.scanpaths.json_files import numbers, read_json
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.samples import Samples
from gaze.scanpaths.scanpath import Display, Eye, Reading

_KIND = "eye-tracking BIDS"
_ROUNDING = 1e-3  # ms: seconds with six digits and milliseconds meet
_UNITS = {
    "s": "s",
    "ms": "ms",
    "us": "us",
    "µs": "us",
    "μs": "us",
    "second": "s",
    "seconds": "s",
    "millisecond": "ms",
    "milliseconds": "ms",
}
_POSITIONS = {
    "pixel": "px",
    "pixels": "px",
    "px": "px",
    "n/a": None,
    "a.u.": None,
    "ratio": "normalised",
    "mm": "mm",
    "m": "m",
}
_STIMULUS = ("stim_file", "stimulus", "image", "image_name", "stim")
_TRIAL = ("trial_number", "trial", "trial_id")


@dataclass
class _Recording:
    """One eye of one run."""

    samples: Path | None
    events: Path | None
    sidecar: Mapping[str, Any]
    event_sidecar: Mapping[str, Any]
    stimulus: Mapping[str, Any]  # the events.json of the task
    trials: Path | None

    @property
    def path(self) -> Path:
        path = self.events or self.samples
        assert path is not None
        return path


def read_bids(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """Fixations of one run and eye (a ``_physio`` or ``_physioevents`` file), or of every one in a folder.

    Positions of the tracker's fixations are columns of the events where it wrote them, else the mean of the samples from onset to end.
    Where there are no fixations, they are detected. A table with an ``events.tsv`` beside it is cut into its trials.

    Raises:
        UserError: nothing of use in it; tables that are empty are named.
    """
    account = Account()
    trials: list[Trial] = []
    units = Units("px", "ms", "ms", "top-left")
    empty: list[str] = []
    recordings = list(_recordings(path))
    if not recordings:
        raise UserError(
            f"{path} has no eye-tracking tables (*_physio.tsv.gz)",
            "give the folder of the data set or one of its files",
        )
    facts: dict[str, Any] = {"recordings": len(recordings)}
    for recording in recordings:
        if all(each is None or not _has_content(each) for each in (recording.samples, recording.events)):
            empty.append(recording.path.name)
            continue
        made, units = _read_recording(recording, options, account, facts)
        trials += made
    if empty:
        reason = f"{few(empty)} {'is' if len(empty) == 1 else 'are'} empty"
        if len(empty) == len(recordings):
            raise UserError(
                f"{path}: {reason}: the tables hold not one row",
                "get the data themselves (datalad get, or download again)",
            )
        account.leave_out("recordings whose tables are empty", len(empty))
        account.note(reason)
    kind = _KIND if all(trial.provenance == "tracker" for trial in trials) else f"{_KIND}, raw samples"
    return assemble(trials, kind, path, options, account, units=units, facts=facts)


def _recordings(path: Path) -> Iterator[_Recording]:
    """Of a file: itself, with its partner; of a folder: all in it."""
    if path.is_dir():
        files = sorted([*path.rglob("*_physio.tsv*"), *path.rglob("*_physioevents.tsv*")])
    else:
        files = [path]
    stems = dict.fromkeys(
        (file.parent, re.sub(r"_(physio|physioevents)\.tsv(\.gz)?$", "", file.name)) for file in files
    )
    for folder, stem in stems:
        samples = _first(folder, stem + "_physio")
        events = _first(folder, stem + "_physioevents")
        if samples is None and events is None:
            continue
        sidecar = _sidecar(folder, stem, "physio")
        kind = sidecar.get("PhysioType", "eyetrack")
        if kind != "eyetrack":  # a pulse or a breathing belt
            continue
        run = re.sub(r"_recording-[A-Za-z0-9]+", "", stem)
        trials = _first(folder, run + "_events")
        yield _Recording(
            samples, events, sidecar, _sidecar(folder, stem, "physioevents"), _sidecar(folder, run, "events"), trials
        )


def _first(folder: Path, stem: str) -> Path | None:
    for suffix in (".tsv.gz", ".tsv"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    return None


def _sidecar(folder: Path, stem: str, suffix: str) -> dict[str, Any]:
    """The JSON files that hold for a table, those closer by over those further up."""
    entities = set(stem.split("_"))
    merged: dict[str, Any] = {}
    folders = [folder, *folder.parents]
    root = next((n for n, each in enumerate(folders) if (each / "dataset_description.json").is_file()), 0)
    for place in reversed(folders[: root + 1]):
        matches = []
        for file in place.glob(f"*{suffix}.json"):
            parts = file.name.removesuffix(".json").split("_")
            if parts[-1] == suffix and set(parts[:-1]) <= entities:
                matches.append((len(parts), file))
        for _, file in sorted(matches):
            values = read_json(file)
            if not isinstance(values, dict):
                raise UserError(f"{file} is not an object of fields")
            merged |= values
    return merged


def _has_content(path: Path) -> bool:
    try:
        with _open(path) as file:
            return bool(file.read(64).strip())
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}", "copy it again") from error


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _read_recording(
    recording: _Recording, options: ReadOptions, account: Account, facts: dict[str, Any]
) -> tuple[list[Trial], Units]:
    sidecar, path = recording.sidecar, recording.path
    system = sidecar.get("SampleCoordinateSystem", "gaze-on-screen")
    if system != "gaze-on-screen":
        raise UserError(f"{path}: SampleCoordinateSystem is {system!r}: positions are not on the screen")
    eye = sidecar.get("RecordedEye", "unknown")
    if eye == "cyclopean":
        eye = "both"
    if eye not in get_args(Eye):
        raise UserError(f"{path}: RecordedEye is {eye!r}, expected left, right or cyclopean")
    if options.eye != "both" and eye in ("left", "right") and eye != options.eye:
        account.note(f"recordings of the {eye} eye were passed over (--eye {options.eye})")
        return [], Units("px", "ms", "ms", "top-left")
    display, origin = _display(recording, options)
    columns = _column_names(sidecar, recording.samples) if recording.samples is not None else []
    time_unit = _unit(sidecar, "timestamp", "ms")
    samples = None
    if recording.samples is not None and _has_content(recording.samples):
        samples = _samples(recording.samples, columns, sidecar, time_unit, eye, account)
    rows = _fixation_rows(recording, time_unit, samples, account)
    position = None
    for name in ("x_coordinate", "y_coordinate"):
        described = sidecar.get(name)
        said = described.get("Units") if isinstance(described, dict) else None
        if isinstance(said, str) and said.lower() not in _POSITIONS:
            raise UserError(f"{path}: {name} is in {said!r}, expected pixel, mm or a.u.")
        position = _POSITIONS.get(said.lower()) if isinstance(said, str) else position
    if position == "m":
        raise UserError(f"{path}: positions in metres are not read", "write them in pixel or mm")
    rate = sidecar.get("SamplingFrequency")
    if rate is not None:
        facts["sampling rate (Hz)"] = rate
    subject = next((part[4:] for part in path.name.split("_") if part.startswith("sub-")), path.stem)
    run = "_".join(part for part in path.name.split("_")[:-1] if not part.startswith(("sub-", "recording-", "task-")))
    shared: dict[str, Any] = {"subject": subject, "eye": eye, "display": display}
    provenance = "tracker"
    if rows is None or options.detect in ("ivt", "idt"):
        if samples is None:
            raise UserError(f"{path}: there are no fixations and no samples")
        if options.detect == "never":
            raise UserError(f"{path} has no fixations", "let them be detected: --detect ivt")
        if position not in (None, "px") or origin != "top-left":
            raise UserError(
                f"{path}: fixations are detected in pixels from the upper left only", "write the samples so"
            )
        from gaze.scanpaths.events import detect

        detected = list(detect(samples, str(path), options, account, subject=subject, display=display))
        provenance = detected[0].provenance
        start = samples.time[0]
        rows = np.concatenate([np.stack([t.onset + start, t.duration, t.x, t.y], 1) for t in detected])
    first = float(samples.time[0]) if samples is not None and len(samples) else float(rows[0, 0] if len(rows) else 0)
    cut = _cut_into_trials(recording, rows, first, run, account)
    made = []
    for name, stimulus, begin, inside, details in cut:
        onset, duration, x, y = inside.T
        task = details.pop("target", None) or details.pop("task", None)
        made.append(
            Trial(
                x,
                y,
                duration,
                onset - begin,
                stimulus,
                trial=name,
                details=details,
                provenance=provenance,
                task=task,
                **shared,
            )
        )
    return made, Units(position, "ms", "ms", origin)


def _unit(sidecar: Mapping[str, Any], column: str, default: str) -> str:
    described = sidecar.get(column)
    said = described.get("Units") if isinstance(described, dict) else None
    return _UNITS.get(said, default) if isinstance(said, str) else default


def _display(recording: _Recording, options: ReadOptions) -> tuple[Display, str]:
    screen = recording.stimulus.get("StimulusPresentation", recording.sidecar.get("StimulusPresentation"))
    if screen is None:
        return the_display(options), "top-left"
    if not isinstance(screen, dict):
        raise UserError(f"{recording.path}: StimulusPresentation of its events.json is not an object")
    sizes = {}
    for name in ("ScreenSize", "ScreenResolution"):
        size = numbers(screen.get(name)) if screen.get(name) not in (None, "n/a") else [None, None]
        if size is None or len(size) != 2 or not all(side is None or 0 < side < 1e6 for side in size):
            raise UserError(
                f"{recording.path}: {name} of its events.json is {screen.get(name)!r}, expected two numbers"
            )
        sizes[name] = size
    distance = (
        read_field(screen, "ScreenDistance", float, where=recording.path, default=None, low=0.01)
        if screen.get("ScreenDistance") != "n/a"
        else None
    )
    width, height = sizes["ScreenResolution"]
    width_m, height_m = sizes["ScreenSize"]
    says = Display(
        None if width is None else round(width),
        None if height is None else round(height),
        None if width_m is None else width_m * 1000,
        None if height_m is None else height_m * 1000,
        None if distance is None else distance * 1000,
    )
    return the_display(options, says), _origin(screen.get("ScreenOrigin"), recording.path)


def _origin(value: Any, path: Path) -> str:
    if value is None:
        return "top-left"
    words = {str(word).lower() for word in value} if isinstance(value, list) else set()
    for origin, named in (
        ("top-left", {"top", "left"}),
        ("bottom-left", {"bottom", "left"}),
        ("centre", {"center"}),
        ("centre", {"centre"}),
    ):
        if words == named:
            return origin
    raise UserError(
        f"{path}: ScreenOrigin is {value!r}, expected ['top', 'left'], ['bottom', 'left'] or ['center', 'center']"
    )


def _column_names(sidecar: Mapping[str, Any], path: Path | None) -> list[str]:
    columns = sidecar.get("Columns")
    if (
        not isinstance(columns, list)
        or not all(isinstance(name, str) for name in columns)
        or len(set(columns)) != len(columns)
    ):
        raise UserError(f"{path}: its JSON does not name the columns (Columns)", "write a list of different names")
    return columns


def _table(path: Path, names: Sequence[str], wanted: Sequence[str], account: Account) -> list[list[str]]:
    """The cells of some columns of a table without a header."""
    with_header = _has_header(path, names)
    if with_header:
        account.note(f"{path.name} has a header line, which BIDS does not foresee")
    table = Columns(path, names, "\t", "utf-8", int(with_header))
    rows = list(table.rows(wanted))
    for reason, count in table.left_out.items():
        account.leave_out(reason, count)
    return rows


def _has_header(path: Path, names: Sequence[str]) -> bool:
    try:
        with _open(path) as file:
            first = file.readline(10_000).decode("utf-8", "replace").strip().split("\t")
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}", "copy it again") from error
    return first[0] == names[0]


def _numbers(rows: list[list[str]], width: int) -> NDArray[np.float64]:
    number = Columns(Path(), (), "\t", "utf-8", 0).number
    return np.array([[number(cell) for cell in row] for row in rows], np.float64).reshape(-1, width)


def _samples(
    path: Path, columns: Sequence[str], sidecar: Mapping[str, Any], time_unit: str, eye: Eye, account: Account
) -> Samples:
    for name in ("x_coordinate", "y_coordinate"):
        if name not in columns:
            raise UserError(f"{path}: its JSON names no column {name}", f"its columns are {', '.join(columns)}")
    rate = read_field(sidecar, "SamplingFrequency", float, where=path, default=None, low=0.1, high=100_000)
    if "timestamp" in columns:
        values = _numbers(_table(path, columns, ("timestamp", "x_coordinate", "y_coordinate"), account), 3)
        values[:, 0] *= MS_PER[time_unit]
    else:
        points = _numbers(_table(path, columns, ("x_coordinate", "y_coordinate"), account), 2)
        if rate is None:
            raise UserError(f"{path} has no timestamps and its JSON no SamplingFrequency")
        start = read_field(sidecar, "StartTime", float, where=path, default=0.0)
        values = np.column_stack([start * 1000 + np.arange(len(points)) * 1000 / rate, points])
    values = values[np.isfinite(values[:, 0])]
    samples = Samples(values[:, 0], {eye: values[:, 1:]}, np.zeros(len(values), np.int64))
    if rate is not None and len(samples) > 2:
        found = samples.rate()
        if abs(found / rate - 1) > 0.02:
            account.note(
                f"{path.name}: its JSON says {rate:g} Hz, the timestamps are {1000 / found:g} ms apart ({found:g} Hz): the timestamps are used"
            )
    return samples


def _fixation_rows(
    recording: _Recording, time_unit: str, samples: Samples | None, account: Account
) -> NDArray[np.float64] | None:
    """(fixations, 4): onset and duration in ms, x and y; None: the tracker wrote none."""
    path = recording.events
    if path is None or not _has_content(path):
        return None
    sidecar = recording.event_sidecar
    columns = _column_names(sidecar, path)
    for name in ("onset", "duration", "trial_type"):
        if name not in columns:
            raise UserError(f"{path}: its JSON names no column {name}", f"its columns are {', '.join(columns)}")
    positions = [name for name in ("x_coordinate", "y_coordinate") if name in columns]
    rows = _table(path, columns, ["trial_type", "onset", "duration", *positions], account)
    fixations = [row[1:] for row in rows if row[0].lower() == "fixation"]
    if not fixations:
        return None
    values = _numbers(fixations, 2 + len(positions))
    source = sidecar.get("OnsetSource", "timestamp")
    onset_unit = _unit(sidecar, "onset", time_unit if source == "timestamp" else "s")
    duration_unit = _unit(sidecar, "duration", "s")
    onset = values[:, 0] * MS_PER[onset_unit]
    duration = values[:, 1] * MS_PER[duration_unit]
    if _unit(sidecar, "duration", "") == "" and np.nanmedian(duration) > 20_000:
        # BIDS wants seconds; converters that copy the tracker's milliseconds are met.
        duration = values[:, 1]
        account.note(f"{path.name}: durations are taken as ms: in s, fixations would last for minutes")
    if len(positions) == 2:
        return np.column_stack([onset, duration, values[:, 2:]])
    if samples is None:
        raise UserError(f"{path} has fixations without positions, and there are no samples to take them from")
    account.note("positions of fixations are the means of their samples")
    return np.column_stack([onset, duration, _means(samples, onset, duration)])


def _means(samples: Samples, onset: NDArray[np.float64], duration: NDArray[np.float64]) -> NDArray[np.float64]:
    """(fixations, 2): the mean position of the samples of each; NaN where there are none."""
    order = np.argsort(samples.time, kind="stable")
    time, points = samples.time[order], next(iter(samples.points.values()))[order]
    means = np.full((len(onset), 2), np.nan)
    first = np.searchsorted(time, onset, "left")
    last = np.searchsorted(time, onset + np.nan_to_num(duration), "left")
    for place, (a, b) in enumerate(zip(first, last, strict=True)):
        inside = points[a:b]
        seen = np.isfinite(inside).all(1)
        if seen.any():
            means[place] = inside[seen].mean(0)
    return means


def _cut_into_trials(
    recording: _Recording, rows: NDArray[np.float64], first: float, run: str, account: Account
) -> list[tuple[str, str, float, NDArray[np.float64], dict[str, Any]]]:
    """(name, stimulus, begin in ms, fixations, other columns) of each trial of the events.tsv; the whole run where none fits."""
    whole = [(run, "", first, rows, {})]
    if recording.trials is None:
        return whole
    from core_runtime.tables import read_table

    table = read_table(recording.trials)
    onset, duration = table.column("onset"), table.column("duration")
    assert onset is not None
    assert duration is not None
    stimulus, trial = (table.column(*names, required=False) for names in (_STIMULUS, _TRIAL))
    # On the tracker's clock where the events say so, else from the first sample.
    on_clock = recording.stimulus.get("OnsetSource") == "timestamp"
    start = read_field(recording.sidecar, "StartTime", float, where=recording.path, default=0.0)
    shift = 0.0 if on_clock else first - start * 1000
    cut, used = [], np.zeros(len(rows), bool)
    for number, row in enumerate(table, 1):
        begin, length = table.number(row, onset), table.number(row, duration)
        if begin is None or length is None:
            continue
        begin, end = begin * 1000 + shift, (begin + length) * 1000 + shift
        inside = (rows[:, 0] >= begin - _ROUNDING) & (rows[:, 0] < end - _ROUNDING)
        used |= inside
        known = {
            name: value for name, value in row.cells.items() if name not in (onset, duration) and value is not None
        }
        cut.append((row.get(trial) or str(number), row.get(stimulus) or "", begin, rows[inside], known))
    if not used.any():
        account.note(f"{recording.path.name}: no fixation lies in a trial of {recording.trials.name}: it is kept whole")
        return whole
    account.leave_out("fixations that begin outside of every trial", int((~used).sum()))
    return cut
