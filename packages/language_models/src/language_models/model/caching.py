"""The caches of `core_attention` behind transformers' cache interface.

Samples with different numbers of real tokens behind them stand at different places of their blocks and chunks. They are kept in groups of equal
length, each with one core cache per layer; without padding there is one group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from core_attention.parts.cache import Cache


@dataclass
class Group:
    """Samples that have read equally many real tokens.

    Attributes:
        samples: their places in the batch, (samples,).
        layers: one core cache per layer.
        length: real tokens read.
    """

    samples: Tensor
    layers: list[Cache]
    length: int = 0


class SuiteCache(transformers.Cache):
    """What `generate` carries from call to call; made by ``model.new_cache()``.

    Args:
        make: makes the empty core caches of one group, one per layer.
        positions: how many positions the layers have read after so many tokens, where they see more than the tokens (landmarks).
    """

    def __init__(
        self, make: Callable[[], Sequence[Cache]], positions: Callable[[int], int] = lambda tokens: tokens
    ) -> None:
        super().__init__(layers=[])
        self.make, self.positions = make, positions
        self.groups: list[Group] = []
        self.length = 0  # columns of the batch that were read, padding included

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read so far, padding included: what transformers compares an attention mask with."""
        return self.length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """No mechanism here has an upper bound of its own."""
        return -1

    def __len__(self) -> int:
        return len(self.groups[0].layers) if self.groups else 0

    @property
    def is_linear(self) -> list[bool]:
        """transformers leaves out the slicing of prompts for caches that are linear throughout; ours count columns."""
        return [False]

    @property
    def is_sliding(self) -> list[bool]:
        return [False]

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return bool(self.groups)

    def begin(self, batch: int, device: torch.device) -> None:
        """Makes the one group of a fresh cache."""
        if not self.groups:
            self.groups = [Group(torch.arange(batch, device=device), list(self.make()))]

    @property
    def batch(self) -> int:
        """Samples held."""
        return sum(len(group.samples) for group in self.groups)

    def split(self, counts: Tensor) -> list[tuple[Group, int]]:
        """Splits the groups so that the samples of each bring equally many new tokens, and returns each with that number.

        Args:
            counts: new real tokens of each sample, (batch,).
        """
        parts: list[tuple[Group, int]] = []
        for group in self.groups:
            of_samples = counts[group.samples]
            for count in of_samples.unique().tolist():
                index = (of_samples == count).nonzero()[:, 0]
                parts.append((self._chosen(group, index), count))
        self.groups = [group for group, _ in parts]
        return parts

    def _chosen(self, group: Group, index: Tensor) -> Group:
        """The samples `index` of a group, as a group of their own."""
        if len(index) == len(group.samples) and bool((index == torch.arange(len(index), device=index.device)).all()):
            return group
        layers = copy.deepcopy(group.layers)
        for layer in layers:
            layer.reorder(index)
        return Group(group.samples[index], layers, group.length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sample i goes on as a copy of sample ``beam_idx[i]``: beams, and batches that grow or shrink."""
        groups = []
        for group in self.groups:
            place = torch.full((int(beam_idx.max()) + 1,), -1, device=beam_idx.device)
            held = group.samples[group.samples <= beam_idx.max()]
            place[held] = torch.arange(len(group.samples), device=beam_idx.device)[group.samples <= beam_idx.max()]
            source = place[beam_idx]
            targets = (source >= 0).nonzero()[:, 0]
            if len(targets):
                source_rows = self._chosen(group, source[targets])
                groups.append(Group(targets, source_rows.layers, source_rows.length))
        self.groups = groups

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every sample `repeats` times, copies side by side."""
        device = self.groups[0].samples.device
        self.reorder_cache(torch.arange(self.batch, device=device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these samples."""
        self.reorder_cache(indices)

    def crop(self, max_length: int) -> None:
        """Forgets columns from `max_length` on (a negative number: so many from the end).

        Raises:
            ValueError: a layer holds a summary and cannot go back.
        """
        length = max_length if max_length >= 0 else self.length + max_length
        back = self.length - length
        if back <= 0:
            return
        for group in self.groups:
            if back > group.length:
                raise ValueError(f"{group.length} tokens were read: the cache cannot go back by {back}")
            group.length -= back
            for layer in group.layers:
                layer.crop(self.positions(group.length))
        self.length = length

    def __deepcopy__(self, memo: dict[int, Any]) -> SuiteCache:
        """A copy to return to; what makes the caches belongs to the model and is shared."""
        copied = SuiteCache(self.make, self.positions)
        copied.groups, copied.length = copy.deepcopy(self.groups, memo), self.length
        return copied

    def reset(self) -> None:
        """Forgets everything."""
        self.groups, self.length = [], 0

    def state_bytes(self) -> int:
        """Bytes of all tensors that are held, room included."""
        total = 0

        def count(x: Tensor) -> Tensor:
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        for group in self.groups:
            for layer in group.layers:
                layer.map(count)
        return total
