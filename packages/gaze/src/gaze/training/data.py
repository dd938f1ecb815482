"""Training paths in batches."""

from collections.abc import Sequence
from typing import Any

import lightning
from torch.utils.data import DataLoader

from core_runtime.training import EpochOrder, first_epoch
from gaze.cohort.study import Trial
from gaze.model.batches import batch_trials
from gaze.scenes.scene import Scene


class _Paths:
    """The trials as a map-style data set."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = trials

    def __len__(self) -> int:
        return len(self.trials)

    def __getitem__(self, index: int) -> Trial:
        return self.trials[index]


class ScanpathData(lightning.LightningDataModule):
    """Training paths in an order of its own for every epoch, and validation paths."""

    def __init__(
        self,
        train: Sequence[Trial],
        valid: Sequence[Trial],
        scenes: dict[str, Scene],
        *,
        batch: int,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.valid, self.scenes = train, valid, scenes
        self.batch, self.workers, self.seed = batch, workers, seed

    def train_dataloader(self) -> DataLoader[Any]:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self))
        return self._loader(self.train, sampler=order)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.valid)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """The training step moves what it needs; trials are not tensors."""
        return batch

    def _loader(self, trials: Sequence[Trial], **more: Any) -> DataLoader[Any]:
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(
            _Paths(trials),  # pyright: ignore[reportArgumentType]
            batch_size=self.batch,
            collate_fn=self._collate,
            **workers,
            **more,
        )

    def _collate(self, trials: list[Trial]) -> Any:
        return (*batch_trials(trials, self.scenes), trials)
