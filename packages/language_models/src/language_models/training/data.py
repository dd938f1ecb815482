"""The batches of a run: a function of the seed and the step alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from core_runtime.training import EpochOrder, first_epoch
from language_models.texts.windows import Windows, order

Batch = tuple[Tensor, Tensor, Tensor]  # ids, labels, document numbers


class Steps(Dataset):
    """The batch of every step: windows in an order of their own for each pass over the corpus.

    Args:
        change: what becomes of a batch before it is learned (needles are planted), with the step's own generator.
    """

    def __init__(
        self,
        windows: Windows,
        batch: int,
        steps: int,
        seed: int,
        change: Callable[[Batch, torch.Generator], Batch] | None = None,
    ) -> None:
        self.windows, self.batch, self.steps, self.seed, self.change = windows, batch, steps, seed, change

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        first, count = step * self.batch, self.windows.count
        numbers = []
        for item in range(first, first + self.batch):
            passes, place = divmod(item, count)
            numbers.append(int(order(count, passes, self.seed)[place]))
        ids, documents = self.windows.batch(torch.tensor(numbers))
        batch = (ids, ids, documents)
        if self.change is not None:
            batch = self.change(batch, torch.Generator().manual_seed(self.seed * 1_000_003 + step))
        return batch


class InOrder(EpochOrder):
    """The steps of one round, one after the other."""

    def __init__(self, rounds: list[int], epoch: int) -> None:
        super().__init__(max(rounds), 0, epoch=epoch)
        self.rounds = rounds

    def __len__(self) -> int:
        return self.rounds[min(self.epoch, len(self.rounds) - 1)]

    def __iter__(self) -> Iterator[int]:
        begin = sum(self.rounds[: self.epoch])
        yield from range(begin, begin + len(self))


class TextData(lightning.LightningDataModule):
    """Rounds of `every` steps, after each of which `fit` writes a checkpoint. A pass over the text may take many rounds or a part of one."""

    def __init__(self, steps: Steps, every: int, workers: int) -> None:
        super().__init__()
        self.steps, self.workers = steps, workers
        whole, rest = divmod(steps.steps, every)
        self.rounds = [every] * whole + ([rest] if rest else [])

    def train_dataloader(self) -> DataLoader[Any]:
        sampler: Sampler[int] = InOrder(self.rounds, first_epoch(self))
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(self.steps, batch_size=None, sampler=sampler, **workers)
