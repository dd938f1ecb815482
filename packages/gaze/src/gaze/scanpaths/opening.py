"""Reads a recording of any known format."""

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from core_runtime.errors import UserError, few
from gaze.scanpaths import formats
from gaze.scanpaths.columns import read_head
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.repeats import describe_repeats, find_repeats
from gaze.scanpaths.scanpath import Reading

# Kind → module and function.
_READERS = {
    formats.COCO_SEARCH18: ("coco_search18", "read_coco_search18"),
    formats.AMAZON: ("amazon", "read_amazon"),
    formats.ASC: ("asc", "read_asc"),
    formats.BIDS: ("bids", "read_bids"),
    formats.TOBII: ("tobii", "read_tobii"),
    formats.MULTIMATCH: ("multimatch_tables", "read_multimatch"),
    formats.FIXATIONS: ("tables", "read_table_of_fixations"),
    formats.SAMPLES: ("tables", "read_table_of_samples"),
    formats.PARQUET: ("records", "read_parquet"),
    formats.JSON_LINES: ("records", "read_json_lines"),
}


def read_scanpaths(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """The scanpaths of a recording, or of all recordings in a folder.

    What is left out is counted in `Reading.left_out`; what is assumed is said in `Reading.notes`. Of a folder, recordings that cannot be read
    are counted there, too, and so are paths that several of its files hold, which count once.

    Raises:
        UserError: absent, of no known format, or nothing of use in it.
    """
    path = Path(path)
    kind = formats.kind_of(path)
    if path.is_dir() and kind is None:
        return _read_folder(path, options)
    if not path.exists():
        raise UserError(f"no such file: {path}", f"known: {formats.KNOWN_FORMATS}")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "copy it again")
    mapped = options.mapped_columns()
    if kind in (None, formats.FIXATIONS, formats.SAMPLES, formats.MULTIMATCH) and {"x", "y"} <= mapped.keys():
        has_fixations = "duration" in mapped or "end" in mapped or kind == formats.FIXATIONS or "onset" not in mapped
        kind = formats.SAMPLES
        if has_fixations and options.detect not in ("ivt", "idt"):
            kind = formats.FIXATIONS
    if kind is None:
        raise UserError(f"{path} is of no known format", _hint(path))
    return _reader(kind)(path, options)


def _reader(kind: str) -> Callable[[Path, ReadOptions], Reading]:
    module, function = _READERS[kind]
    return getattr(import_module(f"gaze.scanpaths.{module}"), function)


def _hint(path: Path) -> str:
    if path.suffix.lower() == ".json" and b'"annotations"' in read_head(path):
        return "it lists objects (COCO): give it with --areas"
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return "name its columns: --columns x=…,y=…,duration=…,subject=…,stimulus=…"
    if path.suffix.lower() == ".edf":
        return "convert the EyeLink EDF to ASC (edf2asc)"
    return f"known: {formats.KNOWN_FORMATS}"


def _read_folder(folder: Path, options: ReadOptions) -> Reading:
    """All recordings of a folder as one reading; paths that several files hold count once."""
    names, readings, notes = [], [], []
    left_out: Counter[str] = Counter()
    refused: list[UserError] = []
    for path in formats.find_recordings(folder):
        name = str(path.relative_to(folder))
        try:
            reading = read_scanpaths(path, options)
        except UserError as error:
            refused.append(error)
            notes.append(f"{name} is left out: {error.message}")
            continue
        names.append(name)
        readings.append(reading)
    if refused:
        left_out["recordings that cannot be read"] = len(refused)
    if not readings:
        reasons = few([error.message for error in refused])
        raise UserError(f"no recording in {folder} can be read: {reasons}", refused[0].hint)
    scanpaths = []
    for name, reading, repeats in zip(names, readings, find_repeats(readings), strict=True):
        if repeats:
            left_out["paths that another file holds, too"] += len(repeats)
            notes.append(f"{name}: {describe_repeats(repeats, reading, names)}")
        scanpaths += [scanpath for place, scanpath in enumerate(reading.scanpaths) if place not in repeats]
        left_out.update(reading.left_out)
        notes += [f"{name}: {note}" for note in reading.notes]
    kinds = Counter(reading.kind for reading in readings)
    kind = ", ".join(f"{count} × {name}" for name, count in kinds.items())
    return Reading(scanpaths, kind, dict(left_out), notes, {"recordings": len(readings)})
