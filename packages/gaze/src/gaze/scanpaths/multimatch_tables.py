"""Fixation vectors of multimatch-gaze: start_x, start_y in pixels and duration in seconds, one file for each scanpath."""

import re
from array import array
from pathlib import Path

from core_runtime.errors import UserError
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.columns import open_columns
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Reading

_SUBJECT = re.compile(r"[_-]?sub-([A-Za-z0-9]+)")


def read_multimatch(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """The one scanpath of a file; subject and stimulus are taken from its name (``segment_0_sub-01.tsv``).

    Raises:
        UserError: a column is missing, durations cannot be seconds, or nothing of use is in it.
    """
    table = open_columns(path)
    account = Account(notes=table.notes)
    columns = []
    for name in ("start_x", "start_y", "duration"):
        column = table.find(name)
        if column is None:
            raise UserError(
                f"{path} has no column {name!r}", "files of multimatch-gaze have start_x, start_y and duration"
            )
        columns.append(column)
    values = [array("d") for _ in columns]
    for cells in table.rows(columns):
        for column, cell in zip(values, cells, strict=True):
            column.append(table.number(cell))
    for reason, count in table.left_out.items():
        account.leave_out(reason, count)
    subject, stimulus = names_in(path)
    display = the_display(options)
    if display.size is None:
        account.note("the file does not say how large the screen is; --screen WIDTH,HEIGHT does")
    trial = Trial(*values, stimulus=stimulus, subject=subject, display=display)
    return assemble([trial], "multimatch-gaze table", path, options, account, units=Units(None, "s", "s", "top-left"))


def names_in(path: Path) -> tuple[str, str]:
    """(subject, stimulus) of a file's name."""
    match = _SUBJECT.search(path.stem)
    if match is None:
        return "", path.stem
    return match.group(1), (path.stem[: match.start()] + path.stem[match.end() :]).strip("_-")
