"""Labelled signals as tensors, and the order in which they are learned."""

from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from core_runtime.training import EpochOrder, first_epoch
from newdomain.cohort import read_labels
from newdomain.signals.formats import find_signals
from newdomain.signals.reading import read_signal


class BurstData(lightning.LightningDataModule):
    """The training signals, in an order of its own for every epoch."""

    def __init__(self, data: TensorDataset, workers: int, seed: int) -> None:
        super().__init__()
        self.data, self.workers, self.seed = data, workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.data), self.seed, epoch=first_epoch(self))
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(self.data, batch_size=16, sampler=order, **workers)


def load_data(folder: Path) -> TensorDataset:
    """All labelled signals of a folder, cut to the shortest one's windows.

    Raises:
        UserError: no labels, no signals, or an unusable one.
    """
    labels = read_labels(folder)
    files = {p.stem: p for p in find_signals(folder)}
    bags = [torch.from_numpy(read_signal(files[name]).windows()) for name in labels]
    shortest = min(len(bag) for bag in bags)
    return TensorDataset(torch.stack([bag[:shortest] for bag in bags]), torch.tensor(list(labels.values())))
