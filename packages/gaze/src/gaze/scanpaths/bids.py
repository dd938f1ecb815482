"""Eye-tracking BIDS: samples in ``_physio.tsv.gz``, the tracker's events in ``_physioevents.tsv.gz``, what they mean in JSON beside and above them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, few
from core_runtime.fields import read_field
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.bids_events import cut_into_trials, read_fixations
from gaze.scanpaths.bids_files import BidsRecording, column_names, find_recordings, has_content, unit_of
from gaze.scanpaths.bids_samples import read_samples
from gaze.scanpaths.json_files import numbers
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.samples import Samples
from gaze.scanpaths.scanpath import Display, Eye, Reading

_KIND = "eye-tracking BIDS"
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


def read_bids(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """Fixations of one run and eye (a ``_physio`` or ``_physioevents`` file), or of every one in a folder.

    Positions of the tracker's fixations are columns of the events where it wrote them, else the mean of the samples from onset to end.
    Where there are no fixations, they are detected. A table with an ``events.tsv`` beside it is cut into its trials.

    Raises:
        UserError: nothing of use in it; tables that are empty are named.
    """
    account = Account()
    trials: list[Trial] = []
    units: dict[Units, str] = {}  # → a table that has them
    empty: list[str] = []
    recordings = list(find_recordings(path))
    if not recordings:
        raise UserError(
            f"{path} has no eye-tracking tables (*_physio.tsv.gz)",
            "give the folder of the data set or one of its files",
        )
    facts: dict[str, Any] = {"recordings": len(recordings)}
    for recording in recordings:
        if all(each is None or not has_content(each) for each in (recording.samples, recording.events)):
            empty.append(recording.path.name)
            continue
        content = _read_recording(recording, options, account, facts)
        if content is None:
            continue
        trials += content[0]
        units[content[1]] = recording.path.name
    if len(units) > 1:
        raise UserError(f"{path}: {few(list(units.values()))} differ in units or origin", "read them apart")
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
    shared_units = next(iter(units), Units("px", "ms", "ms", "top-left"))
    return assemble(trials, kind, path, options, account, units=shared_units, facts=facts)


def _read_recording(
    recording: BidsRecording, options: ReadOptions, account: Account, facts: dict[str, Any]
) -> tuple[list[Trial], Units] | None:
    """Its trials and their units; None: of the eye that was not asked for."""
    sidecar, path = recording.sidecar, recording.path
    system = sidecar.get("SampleCoordinateSystem", "gaze-on-screen")
    if system != "gaze-on-screen":
        raise UserError(f"{path}: SampleCoordinateSystem is {system!r}: positions are not on the screen")
    eye = _eye(recording)
    if options.eye != "both" and eye in ("left", "right") and eye != options.eye:
        account.note(f"recordings of the {eye} eye were passed over (--eye {options.eye})")
        return None
    display, origin = _display(recording, options, account)
    position = _position_unit(recording, account)
    rate = sidecar.get("SamplingFrequency")
    if rate is not None:
        facts["sampling rate (Hz)"] = rate
    time_unit = unit_of(sidecar, "timestamp", "ms")
    samples = None
    if recording.samples is not None and has_content(recording.samples):
        columns = column_names(sidecar, recording.samples)
        samples = read_samples(recording.samples, columns, sidecar, time_unit, eye, account)
    shared: dict[str, Any] = {"subject": recording.subject, "eye": eye, "display": display, "provenance": "tracker"}
    rows = read_fixations(recording, time_unit, samples, account)
    if rows is None or options.detect in ("ivt", "idt"):
        if position not in (None, "px") or origin not in (None, "top-left"):
            raise UserError(
                f"{path}: fixations are detected in pixels from the upper left only", "write the samples so"
            )
        rows, shared["provenance"] = _detect(recording, samples, options, account, display)
    begin = 0.0
    if samples is not None and len(samples):
        begin = float(samples.time[0])
    elif len(rows):
        begin = float(rows[0, 0])
    trials = [
        _trial(name, stimulus, start, inside, details, shared)
        for name, stimulus, start, inside, details in cut_into_trials(recording, rows, begin, account)
    ]
    return trials, Units(position, "ms", "ms", origin, by_definition=True)


def _trial(
    name: str,
    stimulus: str,
    begin: float,
    fixations: NDArray[np.float64],
    details: dict[str, Any],
    shared: Mapping[str, Any],
) -> Trial:
    onset, duration, x, y = fixations.T
    task = details.pop("target", None) or details.pop("task", None)
    return Trial(x, y, duration, onset - begin, stimulus, trial=name, details=details, task=task, **shared)


def _eye(recording: BidsRecording) -> Eye:
    eye = recording.sidecar.get("RecordedEye", "unknown")
    if eye == "cyclopean":
        return "both"
    if eye not in get_args(Eye):
        raise UserError(f"{recording.path}: RecordedEye is {eye!r}, expected left, right or cyclopean")
    return eye


def _position_unit(recording: BidsRecording, account: Account) -> str | None:
    """Of x and y alike: of the columns, else of all samples, as drafts of the format name it; None: the side-car does not say."""
    units: dict[str, str | None] = {}
    described_in = [("samples", recording.sidecar), ("events", recording.event_sidecar)]
    for name in ("x_coordinate", "y_coordinate"):
        for where, sidecar in described_in:
            described = sidecar.get(name)
            spelled = None
            if isinstance(described, dict):
                spelled = described.get("Units")
            if spelled is None and where == "samples":
                spelled = recording.sidecar.get("SampleCoordinateUnits")
            if spelled is not None:
                units[f"{name} of the {where}"] = _known_unit(spelled, name, recording.path)
    if not units:
        account.note("the side-car does not name the unit of positions: they are taken as pixels")
    if len(set(units.values())) > 1:
        raise UserError(
            f"{recording.path}: positions are in different units ({', '.join(units)})", "write all in pixel or mm"
        )
    unit = next(iter(units.values()), None)
    if unit == "m":
        raise UserError(f"{recording.path}: positions in metres are not read", "write them in pixel or mm")
    return unit


def _known_unit(spelled: Any, name: str, path: Path) -> str | None:
    """A unit as we name it; None: the file says that there is none."""
    unit = str(spelled).strip().lower()
    if unit not in _POSITIONS:
        raise UserError(
            f"{path}: {name} is in {spelled!r}, expected pixel, mm, ratio or a.u.",
            "write the unit of the column into the JSON file beside it",
        )
    return _POSITIONS[unit]


def _detect(
    recording: BidsRecording, samples: Samples | None, options: ReadOptions, account: Account, display: Display
) -> tuple[NDArray[np.float64], str]:
    """(fixations, 4) as `read_fixations`, out of the samples; and by which method."""
    path = recording.path
    if samples is None:
        raise UserError(f"{path}: there are no fixations and no samples")
    if options.detect == "never":
        raise UserError(f"{path} has no fixations", "let them be detected: --detect ivt")
    from gaze.scanpaths.events import detect

    detected = list(detect(samples, str(path), options, account, subject=recording.subject, display=display))
    start = samples.time[0]
    rows = [np.stack([each.onset + start, each.duration, each.x, each.y], 1) for each in detected]
    return np.concatenate(rows), detected[0].provenance


def _display(recording: BidsRecording, options: ReadOptions, account: Account) -> tuple[Display, str | None]:
    screen = recording.stimulus.get("StimulusPresentation", recording.sidecar.get("StimulusPresentation"))
    if screen is None:
        return the_display(options), None
    if not isinstance(screen, dict):
        raise UserError(f"{recording.path}: StimulusPresentation of its events.json is not an object")
    sizes = {}
    for name in ("ScreenSize", "ScreenResolution"):
        size = [None, None]
        if screen.get(name) not in (None, "n/a"):
            size = numbers(screen.get(name))
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
    return the_display(options, says, account), _origin(screen.get("ScreenOrigin"), recording.path)


def _origin(value: Any, path: Path) -> str | None:
    """None: the file does not say."""
    if value is None:
        return None
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
