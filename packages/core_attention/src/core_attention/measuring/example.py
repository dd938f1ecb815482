"""A layer at work: what `show` prices and `bench` times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Example:
    """A layer at work, for measuring.

    Attributes:
        module: the layer, with its published defaults.
        inputs: its positional arguments, on the CPU in float32.
        tokens: how many tokens they hold.
        reference: the readable definition of the same thing on the same inputs; None where the module is it.
        softmax: (width, heads) of the softmax attention layer that this one stands in for; None where there is none.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    tokens: int
    reference: Callable[..., Any] | None = None
    softmax: tuple[int, int] | None = None
