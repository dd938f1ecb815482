"""EDF, EDF+ and BDF read in place: a fixed ASCII header, then records of int16 (BDF: int24) samples; only the requested samples are read.

Format: Kemp et al. 1992 (EDF), Kemp and Olivan 2003 (EDF+), BioSemi (BDF).
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from ieeg.recordings.edf_header import EdfSignal, find_data, is_annotation, number_of, read_signals, start_time, text_of

LONGEST_GAP = 3 * 86400.0  # seconds between two records; a later time stamp is taken as wrong
LONGEST = 366 * 86400.0  # seconds of a recording, gaps included
LONG_RECORD = 2**16  # bytes of a signal in a record
_HEAD, _SIGNAL = 256, 256  # bytes of the fixed header, and of the header of each signal
# A time-stamped annotation list of EDF+: onset, ␕ and duration (optional), then texts that each begin with ␔; ␔ and a zero byte end it.
_TAL = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?((?:\x14[^\x14\x00]*)*)\x14\x00")


class _Plan(NamedTuple):
    """How some signals are read: samples per record; runs of signals that are adjacent in the records (first, last, bytes in a record);
    physical = digital · gain + zero."""

    samples: int
    runs: list[tuple[int, int, int, int]]
    gains: NDArray[np.float32]
    zeros: NDArray[np.float32]


@dataclass
class EdfFile:
    """An open EDF, EDF+ or BDF file.

    Attributes:
        signals: the ordinary signals; annotation signals are read by `annotations`.
        records, record_seconds: number and length of the data records, according to the file's size.
        start: when the recording began, or None if the header's date is unreadable.
        warnings: what the header states but the file does not hold.
        scales: factor of each signal that `read` also applies, to bring all to one unit; default 1.
    """

    path: Path
    signals: list[EdfSignal]
    records: int
    record_seconds: float
    start: datetime | None
    discontinuous: bool
    warnings: list[str] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    _plans: dict[tuple[int, ...], _Plan] = field(default_factory=dict, repr=False)
    _annotation_signals: list[EdfSignal] = field(default_factory=list)
    _bytes_a_sample: int = 2
    _record_samples: int = 0
    _data_offset: int = 0

    @contextmanager
    def _open(self) -> Iterator[Callable[[int, int, int], NDArray[np.uint8]]]:
        """A function that reads bytes `low` to `high` of a record into a buffer, which its next call reuses.

        Plain reads, not a memory map: a day of data never counts as this process's memory, and a network share that disappears is an
        error, not a crash.

        Raises:
            UserError: the file has become shorter, or cannot be read.
        """
        record_size = self._record_samples * self._bytes_a_sample
        buffer = np.empty(0, np.uint8)
        try:
            with FileIO(self.path) as file:

                def read(record: int, low: int, high: int) -> NDArray[np.uint8]:
                    nonlocal buffer
                    if len(buffer) < high - low:
                        buffer = np.empty(high - low, np.uint8)
                    raw = buffer[: high - low]
                    file.seek(self._data_offset + record * record_size + low)
                    if file.readinto(raw.data) != len(raw):
                        raise OSError("it has become shorter since it was opened")
                    return raw

                yield read
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be read: {error.strerror or error}", "check the disk or share, or copy it again"
            ) from None

    def read(self, signals: list[int], begin: int, end: int) -> NDArray[np.float32]:
        """Samples `begin` to `end` (excluded) of signals of one rate, (signals, end − begin), in their header's unit times `scales`.

        Raises:
            ValueError: signals of different rates, or samples outside the recording.
        """
        if not signals or end <= begin:
            return np.zeros((len(signals), 0), np.float32)
        key = tuple(signals)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(signals)
        per_record = plan.samples
        if begin < 0 or end > self.records * per_record:
            raise ValueError(f"samples {begin} to {end} are outside the recording of {self.records * per_record}")
        first_record, end_record = begin // per_record, -(-end // per_record)
        out = np.empty((len(signals), end - begin), np.float32)
        width = self._bytes_a_sample
        with self._open() as read_bytes:
            for row, end_row, low, high in plan.runs:
                for record in range(first_record, end_record):
                    # The requested part of this record, and its columns of the output.
                    record_begin = record * per_record
                    part_begin = max(begin - record_begin, 0)
                    part_end = min(end - record_begin, per_record)
                    columns = slice(record_begin + part_begin - begin, record_begin + part_end - begin)
                    if end_row - row == 1:
                        # A single signal: only the requested samples are read from the disk.
                        raw = read_bytes(record, low + part_begin * width, low + part_end * width)
                        out[row, columns] = self._integers(raw)
                    else:
                        digital = self._integers(read_bytes(record, low, high)).reshape(end_row - row, per_record)
                        out[row:end_row, columns] = digital[:, part_begin:part_end]
        out *= plan.gains
        out += plan.zeros
        return out

    def _plan(self, signals: list[int]) -> _Plan:
        headers = [self.signals[i] for i in signals]
        per_record, width = headers[0].samples, self._bytes_a_sample
        if any(header.samples != per_record for header in headers):
            raise ValueError("signals read together must have one rate")
        offsets = np.array([header.offset for header in headers])
        long = per_record * width > LONG_RECORD  # then signals are read one by one, and only the requested samples
        apart = (np.diff(offsets) != per_record) | long
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(offsets)]
        runs = []
        for row, end_row in pairwise(edges):
            low = int(offsets[row]) * width
            high = int(offsets[row] + (end_row - row) * per_record) * width
            runs.append((row, end_row, low, high))
        scales = np.ones(len(signals))
        if self.scales:
            scales = np.array([self.scales[i] for i in signals])
        # physical = digital · gain + zero; computed in float64, so that the difference in zero loses no digits.
        gains = np.array([header.gain for header in headers]) * scales
        zeros = np.array([header.physical_min - header.digital_min * header.gain for header in headers]) * scales
        return _Plan(per_record, runs, gains.astype(np.float32)[:, None], zeros.astype(np.float32)[:, None])

    def _integers(self, raw: NDArray[np.uint8]) -> NDArray[np.integer]:
        if self._bytes_a_sample == 2:
            return raw.view("<i2")
        # BDF: three bytes, little-endian, become the upper three of an int32; shifting back down keeps the sign.
        wide = np.zeros((*raw.shape[:-1], raw.shape[-1] // 3, 4), np.uint8)
        wide[..., 1:] = raw.reshape(*raw.shape[:-1], -1, 3)
        return wide.view("<i4")[..., 0] >> 8

    @cached_property
    def _lists(self) -> list[list[tuple[float, float, list[str]]]]:
        """The time-stamped annotation lists of every record: (onset, duration, texts), seconds."""
        width = self._bytes_a_sample
        lists: list[list[tuple[float, float, list[str]]]] = [[] for _ in range(self.records)]
        with self._open() as read_bytes:
            for signal in self._annotation_signals:
                low, high = signal.offset * width, (signal.offset + signal.samples) * width
                for record, annotations in enumerate(lists):
                    block = read_bytes(record, low, high).tobytes()
                    for onset, duration, texts in _TAL.findall(block):
                        begin, length = float(onset), float(duration or 0)
                        words = [text.decode("utf-8", "replace") for text in texts.split(b"\x14")[1:]]
                        # a damaged list may hold numbers beyond float's range
                        if math.isfinite(begin) and math.isfinite(length):
                            annotations.append((begin, length, words))
        return lists

    @cached_property
    def first_onset(self) -> float:
        """Seconds from the header's start time to the first sample: EDF+ keeps the fraction of a second here."""
        if not self._lists or not self._lists[0]:
            return 0.0
        onset, _, texts = self._lists[0][0]
        if any(texts):  # EDF+: the list with the time of a record comes first and has no text
            return 0.0
        if abs(onset) > LONGEST:
            self.warnings.append(f"the first time stamp, {onset:g} s, is impossible: taken as 0")
            return 0.0
        return onset

    @cached_property
    def annotations(self) -> list[tuple[float, float, str]]:
        """(onset, duration, text) of every annotation, seconds from the first sample, in order."""
        annotations = []
        for record in self._lists:
            for onset, duration, texts in record:
                for text in texts:
                    if text:
                        annotations.append((onset - self.first_onset, duration, text))
        return sorted(annotations)

    @cached_property
    def record_onsets(self) -> NDArray[np.float64]:
        """The time at which each record begins, in seconds: the time-keeping annotations of an EDF+D file, else one after the other.

        A record without a time stamp, or with an impossible one, follows the record before it; such faults are added to `warnings`.
        """
        step = self.record_seconds
        onsets = np.arange(self.records, dtype=np.float64) * step
        if not self.discontinuous:
            return onsets
        if not self._annotation_signals:
            self.warnings.append(
                "the header states that the recording has gaps, but there are no time stamps: read without gaps"
            )
            return onsets
        missing, backward, far = [], [], []
        following = 0.0  # the end of the record before
        for i, record in enumerate(self._lists):
            stamp = None
            if record:
                stamp = record[0][0] - self.first_onset
            # A wrong stamp is replaced by the end of the record before, so that it moves no record after it.
            if stamp is None:
                missing.append(i)
            elif (i and stamp - following > LONGEST_GAP) or stamp > LONGEST:
                far.append(i)
            elif i and stamp < following - 1e-3 * step - 1e-6:  # stamps are rounded
                backward.append(i)
            else:
                following = stamp
            onsets[i] = following
            following += step
        faults = (
            (missing, "have no time stamp"),
            (far, f"have time stamps more than {LONGEST_GAP / 86400:g} days after the record before"),
            (backward, "have time stamps before the end of the record before"),
        )
        for records, fault in faults:
            if records:
                count = f"{len(records)} of {self.records} records {fault} (the first is record {records[0] + 1})"
                self.warnings.append(f"{count}: each is taken to follow the record before")
        return onsets


def open_edf(path: Path) -> EdfFile:
    """Reads the header and checks it against the file's size.

    Raises:
        UserError: not an EDF or BDF file, an unreadable header, or no samples.
    """
    size = path.stat().st_size
    warnings: list[str] = []
    with path.open("rb") as file:
        head = file.read(_HEAD)
        bdf = head[:1] == b"\xff"
        version = head[:8].strip(b" \0")
        if len(head) < _HEAD or not ((bdf and head[1:8] == b"BIOSEMI") or version in (b"0", b"")):
            raise UserError(
                f"{path} is not an EDF or BDF file",
                "its header does not begin with the version number; check the export",
            )
        if not version:
            warnings.append("the version field of the header is blank: read as EDF")
        try:
            count = int(head[252:256])
            block = b""
            if count > 0:
                block = file.read(count * _SIGNAL)
            if len(block) < count * _SIGNAL or count < 1:
                raise ValueError
            records, offset = int(head[236:244]), int(head[184:192])
            seconds = number_of(text_of(head[244:252]))
            signals, dropped, record_samples = read_signals(block, count)
        except ValueError:
            raise UserError(
                f"{path}: the EDF header is damaged", "copy the file again from the recorder, or export it again"
            ) from None
    width = 3 if bdf else 2
    record_bytes = record_samples * width
    offset = find_data(path, offset, (count + 1) * _HEAD, size, records, record_bytes, warnings)
    # A recorder that was switched off leaves −1, and copies may be cut off: the file's size counts, not the header.
    whole_records = 0
    if record_bytes:
        whole_records = (size - offset) // record_bytes
    if records != whole_records:
        claim = f"claims {records} records"
        if records < 0:
            claim = "does not state the number of records"
        warnings.append(f"the header {claim}, the file holds {whole_records} whole ones; those are read")
    annotations, usable = [], []
    for signal in signals:
        if is_annotation(signal.label):
            annotations.append(signal)
        else:
            usable.append(signal)
    if whole_records < 1 or (seconds <= 0 and usable):
        raise UserError(
            f"{path} holds no samples",
            "the file ends before the first record (truncated copy?) or its record length is 0",
        )
    if dropped:
        named = ", ".join(f"{label!r} ({why})" for label, why in dropped[:4])
        warnings.append(f"signals with an impossible header are left out: {named}")
    if not usable:
        raise UserError(f"{path} holds no usable signals", "give the recording itself, or export it again")
    for signal in annotations:
        if signal.label not in ("EDF Annotations", "BDF Annotations"):
            warnings.append(f"the signal {signal.label!r} is read as the annotations")
    flat = [signal.label for signal in usable if signal.physical_max == signal.physical_min]
    if flat:
        warnings.append(f"the header gives {', '.join(flat[:4])} no physical range: they are read as constant")
    reserved = head[192:236].decode("ascii", "replace")
    return EdfFile(
        path,
        usable,
        whole_records,
        seconds,
        start_time(head),
        reserved.startswith(("EDF+D", "BDF+D")),
        warnings,
        _annotation_signals=annotations,
        _bytes_a_sample=width,
        _record_samples=record_samples,
        _data_offset=offset,
    )
