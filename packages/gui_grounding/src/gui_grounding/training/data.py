"""Screenshots and questions as padded batches; questions about one screenshot share it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from core_runtime.training import EpochOrder, first_epoch
from gui_grounding.items.mixtures import Box, Example, Question
from gui_grounding.model.folder import Prepared
from gui_grounding.model.labels import multi_patch_labels
from gui_grounding.model.patches import Patches, cut_patches
from gui_grounding.model.pointer import IGNORED
from gui_grounding.model.tokens import TEXT_END, Tokens
from gui_grounding.screens.pictures import open_screenshot
from gui_grounding.training.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """What a step needs; see `PointerModel.forward`. `boxes` are the valid boxes of each pointer of each sample."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor
    grids: Tensor
    targets: Sequence[Tensor]
    image_of: Sequence[int]
    boxes: Sequence[Sequence[Sequence[Box]]]

    def to(self, device: torch.device) -> "Batch":
        moved = {
            name: getattr(self, name).to(device)
            for name in ("input_ids", "attention_mask", "labels", "pixel_values", "grids")
        }
        return Batch(**moved, targets=[t.to(device) for t in self.targets], image_of=self.image_of, boxes=self.boxes)


class ScreenData(lightning.LightningDataModule):
    """Training screenshots in an order of their own for every epoch, and validation screenshots."""

    def __init__(
        self,
        train: Sequence[Example],
        valid: Sequence[Example],
        tokens: Tokens,
        prepared: Prepared,
        recipe: Recipe,
        *,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.valid, self.tokens, self.prepared, self.recipe = train, valid, tokens, prepared, recipe
        self.workers, self.seed = workers, seed

    def train_dataloader(self) -> DataLoader[Any]:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self), with_epoch=True)
        return self._loader(_Screens(self.train, self.recipe.questions, self.seed, self.prepared), sampler=order)

    def val_dataloader(self) -> Any:
        if not self.valid:
            return []
        # the same questions in every epoch, and no more at once than memory was planned for
        screens = _Screens(self.valid, max(8, self.recipe.questions), self.seed, self.prepared)
        return self._loader(screens, sampler=[(0, number) for number in range(len(self.valid))])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def _loader(self, screens: "_Screens", **more: Any) -> DataLoader[Any]:
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(
            screens,  # pyright: ignore[reportArgumentType]
            batch_size=self.recipe.batch,
            collate_fn=self._collate,
            **workers,
            **more,
        )

    def _collate(self, screens: list[tuple[Patches, Sequence[Question]]]) -> Batch:
        return make_batch(screens, self.tokens, self.prepared, self.recipe)


class _Screens:
    """Patches and some questions of each example, chosen by epoch. Small screenshots stay in memory once cut."""

    def __init__(self, examples: Sequence[Example], questions: int, seed: int, prepared: Prepared) -> None:
        self.examples, self.questions, self.seed, self.prepared = examples, questions, seed, prepared
        self.kept: dict[int, Patches] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Patches, Sequence[Question]]:
        epoch, number = place
        example = self.examples[number]
        questions = list(example.questions)
        if len(questions) > self.questions:
            questions = random.Random(f"{self.seed} {epoch} {number}").sample(questions, self.questions)
        return self._patches(number, example), questions

    def _patches(self, number: int, example: Example) -> Patches:
        if number in self.kept:
            return self.kept[number]
        image = open_screenshot(example.image).image
        patches = cut_patches(image, min_pixels=self.prepared.min_pixels, max_pixels=self.prepared.max_pixels)
        if patches.values.numel() < 2_000_000 and len(self.kept) < 500:
            self.kept[number] = patches
        return patches


def make_batch(
    screens: Sequence[tuple[Patches, Sequence[Question]]], tokens: Tokens, prepared: Prepared, recipe: Recipe
) -> Batch:
    """Every question is a sample of its own, as it is at inference; padding stands on the right."""
    samples: list[tuple[list[int], list[int]]] = []
    targets, image_of, boxes = [], [], []
    for owner, (patches, questions) in enumerate(screens):
        cells = patches.rows * patches.columns
        for question in questions:
            samples.append(tokens.example(prepared.system_message, cells, question.instruction, question.answer))
            targets.append(question_labels(question, patches, recipe))
            image_of.append(owner)
            boxes.append(question.boxes)
    longest = max(len(ids) for ids, _ in samples)
    input_ids = torch.full((len(samples), longest), tokens.id(TEXT_END))
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for row, (ids, learned) in enumerate(samples):
        numbers = torch.tensor(ids)
        input_ids[row, : len(ids)] = numbers
        mask[row, : len(ids)] = 1
        labels[row, : len(ids)] = torch.where(torch.tensor(learned).bool(), numbers, IGNORED)
    return Batch(
        input_ids,
        mask,
        labels,
        torch.cat([patches.values for patches, _ in screens]),
        torch.cat([patches.grid for patches, _ in screens]),
        targets,
        image_of,
        boxes,
    )


def question_labels(question: Question, patches: Patches, recipe: Recipe) -> Tensor:
    """(pointers, cells) labels; of several valid boxes a cell has the largest."""
    rows = []
    for boxes in question.boxes:
        labels = multi_patch_labels(
            torch.tensor(boxes, dtype=torch.float64),
            *patches.size,
            style=recipe.labels,
            sigma_factor=recipe.sigma_factor,
        )
        rows.append(labels.amax(0))
    return torch.stack(rows)
