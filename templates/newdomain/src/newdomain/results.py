"""The results of this domain."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """Of one signal.

    Attributes:
        signal: its name.
        probability: of a burst.
        seconds: where the window with the highest weight begins.
        weights: attention weight of every window; their sum is 1.
    """

    signal: str
    probability: float
    seconds: float
    weights: Sequence[float]
