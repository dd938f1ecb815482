"""The formats: EDF and BDF by our own reader, SWEC's HDF5 by chunk, MEF3 through pymef, everything else through MNE's lazy readers."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from ieeg.recordings.edf import open_edf
from ieeg.recordings.recording import NEURAL, Channel, Event, Recording, kind_by_name, microvolts, some_of


@dataclass
class EdfRecording(Recording):
    """EDF, EDF+ (continuous and discontinuous) and BDF."""

    def __post_init__(self) -> None:
        self._file = file = open_edf(self.path)
        no_voltage: dict[str, list[str]] = {}
        for s in file.signals:
            scale, kind = microvolts(s.unit), _edf_kind(s.label)
            if scale is None and kind in NEURAL:
                kind = "misc"
                no_voltage.setdefault(s.unit, []).append(s.label)
            file.scales.append(1.0 if scale is None else scale)
            self.channels.append(Channel(_label(s.label), kind, s.samples / file.record_seconds, s.unit))
        for unit, labels in no_voltage.items():
            self.warnings.append(f"the unit {unit!r} of {some_of(labels)} is not a voltage: left out")
        onsets, step = file.record_onsets, file.record_seconds
        self.duration = float(onsets[-1] + step)
        jumps = np.flatnonzero(np.diff(onsets) > step * 1.001 + 1e-6)
        self.gaps = [(float(onsets[i] + step), float(onsets[i + 1])) for i in jumps]
        self.events = [Event(*annotation) for annotation in file.annotations]
        self.start = file.start + timedelta(seconds=file.first_onset) if file.start else None
        self.warnings += file.warnings

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        per = self._file.signals[channels[0]].samples
        if not self.gaps:
            return self._file.read(channels, begin, end)
        out = np.zeros((len(channels), end - begin), np.float32)
        starts = np.round(self._file.record_onsets / self._file.record_seconds * per).astype(int)
        for record in range(max(np.searchsorted(starts, begin, "right") - 1, 0), np.searchsorted(starts, end)):
            a, b = max(begin, starts[record]), min(end, starts[record] + per)
            if b > a:
                at = record * per - starts[record]
                out[:, a - begin : b - begin] = self._file.read(channels, int(a + at), int(b + at))
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


_JOINTS = ("bad boundary", "edge boundary", "boundary")
_MNE_KINDS = ("seeg", "dbs", "ecog", "ecg", "eog", "emg", "stim")


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
            hint = "check that all files of the recording are there, or export it as EDF+"
            if self.path.suffix.lower() == ".lay":
                hint += "; MNE also wants the lines BirthDate, Sex and Hand under [Patient], which anonymising may have taken out"
            raise UserError(f"{self.path} cannot be read: {detail}", hint) from None
        raw = self._raw
        rate = float(raw.info["sfreq"])
        for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
            located = raw.info["chs"][raw.ch_names.index(name)]["loc"][:3]
            x, y, z = (float(value) for value in located)
            position = (x, y, z) if np.isfinite(located).all() and np.any(located) else None
            if (
                self.path.suffix.lower() == ".eeg"
            ):  # of Nihon Kohden MNE types by letters: a contact X1 or NA3 would be none
                kind = kind_by_name(name) if kind != "stim" else kind
            elif kind == "eeg":
                kind = kind_by_name(name, "eeg")
            elif kind not in _MNE_KINDS:
                kind = "misc"
            kind = "seeg" if kind == "dbs" else kind
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
        self._mark_gaps()

    def _mark_gaps(self) -> None:
        """MNE's marks of samples that were not recorded become gaps; where pieces were joined, the signal jumps: that is said."""
        skips = [e for e in self.events if e.label.upper().startswith("BAD_ACQ_SKIP") and e.duration > 0]
        self.gaps = [(e.onset, min(e.onset + e.duration, self.duration)) for e in skips]
        joints = sorted({round(e.onset, 2) for e in self.events if e.label.lower() in _JOINTS})
        if joints:
            named = some_of([f"{t:g} s" for t in joints])
            self.warnings.append(f"pieces were joined at {named}: filters and windows run across the joints")

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


GAP = 0.01  # seconds: MEF3 rounds the times of its blocks


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
        if not rows:
            raise UserError(f"{self.path} holds no channels", "give the session's folder, NAME.mefd")
        begin = min(int(r["start_time"][0]) for r in rows)
        end = max(int(r["end_time"][0]) for r in rows)
        self._begin, self._factors = begin, []
        for r in rows:
            name, rate, unit = str(r["name"]), float(r["fsamp"][0]), r["unit"][0]
            unit = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
            scale, kind = microvolts(unit), kind_by_name(name)
            if scale is None and kind in NEURAL:
                kind = "misc"
                self.warnings.append(f"the unit {unit!r} of {name} is not a voltage: left out")
            self.channels.append(Channel(name, kind, rate, unit or "µV"))
            self._factors.append(float(r["ufact"][0]) * (1.0 if scale is None else scale))
        self.duration = (end - begin) / 1e6
        self.start = datetime.fromtimestamp(begin / 1e6) if begin > 0 else None
        self.gaps = self._common_gaps()

    def _common_gaps(self) -> list[tuple[float, float]]:
        """Where no channel has samples, from the tables of blocks of the segments."""
        recorded: list[tuple[float, float]] = []
        for channel in self._session.session_md["time_series_channels"].values():
            rate = float(np.ravel(channel["section_2"]["sampling_frequency"])[0])
            for segment in channel["segments"].values():
                for block in np.atleast_1d(segment["indices"]):
                    onset = (int(block["start_time"]) - self._begin) / 1e6
                    recorded.append((onset, onset + int(block["number_of_samples"]) / rate))
        gaps = []
        end = 0.0
        for onset, offset in sorted(recorded):
            if onset - end > GAP:
                gaps.append((end, onset))
            end = max(end, offset)
        return gaps

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        rate = self.channels[channels[0]].rate
        span = [round(self._begin + begin / rate * 1e6), round(self._begin + end / rate * 1e6)]
        data = self._session.read_ts_channels_uutc([self.channels[i].name for i in channels], span)
        out = np.zeros((len(channels), end - begin), np.float32)
        for row, values, i in zip(out, data, channels, strict=True):
            values = np.nan_to_num(np.asarray(values, np.float32)) * self._factors[i]
            row[: len(values)] = values[: end - begin]
        return out
