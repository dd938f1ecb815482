"""What is learned from, as tensors, in an order of its own for every epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.pictures import open_picture
from core_runtime.training import EpochOrder, first_epoch
from vision_language.items.item import Item
from vision_language.model.grounding import to_pixels
from vision_language.model.sentences import SentenceEncoder, usable_sentence


class GroundingSet(Dataset):
    """(pixels, sentence vector, mask) of each item; a picture is opened once and kept while it is small."""

    def __init__(self, items: Sequence[Item], encoder: SentenceEncoder, side: int) -> None:
        self.items, self.side = items, side
        self.vectors = encoder.encode([usable_sentence(item.sentence) for item in items])
        self._pixels: dict[Any, tuple[Tensor, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        item = self.items[number]
        if item.image not in self._pixels:
            image = open_picture(item.image).image
            self._pixels[item.image] = to_pixels(image, self.side), image.size
        pixels, (width, height) = self._pixels[item.image]
        mask = item.mask_in(width, height)
        return pixels, self.vectors[number], resize_mask(mask, self.side)


def resize_mask(mask: np.ndarray, side: int) -> Tensor:
    """A mask on the resized picture, by nearest pixels; a thing smaller than a pixel keeps one."""
    height, width = mask.shape
    rows = ((np.arange(side) + 0.5) * height / side).astype(int)
    columns = ((np.arange(side) + 0.5) * width / side).astype(int)
    small = mask[rows][:, columns]
    if mask.any() and not small.any():
        ys, xs = np.nonzero(mask)
        small[int(ys.mean() * side / height), int(xs.mean() * side / width)] = True
    return torch.from_numpy(small.astype(np.float32))


class Loaders(lightning.LightningDataModule):
    """Training and validation items."""

    def __init__(self, train: Dataset, valid: Dataset | None, batch: int, workers: int, seed: int) -> None:
        super().__init__()
        self.train, self.valid, self.batch, self.workers, self.seed = train, valid, batch, workers, seed

    def train_dataloader(self) -> DataLoader:
        count = len(self.train)  # pyright: ignore[reportArgumentType]
        order = EpochOrder(count, self.seed, epoch=first_epoch(self))
        # a last batch of one has no statistics to normalise by
        drop = count % self.batch == 1 and count > 1
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(self.train, batch_size=self.batch, sampler=order, drop_last=drop, **workers)

    def val_dataloader(self) -> Any:
        return [] if self.valid is None else DataLoader(self.valid, batch_size=self.batch)


def hold_out(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Items that learn and items that choose the epoch, split by group (picture)."""
    groups = sorted({item.group for item in items})
    random.Random(seed).shuffle(groups)
    count = round(share * len(groups))
    held_out = set(groups[:count])
    return [item for item in items if item.group not in held_out], [item for item in items if item.group in held_out]
