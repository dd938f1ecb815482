"""Training data: random windows of prepared recordings, a batch from one patient at a time, seizures and the rest in balance.

Every draw for a batch is a function of the seed and the batch's number, so that a resumed run gets the same batches as an uninterrupted one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from core_runtime.errors import UserError
from core_runtime.training import first_epoch
from ieeg.training.sources import Source

FINE = 25  # window starts per segment, near seizures


def labels(
    begin: NDArray[np.floating], seizures: NDArray[np.floating], *, window: int, seconds: float
) -> NDArray[np.bool_]:
    """Whether windows are positive: their last segment, ends included, touches a seizure (the published rule).

    Args:
        begin: first second of each window.
        seizures: (n, 2) onset and offset in seconds, ends included.
        window, seconds: segments of a window, and the length of one.
    """
    low = np.asarray(begin)[:, None] + (window - 1) * seconds
    return np.any((low <= seizures[:, 1]) & (seizures[:, 0] <= low + seconds), axis=1)


class Batch(NamedTuple):
    """Windows of one patient.

    Attributes:
        x: (windows, time, channels, samples), microvolts.
        y: 1 where the last segment touches a seizure.
        patient: name of the patient.
    """

    x: Float[Tensor, "windows time channels samples"]
    y: Int[Tensor, " windows"]
    patient: str


@dataclass
class Patient:
    """The windows of one patient's recordings: (source number, start in FINE-ths of a segment)."""

    sources: list[Source]
    window: int
    slow_down: bool = True
    positive: NDArray[np.int64] = field(init=False)
    negative: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        positive: list[NDArray[np.int64]] = []
        negative: list[NDArray[np.int64]] = []
        for number, source in enumerate(self.sources):
            last = (source.signals.segment_count - self.window) * FINE
            starts = np.arange(0, last + 1, FINE)
            if self.slow_down and len(starts):  # seizures are rare: near them, windows begin at finer steps
                starts = np.unique(np.concatenate([starts, self._starts_near_seizures(source, last)]))
            seconds = starts * (source.seconds / FINE)
            is_positive = labels(seconds, source.seizures, window=self.window, seconds=source.seconds)
            rows = np.stack([np.full_like(starts, number), starts], 1)
            positive.append(rows[is_positive])
            negative.append(rows[~is_positive])
        self.positive, self.negative = np.concatenate(positive), np.concatenate(negative)

    def _starts_near_seizures(self, source: Source, last: int) -> NDArray[np.int64]:
        """Starts in fine steps whose last segment is within two windows of a seizure's ends."""
        step, around = source.seconds / FINE, 2 * self.window * source.seconds
        behind = (self.window - 1) * source.seconds  # from a window's start to its last segment
        starts = np.zeros(0, np.int64)
        for onset, offset in source.seizures:
            first = int((onset - around - behind) / step)
            end = int((offset + around - behind) / step) + 1
            starts = np.concatenate([starts, np.arange(first, end)])
        return starts[(starts >= 0) & (starts <= last)]

    def __len__(self) -> int:
        return len(self.positive) + len(self.negative)

    def read(self, rows: NDArray[np.int64], channels: int, random: np.random.Generator | None) -> Tensor:
        """Windows, cut to `channels` channels from a random one on (from the first without `random`)."""
        windows = []
        for number, start in rows:
            signals = self.sources[number].signals
            first, shift = divmod(int(start), FINE)
            segments = signals.segments(first, first + self.window + (shift > 0))
            spare = segments.shape[1] - channels
            offset = 0
            if random is not None and spare:
                offset = int(random.integers(spare + 1))
            segments = segments[:, offset : offset + channels]
            if shift:
                # A window that begins inside a segment: the segments are joined, cut, and divided again.
                samples = segments.shape[-1]
                signal = segments.transpose(1, 0, 2).reshape(channels, -1)
                begin = shift * samples // FINE
                signal = signal[:, begin : begin + self.window * samples]
                segments = signal.reshape(channels, self.window, samples).transpose(1, 0, 2)
            windows.append(torch.from_numpy(np.ascontiguousarray(segments)))
        return torch.stack(windows)

    @property
    def channels(self) -> int:
        """The smallest number of channels of the recordings."""
        return min(len(source.signals.names) for source in self.sources)


class WindowData(Dataset[Batch]):
    """Batches by number: item n is a whole batch, drawn from the seed and n.

    Args:
        sources: recordings; grouped by patient here.
        window: segments T.
        batch: windows.
        balanced: half of the windows positive if the patient has any; otherwise as they come.
        slow_down: finer steps around seizures.
        max_channels: windows are cut to at most this many channels, from a random one on.
        seed: of every draw.

    Raises:
        UserError: no recording is as long as a window.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        window: int,
        batch: int,
        balanced: bool = True,
        slow_down: bool = True,
        max_channels: int = 128,
        seed: int = 0,
    ) -> None:
        grouped: dict[str, list[Source]] = {}
        for source in sources:
            if source.signals.segment_count >= window:
                grouped.setdefault(source.patient, []).append(source)
        if not grouped:
            longest = max((source.signals.segment_count for source in sources), default=0)
            raise UserError(
                f"no recording holds a window of {window} segments (the longest has {longest})",
                "train on longer recordings, or with a shorter --window",
            )
        self.patients = {name: Patient(group, window, slow_down) for name, group in sorted(grouped.items())}
        self.batch, self.balanced, self.max_channels, self.seed = batch, balanced, max_channels, seed

    def __getitem__(self, number: int) -> Batch:
        random = np.random.default_rng([self.seed, number])
        name = list(self.patients)[random.integers(len(self.patients))]
        patient = self.patients[name]
        # A coin for each window, not half of the batch: the number of positives varies, as in the published loader.
        if self.balanced and len(patient.positive) and len(patient.negative):
            drawn = []
            for is_positive in random.random(self.batch) < 0.5:
                windows = patient.positive if is_positive else patient.negative
                drawn.append(windows[random.integers(len(windows))])
            rows = np.stack(drawn)
        else:
            windows = np.concatenate([patient.negative, patient.positive])
            rows = windows[random.integers(len(windows), size=self.batch)]
        x = patient.read(rows, min(patient.channels, self.max_channels), random)
        return Batch(x, _labels_of(patient, rows), name)


def _labels_of(patient: Patient, rows: NDArray[np.int64]) -> Tensor:
    """1 for windows that are positive, 0 for the others, in the order of the rows."""
    positive = []
    for number, start in rows:
        source = patient.sources[number]
        begin = np.array([start * (source.seconds / FINE)])
        touches_seizure = labels(begin, source.seizures, window=patient.window, seconds=source.seconds)
        positive.append(bool(touches_seizure[0]))
    return torch.tensor(positive, dtype=torch.long)


class FixedWindows(Dataset[Batch]):
    """Windows for validation: up to `most` per patient, spread evenly over positives and over negatives; always the same ones."""

    def __init__(
        self, sources: Sequence[Source], *, window: int, batch: int, max_channels: int, most: int = 256
    ) -> None:
        data = WindowData(sources, window=window, batch=batch, slow_down=False, max_channels=max_channels)
        self.items: list[tuple[str, NDArray[np.int64]]] = []
        for name, patient in data.patients.items():
            positive, negative = _spread(patient.positive, most // 2), _spread(patient.negative, most // 2)
            rows = np.concatenate([positive, negative])
            for first in range(0, len(rows), batch):
                self.items.append((name, rows[first : first + batch]))
        self.data = data

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Batch:
        name, rows = self.items[number]
        patient = self.data.patients[name]
        x = patient.read(rows, min(patient.channels, self.data.max_channels), None)
        return Batch(x, _labels_of(patient, rows), name)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)]


class BatchNumbers(Sampler[int]):
    """The numbers of an epoch's batches; every process takes its share, and no number occurs twice.

    Args:
        an_epoch: batches per epoch and process.
        epoch: the first one.
    """

    def __init__(self, an_epoch: int, epoch: int = 0) -> None:
        self.an_epoch, self.epoch = an_epoch, epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.an_epoch

    def __iter__(self) -> Iterator[int]:
        rank, world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        # processes take turns, so that more of them see other batches, not the same ones again
        first = self.epoch * self.an_epoch * world
        return iter(range(first + rank, first + self.an_epoch * world, world))


class WindowModule(lightning.LightningDataModule):
    """The loaders of a run."""

    def __init__(self, train: WindowData, judge: FixedWindows | None, *, batches: int, workers: int = 0) -> None:
        super().__init__()
        self.train, self.judge, self.batches, self.workers = train, judge, batches, workers

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, BatchNumbers(self.batches, first_epoch(self)))

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        if self.judge is None:
            return []
        return self._loader(self.judge, None)

    def _loader(self, data: Dataset[Batch], sampler: Sampler[int] | None) -> DataLoader[Batch]:
        context = None
        if self.workers:
            context = "spawn"  # HDF5's and torch's threads do not survive a fork
        return DataLoader(
            data,
            batch_size=None,  # an item is a whole batch
            sampler=sampler,
            num_workers=self.workers,
            multiprocessing_context=context,
            persistent_workers=self.workers > 0,
        )
