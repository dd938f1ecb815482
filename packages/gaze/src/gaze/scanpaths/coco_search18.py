"""COCO-Search18 JSON: one record for each subject and picture, in the coordinates of the display of 1680 × 1050 pixels."""

from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.json_files import is_number, numbers, read_json, text
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Reading

DISPLAY = Display(1680, 1050)
_USED = {"name", "subject", "task", "condition", "bbox", "X", "Y", "T", "onset", "split", "trial", "display"}


def read_coco_search18(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """The records of a file. Those whose X, Y and T differ in length are left out: it is not known which fixation lacks what.

    Raises:
        UserError: not such a file, or nothing of use in it.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(
            f"{path} is not a list of records", "COCO-Search18 files hold one record for each subject and picture"
        )
    account = Account()
    says_display = False
    trials = []
    for record in records:
        if not isinstance(record, dict):
            account.leave_out("records that are not objects")
            continue
        x, y = numbers(record.get("X")), numbers(record.get("Y"))
        duration = None
        if record.get("T") is not None:
            duration = numbers(record.get("T"))
        if x is None or y is None or (duration is None and record.get("T") is not None):
            account.leave_out("trials whose X, Y or T is not a list of numbers")
            continue
        if not len(x) == len(y) == (len(x) if duration is None else len(duration)):
            account.leave_out("trials whose X, Y and T have different lengths")
            continue
        length = record.get("length")
        if is_number(length) and length != len(x):
            account.leave_out("trials whose length is not that of X")
            continue
        display = _display(record.get("display"))
        says_display = says_display or display is not None
        shown = the_display(options, DISPLAY) if display is None else the_display(options, display, account)
        trials.append(_trial(record, x, y, duration, shown))
    if not says_display and options.screen is None:
        account.note("the display is taken as 1680 × 1050 pixels, as published (--screen WIDTH,HEIGHT says otherwise)")
    units = Units("px", "ms", "ms", "top-left") if options.units is None else Units()
    if not says_display:
        units = Units(time="ms", duration="ms")  # pictures in the unit square are met, too
    return assemble(trials, "COCO-Search18 JSON", path, options, account, units=units, facts={"records": len(records)})


def _trial(
    record: dict[str, Any], x: list[float], y: list[float], duration: list[float] | None, display: Display
) -> Trial:
    onset = numbers(record.get("onset"))
    condition = record.get("condition")
    box = numbers(record.get("bbox"))
    present = None
    if isinstance(condition, str):
        present = {"present": True, "absent": False}.get(condition)
    target = None
    if box is not None and len(box) == 4 and present is not False:
        target = (box[0], box[1], box[2], box[3])
    return Trial(
        x,
        y,
        duration,
        onset if onset is not None and len(onset) == len(x) else None,
        stimulus=text(record.get("name")),
        subject=text(record.get("subject")),
        trial=text(record.get("trial")),
        display=display,
        task=text(record.get("task")) or None,
        target_box=target,
        target_present=present,
        split=text(record.get("split")) or None,
        details={name: value for name, value in record.items() if name not in _USED and name != "length"},
    )


def _display(value: Any) -> Display | None:
    """Our own files name it."""
    size = numbers(value)
    if size is None or len(size) != 2 or not all(1 <= side < 1e6 for side in size):
        return None
    return Display(round(size[0]), round(size[1]))
