"""The formats: EDF and BDF with our own reader, SWEC's HDF5 in chunks, MEF3 through pymef, everything else through MNE's lazy readers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from ieeg.recordings.edf import open_edf
from ieeg.recordings.recording import NEURAL, Channel, Event, Recording, kind_by_name, microvolts, some_of


def _without_unit(channels: Sequence[Channel]) -> list[str]:
    """A word about channels of the brain whose unit the file does not state."""
    names = [channel.name for channel in channels if channel.neural and not channel.unit.strip()]
    if not names:
        return []
    return [f"no unit is stated for {some_of(names)}: taken as µV"]


@dataclass
class EdfRecording(Recording):
    """EDF, EDF+ (continuous and discontinuous) and BDF."""

    def __post_init__(self) -> None:
        self._file = file = open_edf(self.path)
        no_voltage: dict[str, list[str]] = {}
        for signal in file.signals:
            scale, kind = microvolts(signal.unit), _edf_kind(signal.label)
            if scale is None and kind in NEURAL:  # impedances, for example, under an electrode's name
                kind = "misc"
                no_voltage.setdefault(signal.unit, []).append(signal.label)
            file.scales.append(1.0 if scale is None else scale)
            rate = signal.samples / file.record_seconds
            self.channels.append(Channel(_electrode_name(signal.label), kind, rate, signal.unit))
        for unit, labels in no_voltage.items():
            self.warnings.append(f"the unit {unit!r} of {some_of(labels)} is not a voltage: left out")
        self.warnings += _without_unit(self.channels)
        onsets, step = file.record_onsets, file.record_seconds
        self.duration = float(onsets[-1] + step)
        # 0.1 %: time stamps are rounded
        jumps = np.flatnonzero(np.diff(onsets) > step * 1.001 + 1e-6)
        for i in jumps:
            self.gaps.append((float(onsets[i] + step), float(onsets[i + 1])))
        for annotation in file.annotations:
            self.events.append(Event(*annotation))
        if file.start:
            self.start = file.start + timedelta(seconds=file.first_onset)
        self.warnings += file.warnings

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        if not self.gaps:
            return self._file.read(channels, begin, end)
        out = np.zeros((len(channels), end - begin), np.float32)
        per_record = self._file.signals[channels[0]].samples
        starts = np.round(self._file.record_onsets / self._file.record_seconds * per_record).astype(int)
        first_record = max(np.searchsorted(starts, begin, "right") - 1, 0)
        for record in range(first_record, np.searchsorted(starts, end)):
            low, high = max(begin, starts[record]), min(end, starts[record] + per_record)
            if high > low:
                # The file counts its samples without gaps, the recording counts them with gaps.
                shift = record * per_record - starts[record]
                out[:, low - begin : high - begin] = self._file.read(channels, int(low + shift), int(high + shift))
        return out


def _electrode_name(label: str) -> str:
    """The electrode of an EDF label: 'EEG Fp1-Ref' is Fp1; a bipolar 'FP1-F7' stays as it is."""
    name = re.sub(r"^(EEG|SEEG|ECOG|IEEG|POL|ECG|EOG|EMG)\s+", "", label.strip(), flags=re.IGNORECASE)
    if not re.search(r"[-_\s](ref|reference|le|avg)$", name, re.IGNORECASE):
        return name
    return re.sub(r"[-_\s]*(ref|reference|le|avg|cpz?)$", "", name, flags=re.IGNORECASE)


def _edf_kind(label: str) -> str:
    """The kind of signal that an EDF label states; EDF+ puts the type before the name: 'EEG Fp1', 'ECG II'."""
    typed = re.match(r"(EEG|SEEG|ECOG|ECG|EKG|EOG|EMG)\s", label, re.IGNORECASE)
    if not typed:
        return kind_by_name(label)
    kind = typed[1].lower().replace("ekg", "ecg")
    if kind == "eeg":  # amplifiers call every input EEG: 'EEG ECG1' is an ECG
        return kind_by_name(label[typed.end() :], kind)
    return kind


_JOINTS = ("bad boundary", "edge boundary", "boundary")
_MNE_KINDS = ("seeg", "ecog", "ecg", "eog", "emg", "stim")


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
                hint += "; MNE also needs the lines BirthDate, Sex and Hand under [Patient], which anonymisation may have removed"
            raise UserError(f"{self.path} cannot be read: {detail}", hint) from None
        raw = self._raw
        rate = float(raw.info["sfreq"])
        for name, mne_kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
            location = raw.info["chs"][raw.ch_names.index(name)]["loc"][:3]
            position = None
            if np.isfinite(location).all() and np.any(location):  # MNE writes NaN or 0, 0, 0 for unknown positions
                x, y, z = (float(value) for value in location)
                position = (x, y, z)
            bad = ""
            if name in raw.info["bads"]:
                bad = "marked bad in the file"
            self.channels.append(Channel(name, self._kind(name, mne_kind), rate, "µV", bad, position))
        self.duration = raw.n_times / rate
        if raw.info["meas_date"]:
            self.start = raw.info["meas_date"].replace(tzinfo=None)
        # With orig_time, MNE counts annotations from the start of acquisition, not from the file's first sample.
        marks = raw.annotations
        offset = raw.first_time if marks.orig_time is not None else 0.0
        for onset, duration, text in zip(marks.onset, marks.duration, marks.description, strict=True):
            self.events.append(Event(float(onset) - offset, float(duration), str(text)))
        self._mark_gaps()

    def _kind(self, name: str, mne_kind: str) -> str:
        """What a channel measures, in our terms: MNE's type, corrected by the name where MNE only guesses."""
        # MNE types the channels of Nihon Kohden by their letters, which would lose a contact called X1 or NA3.
        if self.path.suffix.lower() == ".eeg" and mne_kind != "stim":
            return kind_by_name(name)
        if mne_kind == "eeg":
            return kind_by_name(name, "eeg")
        if mne_kind == "dbs":
            return "seeg"
        if mne_kind in _MNE_KINDS:
            return mne_kind
        return "misc"

    def _mark_gaps(self) -> None:
        """Turns MNE's marks of samples that were not recorded into gaps; warns of joints, where the signal jumps."""
        joints = set()
        for event in self.events:
            if event.label.upper().startswith("BAD_ACQ_SKIP") and event.duration > 0:
                self.gaps.append((event.onset, min(event.onset + event.duration, self.duration)))
            elif event.label.lower() in _JOINTS:
                joints.add(round(event.onset, 2))
        if joints:
            times = some_of([f"{onset:g} s" for onset in sorted(joints)])
            self.warnings.append(f"pieces were joined at {times}: filters and windows run across the joints")

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        return (self._raw.get_data(picks=channels, start=begin, stop=end, verbose="error") * 1e6).astype(np.float32)


@dataclass
class SwecRecording(Recording):
    """The SWEC iEEG data set: HDF5 with ``data/ieeg`` (channels, samples) in microvolts and ``data/seizures``; part files behind a virtual file."""

    def __post_init__(self) -> None:
        import h5py
        import hdf5plugin  # noqa: F401 - registers the LZ4 filter

        try:
            self._file: Any = h5py.File(self.path, "r")
            self._data = self._file["data/ieeg"]
            rate = float(self._file.attrs["sampling_rate"])
        except (OSError, KeyError) as error:
            raise UserError(
                f"{self.path} is not a SWEC recording: {error}",
                "it must hold data/ieeg and the attribute sampling_rate",
            ) from None
        self._check_parts()
        count, samples = self._data.shape
        for i in range(count):
            self.channels.append(Channel(f"iEEG{i + 1:02}", "seeg", rate))
        self.duration = samples / rate
        if "data/seizures" in self._file:
            table = self._file["data/seizures"][()]
            for onset, offset in zip(table["onsets"].ravel(), table["offsets"].ravel(), strict=True):
                self.events.append(Event(float(onset), float(offset) - float(onset), "sz"))

    def _check_parts(self) -> None:
        """Refuses a virtual file with missing parts, for which HDF5 would return zeros."""
        if not getattr(self._data, "is_virtual", False):
            return
        parts = sorted({Path(source.file_name).name for source in self._data.virtual_sources()} - {"."})
        absent = [name for name in parts if not (self.path.parent / name).exists()]
        if absent:
            raise UserError(
                f"{self.path.name} refers to part files that are not beside it: {', '.join(absent[:4])}",
                "download or link the parts; some folders of the data set name the parts of the patient that they are copies of",
            )

    def _read(self, channels: list[int], begin: int, end: int) -> NDArray[np.float32]:
        try:
            order = np.argsort(channels)  # h5py takes only increasing indices
            block = self._data[np.array(channels)[order], begin:end]
        except OSError as error:
            raise UserError(
                f"{self.path}: samples {begin} to {end} cannot be read: {error}",
                "the file is truncated or damaged; copy it again",
            ) from None
        return np.asarray(block, np.float32)[np.argsort(order)]  # back in the requested order


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
        except Exception as error:  # pymef raises bare exceptions
            raise UserError(
                f"{self.path} cannot be read as MEF3: {' '.join(str(error).split())[:160]}",
                "encrypted sessions are not supported",
            ) from None
        if not rows:
            raise UserError(f"{self.path} holds no channels", "give the session's folder, NAME.mefd")
        # Times are in microseconds; channels may begin and end at different times.
        begin = min(int(row["start_time"][0]) for row in rows)
        end = max(int(row["end_time"][0]) for row in rows)
        self._begin = begin
        self._factors: list[float] = []
        for row in rows:
            name, rate, unit = str(row["name"]), float(row["fsamp"][0]), row["unit"][0]
            unit = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
            scale, kind = microvolts(unit), kind_by_name(name)
            if scale is None and kind in NEURAL:
                kind = "misc"
                self.warnings.append(f"the unit {unit!r} of {name} is not a voltage: left out")
            self.channels.append(Channel(name, kind, rate, unit))
            to_microvolts = 1.0 if scale is None else scale
            self._factors.append(float(row["ufact"][0]) * to_microvolts)
        self.warnings += _without_unit(self.channels)
        self.duration = (end - begin) / 1e6
        if begin > 0:
            self.start = datetime.fromtimestamp(begin / 1e6)
        self.gaps = self._common_gaps()

    def _common_gaps(self) -> list[tuple[float, float]]:
        """Intervals in which no channel has samples, from the block tables of the segments."""
        recorded: list[tuple[float, float]] = []
        for channel in self._session.session_md["time_series_channels"].values():
            rate = float(np.ravel(channel["section_2"]["sampling_frequency"])[0])
            for segment in channel["segments"].values():
                for block in np.atleast_1d(segment["indices"]):
                    onset = (int(block["start_time"]) - self._begin) / 1e6
                    recorded.append((onset, onset + int(block["number_of_samples"]) / rate))
        # Recorded intervals of all channels, sorted by onset: a gap is where none reaches the next.
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
        names = [self.channels[i].name for i in channels]
        data = self._session.read_ts_channels_uutc(names, span)
        out = np.zeros((len(channels), end - begin), np.float32)
        for row, values, i in zip(out, data, channels, strict=True):
            # pymef fills gaps with NaN
            values = np.nan_to_num(np.asarray(values, np.float32)) * self._factors[i]
            row[: len(values)] = values[: end - begin]
        return out
