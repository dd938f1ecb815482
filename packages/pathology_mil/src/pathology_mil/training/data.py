"""Bags for training: labelled slides with feature files, read one bag at a time, and the LightningDataModule around them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.training import EpochOrder, first_epoch
from pathology_mil.cohort.cohort import Cohort
from pathology_mil.cohort.splits import Split
from pathology_mil.features.bags import read_features


class Batch(NamedTuple):
    """One or several bags, packed: instances one after another."""

    features: Tensor  # [instances, F], in the precision of the file
    segments: Tensor  # [instances], number of the bag within the batch
    labels: Tensor  # [bags]
    lengths: list[int]
    slides: list[str]


class BagDataset(Dataset):
    """(features [N, F], class number, slide id) of the given slides, read on access."""

    def __init__(self, cohort: Cohort, slides: Sequence[str]) -> None:
        self.cohort, self.slides = cohort, list(slides)

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        slide = self.slides[index]
        features = read_features(self.cohort.features(slide), slide)
        return features, self.cohort.labels.label[slide], slide


def pack(bags: Sequence[tuple[Tensor, int, str]]) -> Batch:
    """Bags packed without padding."""
    features, labels, slides = zip(*bags, strict=True)
    lengths = [len(matrix) for matrix in features]
    segments = torch.arange(len(bags)).repeat_interleave(torch.tensor(lengths))
    return Batch(torch.cat(features), segments, torch.tensor(labels), lengths, list(slides))


class BagData(lightning.LightningDataModule):
    """Training, validation and test bags of one split.

    Args:
        batch: bags per step (packed); a last incomplete batch is dropped.
        workers: processes that read ahead.
    """

    def __init__(self, cohort: Cohort, split: Split, *, batch: int = 1, workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.cohort, self.split, self.batch, self.workers, self.seed = cohort, split, batch, workers, seed

    def train_dataloader(self) -> DataLoader:
        data = BagDataset(self.cohort, self.split.train)
        order = EpochOrder(len(data), self.seed, epoch=first_epoch(self))
        return self._loader(data, batch=min(self.batch, len(data)), sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader | list:
        if not self.split.val:
            return []
        return self._loader(BagDataset(self.cohort, self.split.val))

    def test_dataloader(self) -> DataLoader | list:
        if not self.split.test:
            return []
        return self._loader(BagDataset(self.cohort, self.split.test))

    def _loader(self, data: BagDataset, *, batch: int = 1, **options: Any) -> DataLoader:
        # spawned: HDF5's and torch's threads do not survive a fork
        if self.workers:
            options |= {"num_workers": self.workers, "persistent_workers": True, "multiprocessing_context": "spawn"}
        return DataLoader(data, batch_size=batch, collate_fn=pack, **options)
