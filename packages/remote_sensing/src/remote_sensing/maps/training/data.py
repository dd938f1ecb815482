"""Tiles as tensors, and their order in training."""

from __future__ import annotations

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.errors import UserError
from core_runtime.training import EpochOrder, first_epoch
from remote_sensing.maps.sheets.examples import Examples
from remote_sensing.maps.training.augment import augment


class MapTiles(Dataset):
    """Examples in memory as tensors, augmented by seed, epoch and number.

    Args:
        examples: the tiles.
        augmented: mirror and turn them.
        legacy: as the published code does, mistakes included.
        seed: of the augmentation.

    Raises:
        UserError: a tile cannot be used, or has another size than the others.
    """

    def __init__(self, examples: Examples, *, augmented: bool = False, legacy: bool = False, seed: int = 0) -> None:
        self.items = [examples.read(name) for name in examples.names]
        # one tile of each size, for the message
        sizes = {label.shape: name for name, (_, label) in zip(examples.names, self.items, strict=True)}
        if len(sizes) > 1:
            shown = ", ".join(f"{name} is {w} × {h}" for (h, w), name in list(sizes.items())[:2])
            raise UserError(f"the tiles have different sizes: {shown}", "all tiles need the same size")
        self.augmented, self.legacy, self.seed = augmented, legacy, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, number = index if isinstance(index, tuple) else (0, index)
        image, label = self.items[number]
        if self.augmented:
            rng = np.random.default_rng([self.seed, epoch, number])
            image, label = augment(image, label, rng, legacy=self.legacy)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


class MapData(lightning.LightningDataModule):
    """The loaders, with an order and an augmentation of its own for every epoch."""

    def __init__(self, train: MapTiles, val: MapTiles, *, batch: int, seed: int, workers: int = 0) -> None:
        super().__init__()
        self.train, self.val, self.batch, self.seed, self.workers = train, val, batch, seed, workers

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self), with_epoch=True)
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(self.train, min(self.batch, len(self.train)), sampler=order, **workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch)
