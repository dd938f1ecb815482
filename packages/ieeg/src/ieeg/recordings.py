"""Recordings of any format as one thing: channels with names, kinds and rates, and windows of microvolts read where they are needed.

Nothing is loaded whole: EDF and BDF are mapped (`ieeg.edf`), SWEC's HDF5 is read by chunk, the rest goes through MNE's lazy readers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError

MICROVOLTS = {"v": 1e6, "mv": 1e3, "uv": 1.0, "µv": 1.0, "μv": 1.0, "microv": 1.0, "nv": 1e-3}
NEURAL = ("seeg", "ecog", "eeg")
_KINDS = (  # by name, where the file does not say: first match wins
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

    @property
    def neural(self) -> bool:
        return self.kind in NEURAL


@dataclass(frozen=True)
class Event:
    """A marked stretch, seconds from the first sample."""

    onset: float
    duration: float
    label: str


def kind_by_name(name: str, default: str = "seeg") -> str:
    """What a channel measures, guessed from its name: ECG, EOG, EMG, triggers and polygraphy are told apart; the rest is `default`."""
    plain = re.sub(r"[_\-.:]+", " ", name.lower()).strip()
    for kind, pattern in _KINDS:
        if re.search(pattern, plain) or re.search(pattern, re.sub(r"(ecg|ekg|eog|emg)", r" \1", plain)):
            return kind
    return default


@dataclass
class Recording(ABC):
    """An open recording.

    Attributes:
        path: the file or folder.
        channels: all of them, in the file's order.
        duration: seconds from the first to the last sample, gaps included.
        start: wall-clock time of the first sample, if the file says.
        events: what the file marks.
        warnings: what is odd about the file, in plain words.
        gaps: stretches without samples, (begin, end) in seconds.
    """

    path: Path
    channels: list[Channel] = field(default_factory=list)
    duration: float = 0.0
    start: datetime | None = None
    events: list[Event] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name.split(".")[0]

    @cached_property
    def rates(self) -> dict[float, list[int]]:
        """Channel indices by sampling rate."""
        groups: dict[float, list[int]] = {}
        for i, channel in enumerate(self.channels):
            groups.setdefault(channel.rate, []).append(i)
        return groups

    def samples(self, rate: float) -> int:
        """Samples of a channel of `rate` over the whole recording."""
        return round(self.duration * rate)

    def read(self, channels: Sequence[int], begin: int, end: int) -> NDArray[np.float32]:
        """Samples `begin` to `end` (excluded) of channels of one rate, in microvolts, (channels, end − begin).

        Samples before the first, after the last and inside gaps are 0.

        Raises:
            ValueError: channels of different rates.
            UserError: the file cannot be read there.
        """
        if len({self.channels[i].rate for i in channels}) > 1:
            raise ValueError("channels read together must have one rate")
        total = self.samples(self.channels[channels[0]].rate) if channels else 0
        inside = max(begin, 0), min(max(end, 0), total)
        out = np.zeros((len(channels), max(end - begin, 0)), np.float32)
        if channels and inside[1] > inside[0]:
            out[:, inside[0] - begin : inside[1] - begin] = self._read(list(channels), *inside)
        return out

    @abstractmethod
    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        """As `read`, inside the recording."""


@dataclass
class EdfRecording(Recording):
    """EDF, EDF+ (continuous and discontinuous) and BDF."""

    def __post_init__(self) -> None:
        from ieeg.edf import open_edf

        self._file = file = open_edf(self.path)
        scales, unknown = [], []
        for s in file.signals:
            scale = MICROVOLTS.get(s.unit.lower())
            if scale is None and kind_by_name(s.label) in NEURAL and s.unit:
                unknown.append(s.label)
            scales.append(1.0 if scale is None else scale)
            self.channels.append(Channel(_label(s.label), _edf_kind(s.label), s.samples / file.record_seconds, s.unit))
        self._scales = np.array(scales, np.float32)
        self.warnings += file.warnings
        if unknown:
            self.warnings.append(
                f"unknown unit of {', '.join(unknown[:4])}{' …' if len(unknown) > 4 else ''}: taken as microvolts"
            )
        onsets, step = file.record_onsets, file.record_seconds
        self.duration = float(onsets[-1] + step)
        jumps = np.flatnonzero(np.diff(onsets) > step * 1.001 + 1e-6)
        self.gaps = [(float(onsets[i] + step), float(onsets[i + 1])) for i in jumps]
        self.events = [Event(*annotation) for annotation in file.annotations]
        self.start = file.start + timedelta(seconds=file.first_onset) if file.start else None

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        per = self._file.signals[channels[0]].samples
        scale = self._scales[channels, None]
        if not self.gaps:
            return self._file.read(channels, begin, end) * scale
        out = np.zeros((len(channels), end - begin), np.float32)
        starts = np.round(self._file.record_onsets / self._file.record_seconds * per).astype(int)
        for record in range(max(np.searchsorted(starts, begin, "right") - 1, 0), np.searchsorted(starts, end)):
            a, b = max(begin, starts[record]), min(end, starts[record] + per)
            if b > a:
                at = record * per - starts[record]
                out[:, a - begin : b - begin] = self._file.read(channels, int(a + at), int(b + at)) * scale
        return out


def _label(name: str) -> str:
    """The electrode of an EDF label: 'EEG Fp1-Ref' is Fp1; a bipolar 'FP1-F7' stays."""
    name = re.sub(r"^(EEG|SEEG|ECOG|IEEG|POL|ECG|EOG|EMG)\s+", "", name.strip(), flags=re.IGNORECASE)
    return (
        re.sub(r"[-_\s]*(ref|reference|le|avg|cpz?)$", "", name, flags=re.IGNORECASE)
        if re.search(r"[-_\s](ref|reference|le|avg)$", name, re.IGNORECASE)
        else name
    )


def _edf_kind(label: str) -> str:
    typed = re.match(r"(EEG|SEEG|ECOG|ECG|EKG|EOG|EMG)\s", label, re.IGNORECASE)
    if typed:
        kind = typed[1].lower().replace("ekg", "ecg")
        return kind_by_name(label[typed.end() :], kind) if kind == "eeg" else kind
    return kind_by_name(label)


@dataclass
class MneRecording(Recording):
    """Everything that MNE reads lazily: BrainVision, FIF, EEGLAB, Persyst, Nihon Kohden and more."""

    def __post_init__(self) -> None:
        import mne

        try:
            with mne.utils.use_log_level("error"):
                self._raw: Any = mne.io.read_raw(self.path, preload=False)
        except Exception as error:  # MNE's readers raise anything
            detail = " ".join(str(error).split())[:160]
            raise UserError(
                f"{self.path} cannot be read: {detail}",
                "check that all files of the recording are there, or export it as EDF+",
            ) from None
        raw = self._raw
        rate = float(raw.info["sfreq"])
        for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
            located = raw.info["chs"][raw.ch_names.index(name)]["loc"][:3]
            x, y, z = (float(value) for value in located)
            position = (x, y, z) if np.isfinite(located).all() and np.any(located) else None
            kind = (
                kind
                if kind in ("seeg", "ecog", "ecg", "eog", "emg", "stim")
                else kind_by_name(name, "eeg")
                if kind == "eeg"
                else "misc"
            )
            self.channels.append(
                Channel(name, kind, rate, "µV", "marked bad in the file" if name in raw.info["bads"] else "", position)
            )
        self.duration = raw.n_times / rate
        self.start = raw.info["meas_date"].replace(tzinfo=None) if raw.info["meas_date"] else None
        offset = raw.first_time if raw.annotations.orig_time is not None else 0.0
        self.events = [
            Event(float(o) - offset, float(d), str(t))
            for o, d, t in zip(
                raw.annotations.onset, raw.annotations.duration, raw.annotations.description, strict=True
            )
        ]

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        return (self._raw.get_data(picks=channels, start=begin, stop=end, verbose="error") * 1e6).astype(np.float32)


@dataclass
class SwecRecording(Recording):
    """The SWEC iEEG data set: HDF5 with ``data/ieeg`` (channels, samples) in microvolts and ``data/seizures``; part files behind a virtual one."""

    def __post_init__(self) -> None:
        import h5py
        import hdf5plugin  # noqa: F401 - registers the LZ4 filter

        try:
            self._file: Any = h5py.File(self.path, "r")
            self._data = self._file["data/ieeg"]
            rate = float(self._file.attrs["sampling_rate"])
        except (OSError, KeyError) as error:
            raise UserError(
                f"{self.path} is not a SWEC recording: {error}", "it holds data/ieeg and the attribute sampling_rate"
            ) from None
        self._check_parts()
        count, samples = self._data.shape
        self.channels = [Channel(f"iEEG{i + 1:02}", "seeg", rate) for i in range(count)]
        self.duration = samples / rate
        if "data/seizures" in self._file:
            table = self._file["data/seizures"][()]
            self.events = [
                Event(float(a), float(b) - float(a), "sz")
                for a, b in zip(table["onsets"].ravel(), table["offsets"].ravel(), strict=True)
            ]

    def _check_parts(self) -> None:
        """A virtual file reads zeros where a part is missing: say so instead."""
        if not getattr(self._data, "is_virtual", False):
            return
        parts = sorted({Path(source.file_name).name for source in self._data.virtual_sources()} - {"."})
        absent = [name for name in parts if not (self.path.parent / name).exists()]
        if absent:
            raise UserError(
                f"{self.path.name} refers to part files that are not beside it: {', '.join(absent[:4])}",
                "download or link the parts; some folders of the data set name the parts of the patient that they copy",
            )

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        try:
            order = np.argsort(channels)  # h5py wants increasing indices
            block = self._data[np.array(channels)[order], begin:end]
        except OSError as error:
            raise UserError(
                f"{self.path}: samples {begin} to {end} cannot be read: {error}",
                "the file is truncated or damaged; copy it again",
            ) from None
        return np.asarray(block, np.float32)[np.argsort(order)]


@dataclass
class MefRecording(Recording):
    """MEF3 sessions (``NAME.mefd``) through pymef, which is an extra: ``pip install 'attention-suite-ieeg[mef]'``."""

    def __post_init__(self) -> None:
        try:
            from pymef.mef_session import MefSession  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(
                f"{self.path}: reading MEF3 needs pymef", "pip install 'attention-suite-ieeg[mef]'"
            ) from None
        try:
            self._session: Any = MefSession(str(self.path), "")
            rows = self._session.read_ts_channel_basic_info()
        except Exception as error:
            raise UserError(
                f"{self.path} cannot be read as MEF3: {' '.join(str(error).split())[:160]}",
                "encrypted sessions are not supported",
            ) from None
        begin = min(int(r["start_time"][0]) for r in rows)
        end = max(int(r["end_time"][0]) for r in rows)
        self._begin, self._factors = begin, []
        for r in rows:
            rate, unit = (
                float(r["fsamp"][0]),
                r["unit"][0].decode("utf-8", "replace") if isinstance(r["unit"][0], bytes) else str(r["unit"][0]),
            )
            self.channels.append(Channel(str(r["name"]), kind_by_name(str(r["name"])), rate, unit or "µV"))
            self._factors.append(float(r["ufact"][0]) * MICROVOLTS.get(unit.lower(), 1.0))
        self.duration = (end - begin) / 1e6
        self.start = datetime.fromtimestamp(begin / 1e6) if begin > 0 else None

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        rate = self.channels[channels[0]].rate
        span = [round(self._begin + begin / rate * 1e6), round(self._begin + end / rate * 1e6)]
        data = self._session.read_ts_channels_uutc([self.channels[i].name for i in channels], span)
        out = np.zeros((len(channels), end - begin), np.float32)
        for row, values, i in zip(out, data, channels, strict=True):
            values = np.nan_to_num(np.asarray(values, np.float32)) * self._factors[i]
            row[: len(values)] = values[: end - begin]
        return out


EDF_SUFFIXES = (".edf", ".bdf", ".rec")
MNE_SUFFIXES = (".vhdr", ".fif", ".fif.gz", ".set", ".lay", ".eeg", ".cnt", ".mff", ".nxe")


def recognises(path: Path) -> str | None:
    """What kind of recording a path holds, from its name and first bytes."""
    name = path.name.lower()
    if path.is_dir():
        return (
            "MEF3 session"
            if name.endswith(".mefd")
            else "BIDS data set"
            if (path / "dataset_description.json").is_file()
            else None
        )
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(8)
    if name.endswith(EDF_SUFFIXES) and (head.strip() == b"0" or head == b"\xffBIOSEMI"):
        return "EDF recording"
    if head == b"\x89HDF\r\n\x1a\n" and name.endswith((".h5", ".hdf5")):
        import h5py

        with h5py.File(path, "r") as file:
            return "SWEC iEEG recording" if "data/ieeg" in file else None
    if name.endswith((".vhdr", ".lay", ".set", ".mff", ".nxe", ".cnt", ".fif", ".fif.gz")) and path.stat().st_size:
        return "recording (through MNE)"
    return None


def open_recording(path: Path) -> Recording:
    """Opens a recording of any known format.

    Raises:
        UserError: absent, empty, of no known format, or unreadable.
    """
    name = path.name.lower()
    if not path.exists():
        raise UserError(
            f"no such file: {path}",
            "give an EDF, BDF, BrainVision (.vhdr), FIF, EEGLAB (.set), Persyst (.lay), MEF3 (.mefd) or SWEC (.h5) recording",
        )
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "copy it again from the recorder")
    if name.endswith(".mefd"):
        return MefRecording(path)
    if name.endswith(EDF_SUFFIXES):
        return EdfRecording(path)
    if name.endswith((".h5", ".hdf5")):
        return SwecRecording(path)
    if name.endswith(MNE_SUFFIXES):
        return MneRecording(path)
    raise UserError(
        f"{path} is of no known recording format",
        "known: EDF, BDF, BrainVision, FIF, EEGLAB, Persyst, Nihon Kohden, MEF3, SWEC HDF5",
    )
