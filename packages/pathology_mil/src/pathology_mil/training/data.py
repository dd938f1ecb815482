"""Bags for training: labelled slides with feature files, read one bag at a time, and the LightningDataModule around them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.training import EpochOrder, first_epoch
from pathology_mil.features.bags import Bag, LazyFeatures, find_bags
from pathology_mil.cohort.labels import Labels, labels_of_bags, read_labels
from pathology_mil.cohort.splits import Split, few
from pathology_mil.slides.tiles import TileParams


class Batch(NamedTuple):
    """One or several bags, packed: instances one after another."""

    features: Tensor  # [instances, F], in the precision of the file
    segments: Tensor  # [instances], number of the bag within the batch
    labels: Tensor  # [bags]
    lengths: list[int]
    slides: list[str]


@dataclass(frozen=True)
class Cohort:
    """Labelled slides with their features (still on disk).

    Attributes:
        labels: of exactly the slides in `features`.
        features: slide id → matrix on disk.
        skipped: slide id → why a labelled slide is left out ("no tiles").
        facts: what every result should be read with: feature width, encoder, magnification, numbers of slides and tiles.
    """

    labels: Labels
    features: Mapping[str, LazyFeatures]
    skipped: Mapping[str, str]
    facts: Mapping[str, Any]
    paths: tuple[Path, ...]
    preprocessing: Mapping[str, Any]


# What must be the same when features of a new slide are made; read from the attributes of the feature files.
_PREPROCESSING = ("encoder", "patch_size", "target_magnification", "target_mpp", "patch_size_level0", "overlap")


def open_cohort(
    features: Path | str,
    labels: Path | str | None = None,
    *,
    label_col: str = "label",
    classes: Sequence[str] | None = None,
    merge: Mapping[str, str] | None = None,
    ignore_missing: bool = False,
    progress: bool = True,
) -> Cohort:
    """Brings a folder (or ACMIL file) of features and a table of labels together.

    Args:
        features: as `find_bags`.
        labels: CSV (`read_labels`); None takes the class numbers that an ACMIL file carries.
        ignore_missing: leave out labelled slides without features instead of refusing.

    Raises:
        UserError: labels that name absent slides, damaged files, features of different widths, nothing left.
    """
    files = find_bags(features)
    table = read_labels(labels, label_col=label_col, classes=classes, merge=merge) if labels is not None else None
    if table is not None:
        absent = [s for s in table.label if s not in files]
        if absent and not ignore_missing:
            raise UserError(
                f"{Path(str(labels)).name} names {few(absent)}, but {features} holds no features of them",
                "encode these slides, or leave them out with --ignore-missing",
            )
        files = {s: f for s, f in files.items() if s in table.label}
        if not files:
            raise UserError(f"{features} and {labels} have no slide in common")
    slides = track(files, "Opening features") if progress else files
    bags = {slide: files[slide].open() for slide in slides}
    if table is None:
        table = labels_of_bags({s: b.label for s, b in bags.items()}, merge, classes)
    skipped = {s: "no tiles" for s, b in bags.items() if len(b) == 0}
    used = {s: b for s, b in bags.items() if s not in skipped}
    if not used:
        raise UserError(f"{features}: none of the {len(bags)} labelled slides has a tile")
    widths = {b.features.shape[1]: s for s, b in used.items()}
    if len(widths) > 1:
        (a, first), (b, second) = list(widths.items())[:2]
        raise UserError(f"{features}: features of {first} are {a} wide, those of {second} {b}: two encoders are mixed")
    return Cohort(
        table.only(used),
        {s: b.features for s, b in used.items()},
        skipped,
        _facts(used),
        tuple(sorted({files[s].path for s in used})),
        _preprocessing(used),
    )


def _preprocessing(bags: Mapping[str, Bag]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _PREPROCESSING:
        values = {str(b.encoder if key == "encoder" else b.attributes.get(key)) for b in bags.values()}
        if len(values) == 1 and (value := values.pop()) != "None":
            found[key] = value
    tiles = [_tile_params(b.attributes.get("parameters")) for b in bags.values()]
    if tiles[0] is not None and all(t == tiles[0] for t in tiles):
        found["tiles"] = tiles[0].plain()
    return found


def _tile_params(parameters: str | None) -> TileParams | None:
    """What `tile` noted beside the coordinates; None for files of other programs."""
    plain = json.loads(parameters) if parameters else {}
    return TileParams.of(plain) if "patch_size" in plain else None


def _facts(bags: Mapping[str, Bag]) -> dict[str, Any]:
    tiles = [len(b) for b in bags.values()]
    unknown = {"unknown"}
    encoders = {b.encoder for b in bags.values() if b.encoder} or unknown
    scales = {str(v) for b in bags.values() if (v := b.attributes.get("target_magnification"))} or unknown
    return {
        "slides": len(bags),
        "tiles": sum(tiles),
        "tiles_per_slide": float(np.median(tiles)),
        "feature_width": next(iter(bags.values())).features.shape[1],
        "encoder": ", ".join(sorted(encoders)),
        "magnification": ", ".join(sorted(scales)),
    }


def read_features(features: LazyFeatures, name: str) -> Tensor:
    """All rows of a bag in the file's own precision.

    Raises:
        UserError: values that are not finite.
    """
    read = np.asarray(features)
    if read.dtype.kind != "f":
        read = read.astype(np.float32)
    found = torch.from_numpy(np.ascontiguousarray(read))
    if not torch.isfinite(found).all():
        bad = int((~torch.isfinite(found).all(dim=1)).sum())
        raise UserError(f"{name}: {bad} of {len(found)} feature rows hold NaN or infinity", "encode this slide again")
    return found


class BagDataset(Dataset):
    """(features [N, F], class number, slide id) of the slides given, read when asked for."""

    def __init__(self, cohort: Cohort, slides: Sequence[str]) -> None:
        self.cohort, self.slides = cohort, list(slides)

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        slide = self.slides[index]
        return read_features(self.cohort.features[slide], slide), self.cohort.labels.label[slide], slide


def pack(bags: Sequence[tuple[Tensor, int, str]]) -> Batch:
    """Bags packed without padding."""
    lengths = [len(features) for features, _, _ in bags]
    return Batch(
        torch.cat([features for features, _, _ in bags]),
        torch.arange(len(bags)).repeat_interleave(torch.tensor(lengths)),
        torch.tensor([label for _, label, _ in bags]),
        lengths,
        [slide for _, _, slide in bags],
    )


class BagData(lightning.LightningDataModule):
    """Training, validation and test bags of one split.

    Args:
        batch: bags a step (packed); a last incomplete batch is dropped.
        workers: processes that read ahead.
    """

    def __init__(self, cohort: Cohort, split: Split, *, batch: int = 1, workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.cohort, self.split, self.batch, self.workers, self.seed = cohort, split, batch, workers, seed

    def train_dataloader(self) -> DataLoader:
        data = BagDataset(self.cohort, self.split.train)
        order = EpochOrder(len(data), self.seed, epoch=first_epoch(self))
        return self._loader(data, batch=min(self.batch, len(data)), sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader(BagDataset(self.cohort, self.split.val)) if self.split.val else []

    def test_dataloader(self) -> DataLoader | list:
        return self._loader(BagDataset(self.cohort, self.split.test)) if self.split.test else []

    def _loader(self, data: BagDataset, *, batch: int = 1, **options: Any) -> DataLoader:
        spread = {"num_workers": self.workers, "persistent_workers": True, "multiprocessing_context": "spawn"}
        if not self.workers:
            spread = {}
        return DataLoader(data, batch_size=batch, collate_fn=pack, **spread, **options)
