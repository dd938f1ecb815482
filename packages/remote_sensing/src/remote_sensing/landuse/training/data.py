"""The loaders of a training run."""

from __future__ import annotations

from collections.abc import Sequence

import lightning
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from core_runtime.training import EpochOrder, first_epoch
from remote_sensing.landuse.cohort import Split
from remote_sensing.landuse.scenes.layouts import TileSet
from remote_sensing.landuse.scenes.tiles import LandUseTiles


class LandUseData(lightning.LightningDataModule):
    """The loaders of a split, with another order in every epoch (augmentation is part of the training step).

    Args:
        store: memory map of the tiles.
        tiles: their files and labels.
        split: the part of each tile.
        batch: tiles per step.
        workers: loader processes.
        seed: of the order.
    """

    def __init__(
        self,
        store: NDArray,
        tiles: TileSet,
        split: Split,
        *,
        batch: int,
        bands: Sequence[str] | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.split, self.batch, self.workers, self.seed = split, batch, workers, seed
        self.train = LandUseTiles(store, tiles, split.train, bands=bands)
        self.val = LandUseTiles(store, tiles, split.val, bands=bands)
        self.test = LandUseTiles(store, tiles, split.test, bands=bands)

    def train_dataloader(self) -> DataLoader:
        # batch norm needs two tiles: a last batch of one is dropped
        last = len(self.train) > self.batch and len(self.train) % self.batch == 1
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self))
        return DataLoader(self.train, self.batch, sampler=order, num_workers=self.workers, drop_last=last)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 2 * self.batch, num_workers=self.workers)
