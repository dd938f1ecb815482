"""Batches of the learners: class-balanced, each from its own cluster, interleaved; a function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.training import first_epoch
from medical_segmentation.similar.images import ImageSet
from medical_segmentation.similar.model.folder import normalised
from medical_segmentation.similar.options import Recipe

ALL = -1  # in place of a learner: the loss on the whole embedding


class Pictures(Dataset):
    """Augmented training images by (learner, number, seed of the draw)."""

    def __init__(self, images: ImageSet, size: int) -> None:
        self.images, self.size = images, size

    def __getitem__(self, item: tuple[int, int, int]) -> dict[str, Any]:
        learner, number, seed = item
        pixels = random_crop(self.images.read(number), self.size, np.random.default_rng(seed))
        return {"image": pixels, "label": self.images.labels[number], "learner": learner}


def random_crop(picture: NDArray[np.uint8], size: int, rng: np.random.Generator) -> Tensor:
    """A crop of 8 % to all of the area and ratio 3/4 to 4/3, resized, mirrored either way at even odds (the published training transform)."""
    height, width = picture.shape[:2]
    box = (0, 0, height, width)
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            box = (int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
            break
    top, left, h, w = box
    part = torch.from_numpy(np.ascontiguousarray(picture[top : top + h, left : left + w])).permute(2, 0, 1).float()
    pixels = F.interpolate(part[None], size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    for axis in (1, 2):
        if rng.random() < 0.5:
            pixels = pixels.flip(axis)
    return normalised(pixels)


def balanced_batches(
    numbers: Sequence[int], labels: Sequence[int], batch: int, per_class: int, rng: np.random.Generator
) -> list[list[int]]:
    """Batches of `per_class` images of each of ``batch / per_class`` random classes.

    Classes repeat only where there are fewer, images only where a class has fewer.
    """
    by_class: dict[int, list[int]] = {}
    for number in numbers:
        by_class.setdefault(labels[number], []).append(number)
    classes = sorted(by_class)
    wanted = max(1, batch // per_class)
    batches = []
    for _ in range(max(1, len(numbers) // batch)):
        chosen = rng.choice(classes, wanted, replace=len(classes) < wanted)
        members: list[int] = []
        for label in chosen.tolist():
            own = by_class[label]
            members += rng.choice(own, per_class, replace=len(own) < per_class).tolist()
        batches.append(members)
    return batches


def interleaved(batches: Sequence[Sequence[list[int]]]) -> list[tuple[int, list[int]]]:
    """One batch of each learner in turn; shorter ones begin again until the longest ends."""
    rounds = max((len(own) for own in batches), default=0)
    order = []
    for place in range(rounds):
        for learner, own in enumerate(batches):
            if own:
                order.append((learner, own[place % len(own)]))
    return order


class SubspaceData(lightning.LightningDataModule):
    """The loader of every epoch, made from the clusters as they are then."""

    def __init__(
        self, images: ImageSet, numbers: Sequence[int], recipe: Recipe, *, size: int, workers: int, seed: int
    ) -> None:
        super().__init__()
        self.images, self.numbers, self.recipe = images, list(numbers), recipe
        self.pictures, self.workers, self.seed = Pictures(images, size), workers, seed

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        training: Any = self.trainer.lightning_module
        epoch = first_epoch(self)
        clusters = training.clusters_of(epoch)
        rng = np.random.default_rng((self.seed, epoch, 1))
        recipe, labels = self.recipe, self.images.labels
        if clusters is None:
            batches = [
                (ALL, own) for own in balanced_batches(self.numbers, labels, recipe.batch, recipe.per_class, rng)
            ]
        else:
            by_learner = []
            for learner in range(int(clusters.max()) + 1):
                members = [
                    number for number, own in zip(self.numbers, clusters.tolist(), strict=True) if own == learner
                ]
                # one class alone has no negatives: nothing can be learned from such a cluster
                usable = len({labels[number] for number in members}) > 1
                by_learner.append(
                    balanced_batches(members, labels, recipe.batch, recipe.per_class, rng) if usable else []
                )
            batches = interleaved(by_learner)
            if not batches:
                batches = [
                    (ALL, own) for own in balanced_batches(self.numbers, labels, recipe.batch, recipe.per_class, rng)
                ]
        items = []
        for learner, members in batches:
            seeds = rng.integers(2**31, size=len(members)).tolist()
            items.append([(learner, number, seed) for number, seed in zip(members, seeds, strict=True)])
        return DataLoader(self.pictures, batch_sampler=items, num_workers=self.workers)
