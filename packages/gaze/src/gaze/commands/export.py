"""``gaze export``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError, counted
from core_runtime.identity import begun, identity, refuse_foreign_folder
from core_runtime.options import OutFile, Overwrite
from gaze.scanpaths.reading_options import ReadOptions


@dataclass(frozen=True)
class Exported(Outcome):
    """What was written, and what was left out on the way."""

    out: Path
    paths: int
    fixations: int
    left_out: Mapping[str, int]
    notes: Sequence[str]

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        yield f"{counted(self.paths, 'path')}, {counted(self.fixations, 'fixation')}: {self.out}"
        for reason, count in self.left_out.items():
            yield f"Left out: {count} {reason}"
        for note in self.notes:
            yield f"Note: {note}"


def export(
    path: Path,
    /,
    *,
    out: OutFile = Path("fixations.csv"),
    reading: ReadOptions = ReadOptions(),
    overwrite: Overwrite = False,
) -> Exported:
    """Writes any tracker's fixations as one table: pixels from the upper left corner, milliseconds, one row per fixation.

    Example: gaze export recording.asc --out fixations.parquet

    Args:
        path: a file of scanpaths, or a folder of them.
        out: the table: .csv, .parquet, .jsonl, .json (COCO-Search18), .asc, .tsv (multimatch-gaze; a folder of them for several paths), or a name
            without an ending: a folder of eye-tracking BIDS.
    """
    from gaze.scanpaths.opening import read_scanpaths
    from gaze.scanpaths.writing import write_scanpaths

    refuse_foreign_folder(out, [path], overwrite=overwrite, may_be_file=True)
    content = read_scanpaths(path, reading)
    if not content.scanpaths:
        raise UserError(f"{path} holds no fixations", "look at it with 'gaze inspect'")
    with begun(out, {"export": identity(path)}):
        not_held = write_scanpaths(content.scanpaths, out)
    fixations = sum(map(len, content.scanpaths))
    return Exported(out, len(content.scanpaths), fixations, content.left_out, [*content.notes, *not_held])
