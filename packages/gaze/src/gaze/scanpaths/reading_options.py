"""The options of every command that reads recordings: geometry, units, which eye, where trials begin."""

import re
from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Names, Pair, options

LARGEST_SCREEN = 1_000_000  # pixels, or mm
MAPPED = ("x", "y", "duration", "onset", "end", "subject", "stimulus", "trial", "eye", "task")


@options
class ReadOptions:
    """What a recording does not say of itself, and what is done with its odd parts.

    Attributes:
        screen: width and height of the screen in pixels; default: what the file says.
        screen_mm: width and height of the lit area in mm.
        distance_mm: from the eyes to the screen, in mm.
        eye: which eye, where both were recorded; both: each eye gives a scanpath of its own.
        trial_start: regular expression; a message (EyeLink's MSG) that matches begins a trial, its first group names it.
        trial_end: regular expression; a message that matches ends the trial.
        columns: which column of a table holds what: x=…,y=…,duration=…,onset=…,end=…,subject=…,stimulus=…,trial=…,eye=…,task=….
        units: of the coordinates; default: what the file says, else pixels.
        time_unit: of durations and times; default: what the file says, else milliseconds.
        origin: where x and y are 0; default: what the file says, else top-left.
        off_screen: what is done with fixations beside the screen: keep, drop, or clip to its edge. They are counted in any case.
        detect: fixations from raw samples: auto, only where the file has no fixations; ivt or idt, always; never.
        velocity_threshold: of I-VT, in degrees per second: slower samples are fixations.
        dispersion_threshold: of I-DT, in degrees.
        min_duration: shorter fixations are left out, in ms; detection needs at least 2 samples.
    """

    screen: Pair | None = None
    screen_mm: Pair | None = None
    distance_mm: Annotated[float | None, Above(0)] = None
    eye: Literal["left", "right", "both"] = "both"
    trial_start: str | None = None
    trial_end: str | None = None
    columns: Names = ()
    units: Literal["px", "normalised", "mm"] | None = None
    time_unit: Literal["s", "ms", "us"] | None = None
    origin: Literal["top-left", "bottom-left", "centre"] | None = None
    off_screen: Literal["keep", "drop", "clip"] = "keep"
    detect: Literal["never", "auto", "ivt", "idt"] = "auto"
    velocity_threshold: Annotated[float, Above(0)] = 30.0
    dispersion_threshold: Annotated[float, Above(0)] = 1.0
    min_duration: Annotated[float, AtLeast(0)] = 0.0

    def __post_init__(self) -> None:
        for name in ("trial_start", "trial_end"):
            pattern = getattr(self, name)
            try:
                re.compile(pattern or "")
            except re.error as error:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option} {pattern!r} is not a regular expression: {error}") from None
        for name in ("screen", "screen_mm"):
            size = getattr(self, name)
            if size is not None and not all(1 <= side < LARGEST_SCREEN for side in size):
                option = "--" + name.replace("_", "-")
                raise UserError(
                    f"{option} {size[0]:g},{size[1]:g}: a screen is from 1 to {LARGEST_SCREEN:,} wide and high"
                )
        if self.trial_end and not self.trial_start:
            raise UserError(
                "--trial-end needs --trial-start", "give a regular expression for the message that begins a trial"
            )
        self.mapped_columns()

    def mapped_columns(self) -> dict[str, str]:
        """``--columns`` as {what: column}.

        Raises:
            UserError: an entry is not WHAT=COLUMN.
        """
        mapped: dict[str, str] = {}
        for entry in self.columns or ():
            what, equals, column = entry.partition("=")
            if not equals or not column or what not in MAPPED:
                raise UserError(
                    f"--columns {entry!r} is not understood", f"write WHAT=COLUMN; WHAT is one of {', '.join(MAPPED)}"
                )
            if what in mapped:
                raise UserError(f"--columns names {what} twice: {mapped[what]!r} and {column!r}")
            mapped[what] = column
        return mapped
