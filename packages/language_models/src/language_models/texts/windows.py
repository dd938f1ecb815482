"""Windows of a corpus: what is learned from, and what is held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core_runtime.errors import UserError
from language_models.texts.reading import Corpus


@dataclass(frozen=True)
class Windows:
    """Windows of `context` tokens that follow one another; a stretch at the end of the corpus is held out.

    Attributes:
        corpus: the ids.
        context: tokens of a window.
        held_out: ids at the end that are not learned from.
    """

    corpus: Corpus
    context: int
    held_out: int

    @property
    def count(self) -> int:
        """Windows to learn from."""
        return (len(self.corpus.ids) - self.held_out) // self.context

    def batch(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and document numbers of windows, (windows, context) each."""
        parts = [self.corpus.window(int(number) * self.context, self.context) for number in numbers]
        ids, documents = zip(*parts, strict=True)
        return torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(documents))

    def held_out_windows(self, length: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """At most `most` windows of `length` from the held-out stretch, evenly spread, one at a time."""
        begin = len(self.corpus.ids) - self.held_out
        whole = self.held_out // length
        if not whole:
            raise UserError(
                f"the held-out text has {self.held_out} tokens, fewer than a window of {length}",
                "give more text, or a shorter --context",
            )
        for number in np.unique(np.linspace(0, whole - 1, min(most, whole)).round().astype(int)):
            ids, documents = self.corpus.window(begin + int(number) * length, length)
            yield torch.from_numpy(ids)[None], torch.from_numpy(documents)[None]


def windows_of(corpus: Corpus, context: int, share: float = 0.1) -> Windows:
    """Windows of a corpus, with a share of it (one window at least) held out.

    Raises:
        UserError: the text is too short for a window to learn from and one to judge by.
    """
    length = len(corpus.ids)
    held_out = max(context, int(length * share))
    if length < context + held_out:
        raise UserError(
            f"the text has {length} tokens; a context of {context} needs {2 * context} at least, one window to learn from and one held out",
            "give more text, or a shorter --context",
        )
    return Windows(corpus, context, held_out)


def order(count: int, passes: int, seed: int) -> Tensor:
    """The order of pass number `passes` over `count` windows: a function of the seed and the pass."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + passes)
    return torch.randperm(count, generator=generator)
