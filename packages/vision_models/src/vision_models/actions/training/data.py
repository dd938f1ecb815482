"""Training sequences: windows or resized videos, with their targets and the labels of their segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_runtime.errors import UserError
from core_runtime.training import EpochOrder, first_epoch
from vision_models.actions.cohort import Clip
from vision_models.actions.model.detector import DetectorConfig
from vision_models.actions.model.sequences import at_step, count_at_step, filled_up, resized, window_starts
from vision_models.actions.model.targets import Targets, targets_of
from vision_models.actions.training.recipe import Recipe

IGNORED = -100  # the label of filled-up rows


class Place(NamedTuple):
    """Where a sequence lies, and what happens in it; its features stay in their file.

    Attributes:
        clip: the video.
        first: step at which a window begins; 0 where the video is resized.
        segments: (n, 2) as shares of the sequence.
        labels: (n,) their numbers.
    """

    clip: Clip
    first: int
    segments: NDArray[np.float64]
    labels: NDArray[np.int64]


class Example(NamedTuple):
    """One sequence.

    Attributes:
        values: (channels, steps), unscaled.
        segments: (n, 2) as shares of the sequence.
        labels: (n,) their numbers.
    """

    values: NDArray[np.float32]
    segments: NDArray[np.float64]
    labels: NDArray[np.int64]


class Batch(NamedTuple):
    """A batch of sequences; segments are filled up with `IGNORED` labels."""

    values: Tensor
    targets: Targets
    segments: Tensor
    labels: Tensor


class Sequences(Dataset[tuple[Example, Targets]]):
    """All sequences of some videos: their places are held, each one's features are read when it is asked for.

    Args:
        clips: the videos.
        config: of the detector.
        labels: names by number; a label that is not among them is not classified.
        step: seconds of a snippet, for windows.
        fill: (channels,) that stands behind the end of a short video.
        inside: share of an action that must lie in a window.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        config: DetectorConfig,
        labels: Sequence[str],
        step: float,
        fill: NDArray[np.float32],
        inside: float,
    ) -> None:
        self.cells = config.bmn.cells
        self.config, self.step, self.fill = config, step, fill
        self.places: list[Place] = []
        steps = config.bmn.steps
        for clip in clips:
            spans = np.array([(action.start, action.end) for action in clip.actions], np.float64).reshape(-1, 2)
            numbers = [labels.index(action.label) if action.label in labels else IGNORED for action in clip.actions]
            own = np.array(numbers, np.int64)
            if config.fit == "resize":
                if len(spans):
                    covered = min(clip.seconds, clip.step * len(clip.stored))
                    self.places.append(Place(clip, 0, (spans / covered).clip(0, 1), own))
                continue
            for number in window_starts(count_at_step(len(clip.stored), clip.step, step), steps):
                first, last = number * step, number * step + steps * step
                common = np.minimum(spans[:, 1], last) - np.maximum(spans[:, 0], first)
                enough = common >= inside * (spans[:, 1] - spans[:, 0])
                if enough.any():  # as published: windows without a whole action do not train
                    inner = ((spans[enough] - first) / (steps * step)).clip(0, 1)
                    self.places.append(Place(clip, number, inner, own[enough]))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[Example, Targets]:
        place = self.places[number]
        example = Example(self._read(place.clip, place.first).T, place.segments, place.labels)
        return example, targets_of(example.segments, self.cells)

    def _read(self, clip: Clip, first: int) -> NDArray[np.float32]:
        """(steps, channels) of the network."""
        steps = self.config.bmn.steps
        if self.config.fit == "resize":
            return resized(clip.stored[:], steps)
        return filled_up(at_step(clip.stored, clip.step, self.step, slice(first, first + steps)), steps, self.fill)


def collate(items: Sequence[tuple[Example, Targets]]) -> Batch:
    """A batch of sequences."""
    most = max(1, *(len(example.segments) for example, _ in items))
    segments, labels = torch.zeros(len(items), most, 2), torch.full((len(items), most), IGNORED)
    for row, (example, _) in enumerate(items):
        count = len(example.segments)
        segments[row, :count] = torch.from_numpy(example.segments).float()
        labels[row, :count] = torch.from_numpy(example.labels)
    values = torch.from_numpy(np.stack([example.values for example, _ in items]))
    stacked = Targets(*(torch.stack(parts) for parts in zip(*(targets for _, targets in items), strict=True)))
    return Batch(values, stacked, segments, labels)


class DetectionData(lightning.LightningDataModule):
    """The loaders, with another order in every epoch."""

    def __init__(self, train: Sequences, val: Sequences, recipe: Recipe, *, workers: int, seed: int) -> None:
        super().__init__()
        if not len(train) or not len(val):
            part = "validation" if len(train) else "training"
            raise UserError(
                f"no {part} sequence holds a whole action",
                "longer --steps, or a lower --inside, or more annotated videos",
            )
        self.train, self.val = train, val
        self.batch, self.workers, self.seed = recipe.batch, workers, seed

    def train_dataloader(self) -> Any:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self))
        return DataLoader(self.train, self.batch, sampler=order, num_workers=self.workers, collate_fn=collate)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, self.batch, num_workers=self.workers, collate_fn=collate)
