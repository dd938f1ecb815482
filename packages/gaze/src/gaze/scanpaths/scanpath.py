"""One validated type for what every tracker writes: fixations in pixels and milliseconds, with the display, the eye and their provenance."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError

Eye = Literal["left", "right", "both", "unknown"]


@dataclass(frozen=True)
class Display:
    """The screen that was looked at.

    Attributes:
        width, height: in pixels; None: not known.
        width_mm, height_mm: of the lit area; None: not known.
        distance_mm: from the eyes; None: not known.
    """

    width: int | None = None
    height: int | None = None
    width_mm: float | None = None
    height_mm: float | None = None
    distance_mm: float | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels, where both are known."""
        if self.width is None or self.height is None:
            return None
        return self.width, self.height

    def pixels_per_degree(self) -> float:
        """In the middle of the screen, along its width.

        Raises:
            UserError: the geometry is not known.
        """
        if self.width is None or self.width_mm is None or self.distance_mm is None:
            raise UserError(
                "degrees need the screen's width in pixels and mm, and the viewing distance",
                "give --screen WIDTH,HEIGHT (pixels), --screen-mm WIDTH,HEIGHT and --distance-mm",
            )
        mm_per_degree = 2 * self.distance_mm * np.tan(np.radians(0.5))
        return float(mm_per_degree * self.width / self.width_mm)


def digest_of(x: NDArray[np.float64], y: NDArray[np.float64], duration: NDArray[np.float64]) -> str:
    """A digest of fixations, in pixels and ms."""
    return hashlib.sha256(np.stack([x, y, duration], 1).tobytes()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Scanpath:
    """The fixations of one subject on one stimulus, in order.

    Attributes:
        x, y: in pixels from the upper left corner of the display, float64 of shape (fixations,).
        duration: in ms; NaN where it is not known.
        onset: when each fixation begins, in ms from the beginning of the trial (or the file's own zero); NaN where it is not known.
        stimulus: name of the picture or scene, "" where it is not known.
        subject: who looked, "" where it is not known.
        trial: name of the trial, unique within a file and subject.
        eye: which eye was recorded.
        display: the screen.
        provenance: where the fixations come from: "tracker" (the device's own events), "detected: I-VT, 30°/s, …" (by us), "file" (a
            derived table that does not say).
        task: what was searched for, or the instruction; None: not known.
        target_box: left, top, width and height of the searched object, in pixels; None: not known or not in the scene.
        target_present: None: not known.
        split: of a published data set: "train", "valid", "test"; None: none.
        details: what else the file says of the trial (its columns), for programs.
        source: tells the path from every other: a digest of its fixations as they were read, before any was left out by an option.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    duration: NDArray[np.float64]
    onset: NDArray[np.float64]
    stimulus: str = ""
    subject: str = ""
    trial: str = ""
    eye: Eye = "unknown"
    display: Display = Display()
    provenance: str = "file"
    task: str | None = None
    target_box: tuple[float, float, float, float] | None = None
    target_present: bool | None = None
    split: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("x", "y", "duration", "onset")}
        if len(set(lengths.values())) > 1:
            named = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"fixations need as many values of each kind, got {named}")
        for name in ("x", "y", "duration", "onset"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise ValueError("x and y of a fixation are finite: leave out the others, and say so")
        if (self.duration < 0).any():
            raise ValueError(f"durations are not negative, got {np.nanmin(self.duration):g} ms")
        if not self.source:
            object.__setattr__(self, "source", digest_of(self.x, self.y, self.duration))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def points(self) -> NDArray[np.float64]:
        """(fixations, 2): x and y."""
        return np.stack([self.x, self.y], 1)

    @property
    def timed_points(self) -> NDArray[np.float64]:
        """(fixations, 3): x, y and the duration in ms."""
        return np.stack([self.x, self.y, self.duration], 1)

    @property
    def name(self) -> str:
        """For readers: stimulus, subject and trial, as far as they are known."""
        parts: list[str] = []
        for part in (self.stimulus, self.subject, self.trial):
            if part and part not in parts:
                parts.append(part)
        return " · ".join(parts) or "scanpath"

    def on_screen(self) -> NDArray[np.bool_]:
        """Which fixations lie on the display; all, where its size is not known."""
        size = self.display.size
        if size is None:
            return np.ones(len(self), bool)
        return (self.x >= 0) & (self.y >= 0) & (self.x < size[0]) & (self.y < size[1])

    def select(self, keep: NDArray[np.bool_]) -> "Scanpath":
        """The same with some of its fixations."""
        values = {name: getattr(self, name)[keep] for name in ("x", "y", "duration", "onset")}
        return type(self)(**{**self.__dict__, **values})


@dataclass(frozen=True)
class Reading:
    """What a file held.

    Attributes:
        scanpaths: in the order of the file.
        kind: of file, in words: "EyeLink ASC".
        left_out: reason → how many fixations, events or trials were left out for it. Nothing is left out in silence.
        notes: what the user should know: units that were converted, geometry that is assumed, streams that were passed over.
        facts: what the file says of itself, for `inspect` (sampling rate, eye, tracker, date).
    """

    scanpaths: list[Scanpath]
    kind: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)
