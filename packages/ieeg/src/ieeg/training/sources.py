"""The recordings of a training: prepared once into files, or read on demand."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from core_runtime.terminal import note, track
from ieeg.cohort import Case
from ieeg.model.inference import Signals
from ieeg.recordings.opening import open_recording
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.settings import Settings


@dataclass(frozen=True)
class Source:
    """One recording of training or validation.

    Attributes:
        name, patient: batches come from one patient; splits are by patient.
        signals: prepared segments.
        seizures: (seizures, 2) seconds from the first sample, onset and offset.
        seconds: length of a segment.
    """

    name: str
    patient: str
    signals: Signals
    seizures: NDArray[np.float64]
    seconds: float

    def __post_init__(self) -> None:
        shape = np.shape(self.seizures)
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(f"{self.name}: seizures must be (n, 2) seconds; got {shape}")


class Stored:
    """Prepared segments in a file (``.npy``, float32), memory-mapped: prepared once, read often."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, list(names)

    @cached_property
    def _data(self) -> NDArray[np.float32]:
        return np.load(self.path, mmap_mode="r")

    def __getstate__(self) -> dict[str, object]:
        # without the map: each worker process opens its own
        return {"path": self.path, "names": self.names}

    @property
    def segment_count(self) -> int:
        return self._data.shape[0]

    def segments(self, first: int, last: int) -> NDArray[np.float32]:
        return np.array(self._data[first:last])


def store(signals: Signals, path: Path, *, block: int = 64) -> Stored:
    """Writes all segments of a prepared recording to `path`, whole or not at all; an existing file is used."""
    if path.exists():
        return Stored(path, signals.names)
    samples = signals.segments(0, 1).shape[-1]
    shape = (signals.segment_count, len(signals.names), samples)
    with writing(path) as part:
        out = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        for start in range(0, signals.segment_count, block):
            stop = min(start + block, signals.segment_count)
            out[start:stop] = signals.segments(start, stop)
        out.flush()
        del out  # closes the map before the file is renamed
    return Stored(path, signals.names)


class OnDisk:
    """A prepared recording that is opened on first use, so that it can be sent to other processes."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "settings": self.settings}

    @cached_property
    def _prepared(self) -> Prepared:
        return Prepared(open_recording(self.path), self.settings)

    @property
    def names(self) -> list[str]:
        return self._prepared.names

    @property
    def segment_count(self) -> int:
        return self._prepared.segment_count

    def segments(self, first: int, last: int) -> NDArray[np.float32]:
        return self._prepared.segments(first, last)


def prepare_sources(
    cases: Sequence[Case], settings: Settings, folder: Path, *, limit: float = 20e9
) -> tuple[list[Source], dict[str, str]]:
    """The recordings as training data, prepared once into `folder` if they take fewer than `limit` bytes in all, else read on demand.

    Returns:
        The sources, and the recordings that cannot be prepared, with the reason.
    """
    usable: list[tuple[Case, OnDisk]] = []
    left_out: dict[str, str] = {}
    size = 0  # bytes
    for case in cases:
        recording = OnDisk(case.path, settings)
        try:
            channels = len(recording.names)  # opens it
        except UserError as error:
            left_out[case.name] = error.message
            continue
        size += recording.segment_count * channels * settings.segment_samples * 4  # float32
        usable.append((case, recording))
    folder.mkdir(parents=True, exist_ok=True)
    fits_on_disk = size <= min(limit, 0.8 * shutil.disk_usage(folder).free)  # never fill a disk that others use
    if not fits_on_disk:
        note.print(f"{size / 1e9:.0f} GB of prepared data: read from the recordings in every step (--store-limit)")
    sources = []
    cases_to_store = usable
    if fits_on_disk:
        cases_to_store = track(usable, "Preparing recordings")
    for case, recording in cases_to_store:
        signals: Signals = recording
        if fits_on_disk:
            name = re.sub(r"[^\w.-]+", "_", case.name)
            signals = store(recording, folder / f"{name}.npy")
        sources.append(Source(case.name, case.patient, signals, case.seizures, settings.segment))
    return sources, left_out
