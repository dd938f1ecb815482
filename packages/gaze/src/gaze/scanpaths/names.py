"""Usual names of columns, and units in them. Imports nothing heavy."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

Meaning = Literal["x", "y", "duration", "onset", "end", "subject", "stimulus", "trial", "eye", "task"]

# The first that a table has is taken; case, blanks, hyphens and underscores do not matter.
FIXATION_NAMES: Mapping[Meaning, tuple[str, ...]] = {
    "x": (
        "CURRENT_FIX_X",
        "fixation_x",
        "fix_x",
        "FPOGX",
        "norm_pos_x",
        "mean_x",
        "x_mean",
        "avg_x",
        "start_x",
        "pos_x",
        "x_coordinate",
        "x",
    ),
    "y": (
        "CURRENT_FIX_Y",
        "fixation_y",
        "fix_y",
        "FPOGY",
        "norm_pos_y",
        "mean_y",
        "y_mean",
        "avg_y",
        "start_y",
        "pos_y",
        "y_coordinate",
        "y",
    ),
    "duration": (
        "CURRENT_FIX_DURATION",
        "fixation_duration",
        "fix_duration",
        "duration",
        "dur",
        "FPOGD",
        "gaze event duration",
    ),
    "onset": (
        "CURRENT_FIX_START",
        "fixation_onset",
        "fix_start",
        "onset",
        "start",
        "start_timestamp",
        "FPOGS",
        "t_start",
        "timestamp",
        "time",
    ),
    "end": ("CURRENT_FIX_END", "fix_end", "end", "end_timestamp", "offset", "t_end"),
    "subject": (
        "RECORDING_SESSION_LABEL",
        "subject",
        "subject_id",
        "participant",
        "participant_id",
        "participant name",
        "observer",
        "user",
        "sub",
    ),
    "stimulus": (
        "stimulus",
        "stimulus_name",
        "image",
        "image_name",
        "image_id",
        "picture",
        "img",
        "filename",
        "scene",
        "page_name",
    ),
    "trial": ("TRIAL_INDEX", "trial", "trial_id", "trial_index", "trial_number"),
    "eye": ("EYE_USED", "eye", "eye_tracked"),
    "task": ("task", "target"),
}
SAMPLE_NAMES: Mapping[Literal["left", "right", "unknown"], tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left": (("x_left", "left_x", "xl", "L POR X [px]"), ("y_left", "left_y", "yl", "L POR Y [px]")),
    "right": (("x_right", "right_x", "xr", "R POR X [px]"), ("y_right", "right_y", "yr", "R POR Y [px]")),
    "unknown": (("x", "gaze_x", "x_coordinate", "BPOGX", "pos_x"), ("y", "gaze_y", "y_coordinate", "BPOGY", "pos_y")),
}
_UNITS = {
    "us": "us",
    "μs": "us",
    "µs": "us",
    "ms": "ms",
    "s": "s",
    "sec": "s",
    "seconds": "s",
    "msec": "ms",
    "milliseconds": "ms",
}
_GAZEPOINT_AND_PUPIL = {"normposx": "normalised", "fpogx": "normalised", "bpogx": "normalised"}


def unit_in(column: str, of: Literal["position", "time"]) -> str | None:
    """The unit that a column's name holds: ``Fixation point X [MCS norm]``, ``duration_ms``, ``Recording timestamp [μs]``; None: none."""
    plain = column.casefold()
    words = re.split(r"[^\wμµ]+|_", plain)
    if of == "time":
        if re.sub(r"[\s_]", "", plain) in ("fpogd", "fpogs"):
            return "s"
        return next((_UNITS[word] for word in words[1:] if word in _UNITS), None)
    for unit, marks in (
        ("normalised", ("norm", "mcsnorm", "normalized", "normalised")),
        ("mm", ("mm", "mcsmm", "adcsmm")),
        ("px", ("px", "mcspx", "adcspx", "pix")),
    ):
        if any(word in marks for word in words):
            return unit
    return _GAZEPOINT_AND_PUPIL.get(re.sub(r"[\s_]", "", plain))


def is_degrees(names: Sequence[str]) -> bool:
    """Whether these are the columns of GazeBase, whose positions are in degrees, or say so themselves."""
    plain = [name.casefold() for name in names]
    return {"dp", "lab", "xt", "yt"} <= set(plain) or any(
        name in ("x_deg", "x [deg]", "x (deg)", "x [°]") for name in plain
    )
