"""Training patches: prepared volumes on disk, crops about the organs, augmentation by MONAI."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from core_runtime.folders import writing
from core_runtime.identity import identity
from core_runtime.terminal import track
from core_runtime.training import EpochOrder, first_epoch
from medical_segmentation.organs.cohort.dataset import Case, Dataset
from medical_segmentation.organs.model.networks import quiet_monai
from medical_segmentation.organs.model.preparation import Preparation, prepare, prepare_labels, with_neighbours
from medical_segmentation.volumes.volume import ReadingOptions

FOREGROUND = 0.6  # share of patches that are cut about a voxel of an organ


class PreparedCase:
    """A prepared volume and its labels as memory maps.

    Attributes:
        image: (channels, a, b, depth).
        labels: (a, b, depth).
        places: a sample of voxels of every class, for crops.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.image: NDArray[np.float32] = np.load(folder / "image.npy", mmap_mode="r")
        self.labels: NDArray[np.uint8] = np.load(folder / "labels.npy", mmap_mode="r")
        with np.load(folder / "places.npz") as stored:
            self.places = {int(name): stored[name] for name in stored.files}


def prepare_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    preparation: Preparation,
    cache: Path,
    reading: ReadingOptions = ReadingOptions(),
) -> list[PreparedCase]:
    """The prepared volumes of cases, made once: a volume, labels or preparation that changed is prepared again."""
    prepared = []
    for case in track(cases, "Preparing volumes", len(cases)):
        key = {
            "images": [identity(path) for path in case.images],
            "labels": identity(case.labels) if case.labels else None,
            "preparation": preparation.plain() | {"window": None, "slices": None},
            "mapping": sorted((dataset.mapping or {}).items()),
            "reading": [reading.series, reading.channel, reading.spacing, reading.fill],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        place = cache / digest
        if not place.is_dir():
            _write_prepared(dataset, case, preparation, place, reading)
        prepared.append(PreparedCase(case, place))
    return prepared


def _write_prepared(
    dataset: Dataset, case: Case, preparation: Preparation, place: Path, reading: ReadingOptions
) -> None:
    volume = dataset.image(case, reading)
    labels = dataset.labels(case, volume)
    ready = prepare(volume, preparation)
    targets = prepare_labels(labels, ready)
    rng = np.random.default_rng(0)
    places = {}
    for number in np.unique(targets).tolist():
        if number:
            found = np.argwhere(targets == number)
            places[str(number)] = found[rng.choice(len(found), min(len(found), 2000), replace=False)]
    with writing(place) as part:
        part.mkdir()
        np.save(part / "image.npy", ready.image)
        np.save(part / "labels.npy", targets)
        np.savez(part / "places.npz", **places)


class Patches(TorchDataset):
    """Patches by (epoch, number): a function of the seed, the epoch and the number, so that a resumed run sees the same ones.

    Args:
        cases: prepared volumes.
        preparation: their sizes.
        per_volume: patches of each volume per epoch; in 2-D one per slice.
        augment: flips, rotations and brightness.
        seed: of all draws.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], preparation: Preparation, *, per_volume: int, augment: bool, seed: int
    ) -> None:
        self.cases, self.preparation, self.seed = cases, preparation, seed
        self.owners: list[int] = []
        for number, case in enumerate(cases):
            count = case.labels.shape[2] if preparation.dims == 2 else per_volume
            self.owners += [number] * count
        self.augment = _augmentation(preparation.dims) if augment else None

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, number = item
        rng = np.random.default_rng((self.seed, epoch, number))
        case = self.cases[self.owners[number]]
        image, labels = self._cut(case, rng)
        if self.augment is None:
            return {"image": torch.from_numpy(image), "label": torch.from_numpy(labels.astype(np.int64))}
        self.augment.set_random_state(seed=int(rng.integers(2**31)))
        changed: Any = self.augment({"image": image, "label": labels[None].astype(np.float32)})
        image, labels = torch.as_tensor(changed["image"]), torch.as_tensor(changed["label"])
        return {
            "image": torch.as_tensor(np.asarray(image)).float(),
            "label": torch.as_tensor(np.asarray(labels))[0].round().long(),
        }

    def _cut(self, case: PreparedCase, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A patch about an organ, or anywhere."""
        sides = case.labels.shape
        centre = np.array([rng.integers(side) for side in sides])
        if case.places and rng.random() < FOREGROUND:
            places = case.places[int(rng.choice(sorted(case.places)))]
            centre = places[rng.integers(len(places))]
        window = self.preparation.window
        jitter = [int(rng.integers(-side // 8, side // 8 + 1)) for side in window]
        corners = []
        for axis, side in enumerate(window):
            wanted = int(centre[axis]) + jitter[axis] - side // 2
            corners.append(min(max(wanted, 0), max(sides[axis] - side, 0)))
        box = tuple(slice(corner, corner + side) for corner, side in zip(corners, window, strict=True))
        if self.preparation.dims == 3:
            return _padded(np.array(case.image[(slice(None), *box)]), window), _padded(
                np.array(case.labels[box]), window
            )
        k = int(centre[2])
        image = with_neighbours(case.image[(slice(None), *box)], k, self.preparation.slices)
        return _padded(image, window), _padded(np.array(case.labels[(*box, k)]), window)


def _padded(patch: NDArray, window: Sequence[int]) -> NDArray:
    """The patch with its far ends filled up: labels with background, images with their least value."""
    axes = patch.ndim - len(window)
    missing = [(0, 0)] * axes + [(0, max(0, side - own)) for side, own in zip(window, patch.shape[axes:], strict=True)]
    if not any(after for _, after in missing):
        return np.ascontiguousarray(patch)
    return np.pad(patch, missing, constant_values=0 if patch.dtype == np.uint8 else patch.min())


def _augmentation(dims: int) -> Any:
    """Flips and rotations by up to 30° at even odds, as published; brightness and contrast beside them."""
    with quiet_monai():
        from monai.transforms.compose import Compose
        from monai.transforms.intensity.dictionary import RandScaleIntensityd, RandShiftIntensityd
        from monai.transforms.spatial.dictionary import RandFlipd, RandRotated

        both = ["image", "label"]
        steps: list[Any] = [RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)]
        turns: dict[str, Any] = {"range_x": np.pi / 6}
        if dims == 3:  # about the depth alone: thick slices cannot be turned into each other
            turns = {"range_z": np.pi / 6}
        steps.append(RandRotated(both, prob=0.5, mode=["bilinear", "nearest"], padding_mode="border", **turns))
        steps += [RandScaleIntensityd("image", 0.1, prob=0.3), RandShiftIntensityd("image", 0.1, prob=0.3)]
        return Compose(steps)


class OrganData(lightning.LightningDataModule):
    """The loaders of a fold."""

    def __init__(
        self,
        train: Sequence[PreparedCase],
        preparation: Preparation,
        *,
        batch: int,
        per_volume: int,
        augment: bool,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.patches = Patches(train, preparation, per_volume=per_volume, augment=augment, seed=seed)
        self.batch, self.workers, self.seed = batch, workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.patches), self.seed, epoch=first_epoch(self), with_epoch=True)
        # batch norm needs two: a last batch of one is dropped
        last = len(self.patches) > self.batch and len(self.patches) % self.batch == 1
        return DataLoader(self.patches, self.batch, sampler=order, num_workers=self.workers, drop_last=last)
