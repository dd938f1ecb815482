"""Labelled signals as tensors, and the order in which they are learned."""

import lightning
from torch.utils.data import DataLoader, TensorDataset

from core_runtime.training import EpochOrder, first_epoch


class BurstData(lightning.LightningDataModule):
    """The training signals, in an order of its own for every epoch."""

    def __init__(self, data: TensorDataset, workers: int, seed: int) -> None:
        super().__init__()
        self.data, self.workers, self.seed = data, workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.data), self.seed, epoch=first_epoch(self))
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(self.data, batch_size=16, sampler=order, **workers)
