"""Recordings of any format behind one interface: channels with names, kinds and rates, and windows of microvolts read on demand.

Nothing is loaded whole: of EDF and BDF only the requested samples are read (`ieeg.recordings.edf`), SWEC's HDF5 is read in chunks, the rest goes
through MNE's lazy readers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Prefixes of volt → microvolts per unit.
_PREFIXES = {
    "": 1e6,
    "m": 1e3,
    "milli": 1e3,
    "u": 1.0,
    "µ": 1.0,
    "μ": 1.0,
    "micro": 1.0,
    "n": 1e-3,
    "nano": 1e-3,
    "k": 1e9,
}
NEURAL = ("seeg", "ecog", "eeg")
_KINDS = (  # by name, where the file does not state the kind: the first match wins
    ("ecg", r"\b(ecg|ekg)"),
    ("eog", r"\b(eog|loc|roc)\b"),
    ("emg", r"\b(emg|chin|delt|leg)"),
    ("stim", r"\b(sti|trig|event|mkr|status|marker)"),
    ("misc", r"\b(dc\d*|spo2|sao2|resp|pleth|hr|pulse|osat|temp|annot|patient|photic|vns|co2|flow|position)\b"),
)


@dataclass(frozen=True)
class Channel:
    """One channel: its name as in the file, what it measures, its rate in Hz, and (if known) why it is not used."""

    name: str
    kind: str  # seeg, ecog, eeg; ecg, eog, emg, stim, misc
    rate: float
    unit: str = "µV"
    bad: str = ""
    position: tuple[float, float, float] | None = None  # metres
    group: str = ""  # shaft or grid, if a sidecar states it

    @property
    def neural(self) -> bool:
        return self.kind in NEURAL


@dataclass(frozen=True)
class Event:
    """A marked interval, seconds from the first sample."""

    onset: float
    duration: float
    label: str


def microvolts(unit: str) -> float | None:
    """Microvolts per unit; a blank unit is taken as microvolts. None: the unit is not a voltage."""
    plain = unit.strip().lower()
    if not plain:
        return 1.0
    match = re.fullmatch(r"(\D*?)v(olts?)?", plain)
    if match is None:
        return None
    if match[1] in _PREFIXES:
        return _PREFIXES[match[1]]
    if match[1].isascii() and match[1].isalpha():
        return None
    return 1.0  # a µ in an unknown encoding


def kind_by_name(name: str, default: str = "seeg") -> str:
    """What a channel measures, guessed from its name: ECG, EOG, EMG, triggers and polygraphy are recognised; the rest is `default`."""
    plain = re.sub(r"[_\-.:]+", " ", name.lower()).strip()
    apart = re.sub(r"(ecg|ekg|eog|emg)", r" \1", plain)  # "POLECG" has no word boundary before ECG
    for kind, pattern in _KINDS:
        if re.search(pattern, plain) or re.search(pattern, apart):
            return kind
    return default


def some_of(names: Sequence[str], limit: int = 4) -> str:
    """The first names of a list, for a message."""
    shown = ", ".join(names[:limit])
    if len(names) > limit:
        shown += f" … ({len(names)})"
    return shown


@dataclass
class Recording(ABC):
    """An open recording.

    Attributes:
        path: the file or folder.
        channels: all of them, in the file's order.
        duration: seconds from the first to the last sample, gaps included.
        start: wall-clock time of the first sample, if the file states it.
        events: marks in the file.
        warnings: what is unusual about the file, in plain words.
        gaps: intervals without samples, (begin, end) in seconds.
        power_line: mains frequency, Hz, if a sidecar states it; else 0.
    """

    path: Path
    channels: list[Channel] = field(default_factory=list)
    duration: float = 0.0
    start: datetime | None = None
    events: list[Event] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    power_line: float = 0.0
    _of_one_rate: set[tuple[int, ...]] = field(default_factory=set, repr=False)

    @property
    def name(self) -> str:
        return self.path.name.split(".")[0]

    @property
    def names(self) -> list[str]:
        return [channel.name for channel in self.channels]

    def make_names_unique(self) -> None:
        """Numbers repeated names: A1, A1-2."""
        taken: set[str] = set()
        repeated = []
        for i, channel in enumerate(self.channels):
            name, count = channel.name, 2
            while name in taken:
                name, count = f"{channel.name}-{count}", count + 1
            if name != channel.name:
                repeated.append(channel.name)
                self.channels[i] = replace(channel, name=name)
            taken.add(name)
        if repeated:
            self.warnings.append(f"channel names that occur more than once were numbered: {some_of(repeated)}")

    @cached_property
    def rates(self) -> dict[float, list[int]]:
        """Channel indices by sampling rate."""
        groups: dict[float, list[int]] = {}
        for i, channel in enumerate(self.channels):
            groups.setdefault(channel.rate, []).append(i)
        return groups

    def samples(self, rate: float) -> int:
        """Number of samples of a channel of `rate` over the whole recording."""
        return round(self.duration * rate)

    def read(self, channels: Sequence[int], begin: int, end: int) -> NDArray[np.float32]:
        """Samples `begin` to `end` (excluded) of channels of one rate, in microvolts, (channels, end − begin).

        Samples before the first, after the last and inside gaps are 0.

        Raises:
            ValueError: channels of different rates.
            UserError: the file cannot be read there.
        """
        key = tuple(channels)
        if key not in self._of_one_rate:  # checked once: windows are read thousands of times
            if len({self.channels[i].rate for i in channels}) > 1:
                raise ValueError("channels read together must have one rate")
            self._of_one_rate.add(key)
        total = 0
        if channels:
            total = self.samples(self.channels[channels[0]].rate)
        inside = max(begin, 0), min(max(end, 0), total)
        if channels and inside == (begin, end) and end > begin:  # the usual case, without a copy
            return np.ascontiguousarray(self._read(list(channels), begin, end))
        out = np.zeros((len(channels), max(end - begin, 0)), np.float32)
        if channels and inside[1] > inside[0]:
            out[:, inside[0] - begin : inside[1] - begin] = self._read(list(channels), *inside)
        return out

    @abstractmethod
    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        """As `read`, inside the recording."""
