"""Pictures by class as tensors, and the order in which they are learned."""

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from core_runtime.pictures import open_picture
from core_runtime.training import EpochOrder, first_epoch
from explainability.images.formats import find_classes, parts_of
from explainability.models.loading import Classifier


@dataclass(frozen=True)
class Labelled:
    """Pictures with the number of their class."""

    files: Sequence[Path]
    labels: Sequence[int]

    def without(self, digests: Container[str]) -> "Labelled":
        """The pictures whose content is not among these digests."""
        kept = [i for i, file in enumerate(self.files) if digest(file) not in digests]
        return Labelled([self.files[i] for i in kept], [self.labels[i] for i in kept])


def digest(file: Path) -> str:
    """What a picture is recognised by under any name: its content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def read_folder(folder: Path, classes: Sequence[str]) -> Labelled:
    """All pictures of a folder by class.

    Raises:
        UserError: other classes than the model's, or an unusable folder.
    """
    from core_runtime.errors import UserError

    files_of_class = find_classes(folder)
    unknown = sorted(set(files_of_class) - set(classes))
    if unknown:
        raise UserError(
            f"{folder}: the model does not know class {', '.join(unknown)}", f"its classes are {', '.join(classes)}"
        )
    files, labels = [], []
    for name, paths in files_of_class.items():
        files += paths
        labels += [classes.index(name)] * len(paths)
    return Labelled(files, labels)


def split(folder: Path, seed: int, *, select: str = "validation") -> tuple[tuple[str, ...], Labelled, Labelled]:
    """Classes, training and validation pictures: ``train`` and ``val``, or a fifth of each class drawn for validation.

    Args:
        folder: of pictures by class, or with parts.
        seed: of what is drawn.
        select: ``"test"``: the part ``test`` stands for validation, as published codes choose their epoch.

    Raises:
        UserError: an unusable folder; there is no part ``test`` to choose on.
    """
    training, validation = parts_of(folder)
    if select == "test":
        validation = folder / "test"
        if not validation.is_dir():
            from core_runtime.errors import UserError

            raise UserError(f"{folder} has no folder test to choose the epoch on", "--select validation needs none")
    classes = tuple(find_classes(training))
    whole = read_folder(training, classes)
    if validation is not None:
        return classes, whole, read_folder(validation, classes)
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[int], list[int]] = ([], [])
    for label in range(len(classes)):
        members = [index for index, other in enumerate(whole.labels) if other == label]
        order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        # a class of one picture has none to spare
        held_out = len(members) // 5
        parts[1].extend(order[:held_out])
        parts[0].extend(order[held_out:])
    first, second = (Labelled([whole.files[i] for i in part], [whole.labels[i] for i in part]) for part in parts)
    return classes, first, second


class PictureSet(Dataset):
    """Prepared pictures with their labels; each file is read once."""

    def __init__(self, labelled: Labelled, classifier: Classifier) -> None:
        self.labelled, self.classifier = labelled, classifier
        self.read: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.labelled.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index not in self.read:
            image = open_picture(self.labelled.files[index]).image
            self.read[index] = self.classifier.prepare(image)[0]
        return self.read[index], self.labelled.labels[index]


class Pictures(lightning.LightningDataModule):
    """Training pictures in an order of their own for every epoch; validation pictures in order."""

    def __init__(self, training: PictureSet, validation: PictureSet, batch_size: int, workers: int, seed: int) -> None:
        super().__init__()
        self.training, self.validation = training, validation
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.training), self.seed, epoch=first_epoch(self))
        return DataLoader(self.training, batch_size=self.batch_size, sampler=order, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, batch_size=self.batch_size, num_workers=self.workers)
