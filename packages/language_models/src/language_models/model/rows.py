"""Padding and packing taken out of a batch: every mechanism sees whole documents that begin at position 0, alone in their row.

A mechanism with blocks, chunks or a memory counts from the first token it sees. So a padded or packed batch is laid out anew, one document
a row, first token first; what stands behind a shorter document is never seen by it, because every model here is causal.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class Rows(NamedTuple):
    """Where each real token of a batch stands once every document has a row of its own.

    Attributes:
        real: which tokens of the batch are real, (batch, time).
        row, place: of the real tokens, in the batch's order.
        count, length: rows, and the tokens of the longest.
    """

    real: Bool[Tensor, "batch time"]
    row: Int[Tensor, " real"]
    place: Int[Tensor, " real"]
    count: int
    length: int

    def lay_out(self, x: Shaped[Tensor, "batch time *rest"]) -> Shaped[Tensor, "rows length *rest"]:
        """The tokens in their rows; the places behind a row's end hold 0."""
        out = x.new_zeros(self.count, self.length, *x.shape[2:])
        out[self.row, self.place] = x[self.real]
        return out

    def put_back(self, x: Shaped[Tensor, "rows length *rest"]) -> Shaped[Tensor, "batch time *rest"]:
        """The inverse of `lay_out`; padding holds 0."""
        out = x.new_zeros(*self.real.shape, *x.shape[2:])
        out[self.real] = x[self.row, self.place]
        return out


def find_rows(real: Bool[Tensor, "batch time"], documents: Int[Tensor, "batch time"] | None = None) -> Rows:
    """The rows of a batch.

    Args:
        real: False is padding, wherever it stands.
        documents: a number for each token; a row begins wherever it changes. None: each sample is one document.
    """
    sample = torch.arange(len(real), device=real.device)[:, None].expand_as(real)[real]
    begins = torch.ones_like(sample, dtype=torch.bool)
    begins[1:] = sample[1:] != sample[:-1]
    if documents is not None:
        document = documents[real]
        begins[1:] |= document[1:] != document[:-1]
    row = begins.long().cumsum(0) - 1
    number = torch.arange(len(row), device=row.device)
    place = number - number[begins][row]
    count = int(begins.sum())
    length = int(place.max()) + 1 if count else 0
    return Rows(real, row, place, count, length)
