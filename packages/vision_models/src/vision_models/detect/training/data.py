"""The loaders of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.boxes import BoxedImage
from core_runtime.training import EpochOrder, first_epoch
from vision_models.detect.cohort import Split
from vision_models.detect.model.inference import read_tensor
from vision_models.detect.training.recipe import Recipe

Target = dict[str, Tensor]


class BoxedPictures(Dataset[tuple[Tensor, Target]]):
    """Pictures with boxes; half of them mirrored under the seed, the epoch and their number, where `flip` is on."""

    def __init__(self, images: Sequence[BoxedImage], *, flip: bool = False, seed: int = 0) -> None:
        self.images, self.flip, self.seed = images, flip, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: Any) -> tuple[Tensor, Target]:
        epoch, number = item if isinstance(item, tuple) else (0, item)
        image = self.images[number]
        picture = read_tensor(image.file)
        # crowds are neither learned nor counted
        single = [place for place in range(len(image.boxes)) if not (image.crowds and image.crowds[place])]
        boxes = torch.tensor([image.boxes[place] for place in single], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([image.labels[place] + 1 for place in single], dtype=torch.int64)
        if self.flip and np.random.default_rng((self.seed, epoch, number)).random() < 0.5:
            picture = picture.flip(2)
            left, right = boxes[:, 0].clone(), boxes[:, 2].clone()
            boxes[:, 0], boxes[:, 2] = picture.shape[2] - right, picture.shape[2] - left
        return picture, {"boxes": boxes, "labels": labels}


class DetectionData(lightning.LightningDataModule):
    """The loaders of a split, with another order in every epoch. Training pictures without a box are passed over."""

    def __init__(self, split: Split, recipe: Recipe, *, workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        boxed = [image for image in split.train if image.boxes]
        self.train = BoxedPictures(boxed, flip=recipe.flip, seed=seed)
        self.val = BoxedPictures(split.val)
        self.batch, self.workers, self.seed = min(recipe.batch, len(boxed)), workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self), with_epoch=True)
        return DataLoader(
            self.train, self.batch, sampler=order, num_workers=self.workers, collate_fn=as_lists, drop_last=True
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch, num_workers=self.workers, collate_fn=as_lists)


def as_lists(items: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Pictures differ in size, so that a batch is a list."""
    return [picture for picture, _ in items], [target for _, target in items]
