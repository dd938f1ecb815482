"""Tiles for training: torchgeo-compatible samples from the memory map, and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from core_runtime.training import EpochOrder, first_epoch
from remote_sensing.landuse.bands import RGB, picture
from remote_sensing.landuse.layouts import TileSet
from remote_sensing.landuse.splits import Split


class LandUseTiles(Dataset):
    """Tiles as torchgeo gives them: ``{"image": float32 (bands, height, width), "label": int64}``, pixel values as in the files.

    Args:
        store: memory map (tiles, bands, height, width).
        tiles: what they are.
        numbers: which of them, in order; all if left out.
        bands: a subset by name, in the order wanted (of 13-band tiles).
    """

    def __init__(
        self,
        store: NDArray,
        tiles: TileSet,
        numbers: Sequence[int] | None = None,
        *,
        bands: Sequence[str] | None = None,
    ) -> None:
        self.store, self.tiles = store, tiles
        self.numbers = list(range(len(tiles.files)) if numbers is None else numbers)
        self.bands = tuple(bands or tiles.bands)
        unknown = [b for b in self.bands if b not in tiles.bands]
        if unknown:
            raise ValueError(f"the tiles have the bands {', '.join(tiles.bands)}, not {', '.join(unknown)}")
        whole = self.bands == tiles.bands
        self.picked = None if whole else [tiles.bands.index(b) for b in self.bands]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self.numbers[index]
        raw = self.store[number] if self.picked is None else self.store[number][self.picked]
        image = torch.from_numpy(raw.astype("float32"))
        return {"image": image, "label": torch.tensor(self.tiles.labels[number])}

    def plot(self, sample: dict[str, Any], title: str = "") -> Any:
        """A matplotlib figure of a sample in natural colours (reflectances from 0 to 3000, as torchgeo shows them)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3, 3.2), layout="constrained")
        axes = figure.subplots()
        image = sample["image"]
        if self.bands == RGB:
            shown = image / 255
        else:
            order = [self.bands.index(b) for b in ("B04", "B03", "B02") if b in self.bands] or [0, 0, 0]
            shown = (image[order] / 3000).clamp(0, 1)
        axes.imshow(shown.permute(1, 2, 0).numpy())
        axes.set_axis_off()
        axes.set_title(title or self.tiles.classes[int(sample["label"])], fontsize=9)
        return figure


class LandUseData(lightning.LightningDataModule):
    """The loaders of a split, with an order of its own for every epoch (augmentation is the training step's).

    Args:
        store: memory map of the tiles.
        tiles: what they are.
        split: which part each is in.
        batch: tiles a step.
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
        last = len(self.train) > self.batch and len(self.train) % self.batch == 1  # batch norm needs two tiles
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self))
        return DataLoader(self.train, self.batch, sampler=order, num_workers=self.workers, drop_last=last)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 2 * self.batch, num_workers=self.workers)


def shown(raw: NDArray, bands: Sequence[str]) -> NDArray:
    """A raw tile or scene window (bands, height, width) as an 8-bit picture (height, width, 3)."""
    names = list(bands)
    if tuple(names) == RGB:
        return raw.astype("uint8").transpose(1, 2, 0)
    order = [names.index(b) for b in ("B04", "B03", "B02") if b in names]
    order = order if len(order) == 3 else [0, 0, 0]
    return picture(raw[order]).transpose(1, 2, 0)
