"""Multi-query associative recall (MQAR): keys with their values, then every key again in another order; what follows it is known.

Source: Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

KEYS = 32  # ids 0 … 31 are keys, 32 … 63 values


def recall_batch(
    batch: int, pairs: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]:
    """Sequences ``k₁ v₁ … kₙ vₙ  k_π₁ v_π₁ … k_πₙ v_πₙ`` and labels (before shifting) that ask for the second values alone.

    Raises:
        ValueError: more pairs than keys.
    """
    if not 1 <= pairs <= KEYS:
        raise ValueError(f"pairs are from 1 to {KEYS}, got {pairs}")
    keys = torch.stack([torch.randperm(KEYS, generator=generator)[:pairs] for _ in range(batch)])
    values = torch.randint(KEYS, (batch, pairs), generator=generator) + KEYS
    again = torch.stack([torch.randperm(pairs, generator=generator) for _ in range(batch)])
    told = torch.stack([keys, values], -1).flatten(1)
    asked = torch.stack([keys.gather(1, again), values.gather(1, again)], -1).flatten(1)
    labels = torch.full((batch, 4 * pairs), -100)
    labels[:, 2 * pairs + 1 :: 2] = asked[:, 1::2]
    return torch.cat([told, asked], 1), labels


def recall_accuracy(logits: Tensor, labels: Int[Tensor, "batch time"]) -> tuple[int, int]:
    """Right answers, and questions."""
    predicted, targets = logits[:, :-1].argmax(-1), labels[:, 1:]
    asked = targets != -100
    return int((predicted == targets)[asked].sum()), int(asked.sum())
