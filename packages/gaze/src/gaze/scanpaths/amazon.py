"""The JSON of the Amazon book covers (Sattar et al.): picture → the fixations of each subject, the target's box and the size of the picture."""

from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from gaze.scanpaths.assembly import Account, Trial, Units, assemble, the_display
from gaze.scanpaths.json_files import is_number, numbers, read_json, text
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Display, Reading


def read_amazon(path: Path, options: ReadOptions = ReadOptions()) -> Reading:
    """One scanpath for each subject of each picture, in pixels of the picture; durations are not in the file.

    Raises:
        UserError: not such a file, or nothing of use in it.
    """
    pictures = read_json(path)
    if not isinstance(pictures, dict):
        raise UserError(f"{path} is not an object of pictures")
    account = Account(notes=["positions are pixels of the picture; durations are not in the file"])
    trials = []
    for name, picture in pictures.items():
        if not isinstance(picture, dict) or not isinstance(picture.get("fixations"), dict):
            account.leave_out("pictures without fixations")
            continue
        size = picture.get("size")
        display = the_display(options, _display(size), account)
        box = _box(picture.get("ground_truth"))
        for subject, fixations in picture["fixations"].items():
            points = _points(fixations)
            if points is None:
                account.leave_out("trials whose fixations are not pairs of numbers")
                continue
            trials.append(
                Trial(
                    [point[0] for point in points],
                    [point[1] for point in points],
                    stimulus=name,
                    subject=subject,
                    display=display,
                    task=text(picture.get("target")) or None,
                    target_box=box,
                    target_present=None if box is None else True,
                )
            )
    return assemble(
        trials,
        "Amazon book covers JSON",
        path,
        options,
        account,
        units=Units(origin="top-left"),
        facts={"pictures": len(pictures)},
    )


def _points(fixations: Any) -> list[list[float]] | None:
    if not isinstance(fixations, list):
        return None
    points = []
    for fixation in fixations:
        point = numbers(fixation)
        if point is None or len(point) != 2:
            return None
        points.append(point)
    return points


def _display(size: Any) -> Display:
    if not isinstance(size, dict):
        return Display()
    width, height = size.get("width"), size.get("height")
    if not (is_number(width) and is_number(height) and 1 <= width < 1e6 and 1 <= height < 1e6):
        return Display()
    return Display(round(width), round(height))


def _box(boxes: Any) -> tuple[float, float, float, float] | None:
    """Left, top, width and height of the target; the first box, should there be several."""
    box = None
    if isinstance(boxes, list) and boxes:
        box = boxes[0]
    if not isinstance(box, dict):
        return None
    corners = [box.get(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    if not all(is_number(corner) for corner in corners):
        return None
    left, top, right, bottom = (float(corner) for corner in corners)  # pyright: ignore[reportArgumentType]
    return left, top, right - left, bottom - top
