"""Symmetric InfoNCE between conditioned pictures and texts."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class ContrastiveLoss(NamedTuple):
    """The loss and its half over pictures."""

    total: Tensor
    image_to_text: Tensor


def contrastive_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    scale: Tensor | float,
    *,
    output_id: Int[Tensor, " batch"] | None = None,
) -> ContrastiveLoss:
    """``½ [CE over rows + CE over columns]`` of ``scale · image · textᵀ``, whose targets are the diagonal.

    Args:
        image: unit vectors of (picture, instruction).
        text: unit vectors of the answers.
        scale: 1 / temperature.
        output_id: which answers are the same string: other items with the same one leave the denominators. None: all count.
    """
    logits = scale * image @ text.T
    if output_id is not None:
        same = output_id[:, None] == output_id
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    targets = torch.arange(len(logits), device=logits.device)
    rows, columns = F.cross_entropy(logits, targets), F.cross_entropy(logits.T, targets)
    return ContrastiveLoss((rows + columns) / 2, rows)


def answer_ids(answers: list[str]) -> Tensor:
    """A number for each answer, the same for those that differ only in case and outer spaces or full stops."""
    numbers: dict[str, int] = {}
    ids = []
    for answer in answers:
        key = " ".join(answer.lower().split()).rstrip(".")
        ids.append(numbers.setdefault(key, len(numbers)))
    return torch.tensor(ids)
