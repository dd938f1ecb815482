"""The loaders of a training run: images decoded and augmented under the seed, the epoch and their number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import numpy as np
import torch
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.image_sets import ImageSet
from core_runtime.training import EpochOrder, first_epoch
from vision_models.classify.cohort import Split
from vision_models.classify.model.preparing import SMALL, Preprocessing
from vision_models.classify.training.recipe import Recipe

PADDING = 4  # pixels around a small image that random crops move over
_RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within it Python's, NumPy's and torch's global draws are a function of these numbers; afterwards they go on as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    draws = np.random.default_rng(numbers).integers(0, 2**31, 3).tolist()
    random.seed(draws[0])
    np.random.seed(draws[1])  # noqa: NPY002 (timm's transforms draw from the global generators)
    torch.manual_seed(draws[2])
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


class Augmentation:
    """Crops, flips and RandAugment of one picture, as DeiT has them (and DHVT for small images).

    Small images are padded by four pixels and cut at random; of larger ones a random part is scaled to the network's size.
    """

    def __init__(self, prepare: Preprocessing, recipe: Recipe) -> None:
        self.prepare, self.recipe = prepare, recipe
        fill = tuple(round(255 * value) for value in (*prepare.mean, *prepare.mean, *prepare.mean)[:3])
        self.policy = rand_augment_transform(
            _RAND_AUGMENT, {"translate_const": int(prepare.size * 0.45), "img_mean": fill}
        )
        for operation in self.policy.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
        self.part = RandomResizedCropAndInterpolation(prepare.size, interpolation="bicubic")

    def __call__(self, image: Any) -> Any:
        from PIL import ImageOps

        recipe, size = self.recipe, self.prepare.size
        if recipe.augment == "none":
            image = self.prepare.cut(image)
        elif size <= SMALL:
            padded = ImageOps.expand(self.prepare.cut(image), PADDING)
            left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
            image = padded.crop((left, top, left + size, top + size))
        else:
            image = self.part(image)
        if recipe.flip and recipe.augment != "none" and random.random() < 0.5:
            image = ImageOps.mirror(image)
        if recipe.augment == "deit":
            image = self.policy(image)
        return image


def posterize(image: Any, bits: int, **_: Any) -> Any:
    """An image with the first bits of each colour alone.

    timm's draws reach 0 bits, for which Pillow once gave black and now raises an error.
    """
    from PIL import Image, ImageOps

    if bits >= 8:
        return image
    if bits < 1:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits)


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """Images with labels; an item is asked for as (epoch, place), so that its draws are its own in every epoch."""

    def __init__(
        self, images: ImageSet, numbers: Sequence[int], prepare: Preprocessing, recipe: Recipe, seed: int
    ) -> None:
        self.images, self.numbers, self.prepare, self.seed = images, numbers, prepare, seed
        self.augment = Augmentation(prepare, recipe)
        self.repeats = recipe.repeats

    def __len__(self) -> int:
        return len(self.numbers) * self.repeats

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, place = item
        number = self.numbers[place // self.repeats]
        with seeded(self.seed, epoch, place):
            image = self.augment(self.images.picture(number).image)
        return self.prepare.bytes_of(image), self.images.labels[number]


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images with labels, as they are evaluated."""

    def __init__(self, images: ImageSet, numbers: Sequence[int], prepare: Preprocessing) -> None:
        self.images, self.numbers, self.prepare = images, numbers, prepare

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        number = self.numbers[place]
        image = self.prepare.cut(self.images.picture(number).image)
        return self.prepare.bytes_of(image), self.images.labels[number]


class ClassificationData(lightning.LightningDataModule):
    """The loaders of a split, with another order in every epoch."""

    def __init__(
        self, images: ImageSet, split: Split, prepare: Preprocessing, recipe: Recipe, *, workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.train = TrainingImages(images, split.train, prepare, recipe, seed)
        self.val = PlainImages(images, split.val, prepare)
        self.batch, self.workers, self.seed = min(recipe.batch, len(self.train)), workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self), with_epoch=True)
        # Mixup pairs the images of a batch, so it must be even; batch norm needs two
        drop = len(self.train) % self.batch % 2 == 1
        batch = self.batch - self.batch % 2
        return DataLoader(self.train, batch, sampler=order, num_workers=self.workers, drop_last=drop)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 2 * self.batch, num_workers=self.workers)
