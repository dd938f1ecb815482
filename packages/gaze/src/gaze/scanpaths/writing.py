"""Writes scanpaths in the formats that other programs read. What a format cannot hold is told, never dropped in silence."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core_runtime.errors import UserError, few
from core_runtime.folders import writing
from gaze.scanpaths.records import write_json_lines, write_parquet
from gaze.scanpaths.scanpath import Scanpath
from gaze.scanpaths.synthetic_samples import need_times, sampled, with_onsets

Kind = Literal["coco-search18", "csv", "multimatch", "bids", "parquet", "json-lines", "asc"]
_KINDS: dict[str, Kind] = {
    ".json": "coco-search18",
    ".csv": "csv",
    ".tsv": "multimatch",
    ".parquet": "parquet",
    ".jsonl": "json-lines",
    ".asc": "asc",
}
CSV_COLUMNS = ("subject", "stimulus", "trial", "eye", "task", "index", "x", "y", "duration_ms", "onset_ms")


def write_scanpaths(scanpaths: Sequence[Scanpath], path: Path, kind: Kind | None = None) -> list[str]:
    """Writes scanpaths, whole or not at all.

    Args:
        scanpaths: at least one.
        path: a file; a folder for BIDS and for multimatch tables of several scanpaths.
        kind: default: by the ending of the name; without an ending BIDS.

    Returns:
        What the format cannot hold, a line each.

    Raises:
        UserError: nothing to write, an ending that is not known, or times that the format needs are not known.
    """
    if not scanpaths:
        raise UserError(f"{path}: there are no scanpaths to write")
    if kind is None:
        kind = _KINDS.get(path.suffix.lower(), "bids" if not path.suffix else None)  # pyright: ignore[reportAssignmentType]
    if kind is None:
        raise UserError(
            f"{path}: scanpaths are not written as {path.suffix}",
            f"endings: {', '.join(_KINDS)}; a folder becomes BIDS",
        )
    return _WRITERS[kind](list(scanpaths), path)


def write_coco_search18(scanpaths: Sequence[Scanpath], path: Path) -> list[str]:
    """A record for each scanpath, with our fields `trial`, `onset` and `display` beside the published ones."""
    records = []
    for scanpath in scanpaths:
        box, present = scanpath.target_box, scanpath.target_present
        record: dict[str, Any] = {
            "name": scanpath.stimulus,
            "subject": int(scanpath.subject)
            if re.fullmatch("[1-9][0-9]{0,8}|0", scanpath.subject)
            else scanpath.subject,
            "task": scanpath.task or "",
        }
        if present is not None:
            record["condition"] = "present" if present else "absent"
        if box is not None:
            record["bbox"] = list(box)
        record |= {
            "X": scanpath.x.tolist(),
            "Y": scanpath.y.tolist(),
            "T": _with_null(scanpath.duration),
            "length": len(scanpath),
        }
        if np.isfinite(scanpath.onset).any():
            record["onset"] = _with_null(scanpath.onset)
        if scanpath.split is not None:
            record["split"] = scanpath.split
        if scanpath.trial:
            record["trial"] = scanpath.trial
        if scanpath.display.size is not None:
            record["display"] = list(scanpath.display.size)
        details = json.loads(json.dumps(dict(scanpath.details), default=str))
        records.append({**details, **record})
    with writing(path) as part:
        part.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    lost = _lost(scanpaths, "COCO-Search18 JSON", eye=True, provenance=True)
    if any(scanpath.display.size is None for scanpath in scanpaths):
        lost.append("scanpaths without a known screen are read as on 1680 × 1050 pixels")
    return lost


def _with_null(values: Any) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _lost(scanpaths: Sequence[Scanpath], kind: str, **attributes: bool) -> list[str]:
    """Which of these attributes are known and cannot be held."""
    unknown = (None, "", "unknown", "file", {})
    lost = []
    for name in attributes:
        if any(getattr(scanpath, name) not in unknown for scanpath in scanpaths):
            lost.append(name)
    if lost:
        return [f"{kind} holds no {few(lost)}"]
    return []


def write_csv(scanpaths: Sequence[Scanpath], path: Path) -> list[str]:
    """A row for each fixation."""
    with writing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(CSV_COLUMNS)
        for scanpath in scanpaths:
            names = (scanpath.subject, scanpath.stimulus, scanpath.trial, scanpath.eye, scanpath.task or "")
            fixations = zip(scanpath.x, scanpath.y, scanpath.duration, scanpath.onset, strict=True)
            for index, values in enumerate(fixations, 1):
                rows.writerow([*names, index, *(_spelled(value) for value in values)])
    lost = _lost(scanpaths, "CSV", target_box=True, target_present=True, split=True, provenance=True, details=True)
    return [*lost, "CSV holds no display"]


def _spelled(value: float) -> str:
    if value != value:
        return ""
    return repr(float(value)).removesuffix(".0")


def write_multimatch(scanpaths: Sequence[Scanpath], path: Path) -> list[str]:
    """A file for one scanpath, a folder of them for several: start_x, start_y, duration in seconds."""
    if len(scanpaths) == 1 and path.suffix:
        with writing(path) as part:
            _write_vectors(scanpaths[0], part)
    else:
        with writing(path) as folder:
            folder.mkdir()
            for number, scanpath in enumerate(scanpaths):
                stem = f"{_file_name(scanpath.stimulus) or 'scanpath'}_sub-{_label(scanpath.subject)}"
                file = folder / f"{stem}.tsv"
                _write_vectors(scanpath, file if not file.exists() else folder / f"{stem}_{number + 1}.tsv")
    return [
        "multimatch-gaze tables hold no onset, trial, task, eye, display, provenance or details; subject and stimulus stand in the file's name",
        *_renamed(scanpaths),
    ]


def _renamed(scanpaths: Sequence[Scanpath]) -> list[str]:
    """Subjects whose names hold more than letters and digits."""
    changed = []
    for name in sorted({scanpath.subject for scanpath in scanpaths if scanpath.subject}):
        if _label(name) != name.removeprefix("sub-"):
            changed.append(f"{name!r} is {_label(name)!r}")
    if changed:
        return [f"subjects are named by letters and digits alone: {few(changed)}"]
    return []


def _write_vectors(scanpath: Scanpath, path: Path) -> None:
    lines = ["start_x\tstart_y\tduration"]
    for x, y, duration in zip(scanpath.x, scanpath.y, scanpath.duration / 1000, strict=True):
        lines.append(f"{_spelled(x)}\t{_spelled(y)}\t{_spelled(duration) or 'nan'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def _label(name: str) -> str:
    """Letters and digits, as BIDS wants its labels."""
    return re.sub(r"[^A-Za-z0-9]", "", name.removeprefix("sub-")) or "unknown"


def write_bids(scanpaths: Sequence[Scanpath], path: Path, *, task: str = "search", rate: float = 250.0) -> list[str]:
    """An eye-tracking BIDS data set: one run for each subject, its trials one after the other.

    Fixations stand in ``_physioevents.tsv.gz`` with their positions; samples are straight lines between them.

    Raises:
        UserError: durations are not known, or the scanpaths are of several displays.
    """
    displays = {scanpath.display for scanpath in scanpaths}
    if len(displays) > 1:
        raise UserError(
            f"{path}: a BIDS task has one display, these scanpaths have {len(displays)}",
            "write them apart, or as JSON lines",
        )
    timed = [with_onsets(scanpath) for scanpath in scanpaths]
    for scanpath in timed:
        need_times(scanpath, "BIDS")
    by_subject: dict[str, list[Scanpath]] = {}
    for scanpath in timed:
        by_subject.setdefault(_label(scanpath.subject), []).append(scanpath)
    with writing(path) as folder:
        folder.mkdir()
        _write_top(folder, sorted(by_subject), task, rate, timed[0])
        for subject, mine in by_subject.items():
            _write_subject(folder / f"sub-{subject}" / "beh", f"sub-{subject}_task-{task}", mine, rate)
    invented = any(not np.isfinite(scanpath.onset).all() for scanpath in scanpaths)
    notes = ["samples between the tracker's fixations are straight lines, not measured"]
    if invented:
        notes.append("onsets that are not known were set 30 ms after the end of the fixation before")
    lost = _lost(scanpaths, "BIDS", target_box=True, target_present=True, split=True, provenance=True, details=True)
    return notes + lost + _renamed(scanpaths)


def _write_top(folder: Path, subjects: Sequence[str], task: str, rate: float, first: Scanpath) -> None:
    """The files that hold for all subjects."""
    display = first.display
    screen: dict[str, Any] = {"ScreenOrigin": ["top", "left"]}
    if display.size is not None:
        screen["ScreenResolution"] = list(display.size)
    if display.width_mm is not None and display.height_mm is not None:
        screen["ScreenSize"] = [display.width_mm / 1000, display.height_mm / 1000]
    if display.distance_mm is not None:
        screen["ScreenDistance"] = display.distance_mm / 1000
    pixels = {"Description": "gaze position on the screen", "Units": "pixel"}
    physio = {
        "PhysioType": "eyetrack",
        "Columns": ["timestamp", "x_coordinate", "y_coordinate"],
        "timestamp": {"Description": "time of the sample", "Units": "ms"},
        "x_coordinate": pixels,
        "y_coordinate": pixels,
        "SampleCoordinateSystem": "gaze-on-screen",
        "SamplingFrequency": rate,
    }
    events = {
        "Columns": ["onset", "duration", "trial_type", "x_coordinate", "y_coordinate"],
        "Description": "Events of the eye tracker",
        "OnsetSource": "timestamp",
        "duration": {"Description": "of the event", "Units": "s"},
        "x_coordinate": pixels,
        "y_coordinate": pixels,
    }
    files = {
        "dataset_description.json": {"Name": "scanpaths", "BIDSVersion": "1.11.0", "DatasetType": "raw"},
        f"task-{task}_physio.json": physio,
        f"task-{task}_physioevents.json": events,
        f"task-{task}_events.json": {"TaskName": task, "StimulusPresentation": screen},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = ["participant_id", *(f"sub-{subject}" for subject in subjects)]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_subject(folder: Path, stem: str, scanpaths: Sequence[Scanpath], rate: float) -> None:
    """Events, and for each eye samples and fixations."""
    folder.mkdir(parents=True)
    trials: dict[str, list[Scanpath]] = {}
    for scanpath in scanpaths:
        trials.setdefault(f"{scanpath.trial or scanpath.stimulus}\t{scanpath.stimulus}", []).append(scanpath)
    rows = ["onset\tduration\ttrial_number\tstim_file\ttarget"]
    eyes: dict[str, tuple[list[str], list[str]]] = {}
    step, begin = 1000 / rate, 0.0
    for same_trial in trials.values():
        length = max(float((each.onset + each.duration).max(initial=0)) for each in same_trial)
        length = step * np.ceil((length + 100) / step)
        first = same_trial[0]
        cells = [first.trial or first.stimulus, first.stimulus, first.task or ""]
        rows.append("\t".join([f"{begin / 1000:.6f}", f"{length / 1000:.6f}", *(cell or "n/a" for cell in cells)]))
        for scanpath in same_trial:
            samples, events = eyes.setdefault(scanpath.eye, ([], []))
            times = np.arange(0, length, step)
            for time, (x, y) in zip(times + begin, sampled(scanpath, times), strict=True):
                samples.append(f"{time:g}\t{x:.2f}\t{y:.2f}" if time < 1e6 else f"{time:.1f}\t{x:.2f}\t{y:.2f}")
            for x, y, duration, onset in zip(scanpath.x, scanpath.y, scanpath.duration, scanpath.onset, strict=True):
                cells = [_spelled(begin + onset), _spelled(duration / 1000), "fixation", _spelled(x), _spelled(y)]
                events.append("\t".join(cells))
        begin += length + 1000
    (folder / f"{stem}_events.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for number, (eye, (samples, events)) in enumerate(eyes.items(), 1):
        name = f"{stem}_recording-eye{number}"
        recorded = {"both": "cyclopean", "unknown": None}.get(eye, eye)
        sidecar = {"StartTime": 0, **({"RecordedEye": recorded} if recorded else {})}
        (folder / f"{name}_physio.json").write_text(json.dumps(sidecar, indent=1), encoding="utf-8")
        _write_gzip(folder / f"{name}_physio.tsv.gz", samples)
        _write_gzip(folder / f"{name}_physioevents.tsv.gz", events)


def _write_gzip(path: Path, lines: Sequence[str]) -> None:
    """The same bytes for the same lines: no time of writing in the header."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as file:
        file.write(("\n".join(lines) + "\n").encode())
    path.write_bytes(content.getvalue())


def _write_parquet(scanpaths: Sequence[Scanpath], path: Path) -> list[str]:
    write_parquet(scanpaths, path)
    return []


def _write_json_lines(scanpaths: Sequence[Scanpath], path: Path) -> list[str]:
    write_json_lines(scanpaths, path)
    return []


def write_asc(scanpaths: Sequence[Scanpath], path: Path) -> list[str]:
    """One subject's trials as an EyeLink ASC file with samples and events.

    Raises:
        UserError: several subjects, or durations that are not known.
    """
    from gaze.scanpaths.asc_writing import write_recording

    subjects = {scanpath.subject for scanpath in scanpaths}
    if len(subjects) > 1:
        raise UserError(f"{path}: an ASC file holds one subject, these are {len(subjects)}", "write one file for each")
    write_recording(scanpaths, path)
    notes = ["samples between the fixations are straight lines, not measured", "the subject is the name of the file"]
    return notes + _lost(scanpaths, "EyeLink ASC", target_box=True, target_present=True, split=True)


_WRITERS: dict[Kind, Callable[[list[Scanpath], Path], list[str]]] = {
    "coco-search18": write_coco_search18,
    "csv": write_csv,
    "multimatch": write_multimatch,
    "bids": write_bids,
    "parquet": _write_parquet,
    "json-lines": _write_json_lines,
    "asc": write_asc,
}
