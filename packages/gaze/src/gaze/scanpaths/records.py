"""Our own files: a row (Parquet) or a line (JSON) for each scanpath, with all that is known of it. Never pickles."""

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from core_runtime.errors import UserError
from core_runtime.folders import writing
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.json_files import is_number, numbers, without_surrogates
from gaze.scanpaths.reading_options import LARGEST_SCREEN, ReadOptions
from gaze.scanpaths.scanpath import Display, Eye, Reading, Scanpath

MARK = "attention-suite scanpaths"  # in the metadata of Parquet files
_NUMBERS = ("x", "y", "duration", "onset")
_TEXTS = ("stimulus", "subject", "trial", "eye", "provenance", "task", "split")
_DISPLAY = ("width", "height", "width_mm", "height_mm", "distance_mm")


def to_record(scanpath: Scanpath) -> dict[str, Any]:
    """A scanpath as JSON holds it; unknown numbers are null."""
    record: dict[str, Any] = {name: [_or_null(value) for value in getattr(scanpath, name)] for name in _NUMBERS}
    record |= {name: getattr(scanpath, name) for name in _TEXTS}
    record["display"] = {name: getattr(scanpath.display, name) for name in _DISPLAY}
    record["target_box"] = None if scanpath.target_box is None else list(scanpath.target_box)
    record["target_present"] = scanpath.target_present
    record["details"] = json.loads(json.dumps(dict(scanpath.details), default=str))
    return record


def _or_null(value: float) -> float | None:
    if np.isnan(value):
        return None
    return float(value)


def from_record(record: Any, where: str) -> Scanpath:
    """The scanpath of a record.

    Raises:
        UserError: a field is missing or of another type.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a scanpath")
    arrays = {name: numbers(record.get(name)) for name in _NUMBERS}
    wrong = [name for name, values in arrays.items() if values is None]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} is not a list of numbers")
    texts: dict[str, Any] = {}
    for name in _TEXTS:
        value = record.get(name)
        if not isinstance(value, str) and not (value is None and name in ("task", "split")):
            raise UserError(f"{where}: {name} is {value!r}, expected a text")
        texts[name] = value
    if texts["eye"] not in get_args(Eye):
        raise UserError(f"{where}: eye is {texts['eye']!r}, expected one of {', '.join(get_args(Eye))}")
    display, details, present = record.get("display") or {}, record.get("details") or {}, record.get("target_present")
    if not _is_display(display):
        raise UserError(f"{where}: display is not a screen's size")
    if not isinstance(details, dict) or not (present is None or isinstance(present, bool)):
        raise UserError(f"{where}: details or target_present are not understood")
    target = None
    if record.get("target_box") is not None:
        box = numbers(record["target_box"])
        if box is None or len(box) != 4:
            raise UserError(f"{where}: target_box is {record['target_box']!r}, expected four numbers")
        target = (box[0], box[1], box[2], box[3])
    # lists of unequal lengths, times that go back: what the class itself refuses
    try:
        return Scanpath(
            **arrays, **texts, display=Display(**display), details=details, target_box=target, target_present=present
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _is_display(display: Any) -> bool:
    """Whether it holds a screen's sizes and nothing else; any of them may be open."""
    if not isinstance(display, dict) or set(display) - set(_DISPLAY):
        return False
    sizes = [value for value in display.values() if value is not None]
    return all(is_number(size) and 0 < size < LARGEST_SCREEN for size in sizes)


def write_json_lines(scanpaths: Iterable[Scanpath], path: Path) -> None:
    """A line for each scanpath."""
    with writing(path) as part, part.open("w", encoding="utf-8") as file:
        for scanpath in scanpaths:
            file.write(json.dumps(to_record(scanpath), allow_nan=False, ensure_ascii=False) + "\n")


def read_json_lines(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """What `write_json_lines` wrote.

    Raises:
        UserError: a line is not a scanpath.
    """
    scanpaths = []
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = without_surrogates(json.loads(line.decode("utf-8")))
        except (ValueError, RecursionError):
            raise UserError(f"{where} is not JSON") from None
        scanpaths.append(from_record(record, where))
    return _reading(scanpaths, "scanpaths (JSON lines)", path, options)


def write_parquet(scanpaths: Sequence[Scanpath], path: Path) -> None:
    """A row for each scanpath; lists of numbers, and JSON for what has no fixed type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [to_record(scanpath) for scanpath in scanpaths]
    columns: dict[str, Any] = {}
    for name in _NUMBERS:
        columns[name] = pa.array([each[name] for each in records], pa.list_(pa.float64()))
    for name in _TEXTS:
        columns[name] = pa.array([each[name] for each in records], pa.string())
    for name in _DISPLAY:
        columns[name] = pa.array([each["display"][name] for each in records], pa.float64())
    columns["target_box"] = pa.array([each["target_box"] for each in records], pa.list_(pa.float64()))
    columns["target_present"] = pa.array([each["target_present"] for each in records], pa.bool_())
    columns["details"] = pa.array([json.dumps(each["details"]) for each in records], pa.string())
    table = pa.table(columns).replace_schema_metadata({"content": MARK})
    with writing(path) as part:
        pq.write_table(table, part)


def read_parquet(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """What `write_parquet` wrote.

    Raises:
        UserError: it is not such a file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as Parquet", "write it again, or copy it again") from error
    absent = sorted(
        {*_NUMBERS, *_TEXTS, *_DISPLAY, "target_box", "target_present", "details"} - set(table.column_names)
    )
    if absent:
        raise UserError(f"{path} holds no scanpaths of ours: it has no column {absent[0]!r}")
    scanpaths = []
    for number, row in enumerate(table.to_pylist(), 1):
        where = f"{path}, row {number}"
        display = {name: row.pop(name) for name in _DISPLAY}
        for name in ("width", "height"):
            display[name] = round(display[name]) if is_number(display[name]) else None
        try:
            row["details"] = json.loads(row["details"] or "{}")
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"{where}: details are not JSON") from None
        scanpaths.append(from_record({**row, "display": display}, where))
    return _reading(scanpaths, "scanpaths (Parquet)", path, options)


def _reading(scanpaths: list[Scanpath], kind: str, path: Path, options: ReadOptions) -> Reading:
    """Our own files say everything: options can leave out, but not tell units or find other fixations."""
    if not scanpaths:
        raise UserError(f"{path} holds no scanpaths")
    if options.detect in ("ivt", "idt"):
        raise UserError(f"{path} holds fixations and no samples to detect others in", "leave --detect out")
    account = Account()
    trials = []
    for scanpath in scanpaths:
        fields = {name: getattr(scanpath, name) for name in Trial.__dataclass_fields__}
        fields["display"] = the_display(options, scanpath.display, account)
        trials.append(Trial(**fields))
    return assemble(trials, kind, path, options, account, units=Units("px", "ms", "ms", "top-left", by_definition=True))
