"""How probabilities become events, as options. Imports nothing heavy."""

from dataclasses import replace
from typing import Annotated

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, options


@options
class EventOptions:
    """How probabilities become events.

    Attributes:
        threshold: probability that an event must reach; default: the model's own.
        low: an event lasts while above this (hysteresis); default: the threshold.
        smoothing: segments in the moving average; 1: none.
        min_duration: shortest event, seconds.
        merge_gap: events closer than this become one, seconds.
    """

    threshold: Annotated[float | None, Between(0, 1)] = None
    low: Annotated[float | None, Between(0, 1)] = None
    smoothing: Annotated[int, AtLeast(1)] = 1
    min_duration: Annotated[float, AtLeast(0)] = 0.0
    merge_gap: Annotated[float, AtLeast(0)] = 0.0

    def __post_init__(self) -> None:
        if self.threshold is not None and self.low is not None and self.low > self.threshold:
            raise UserError(
                f"--low {self.low:g} is above --threshold {self.threshold:g}", "--low must be at or below --threshold"
            )

    def for_model(self, threshold: float) -> "EventOptions":
        """These options with a model's own threshold, unless the user gave one."""
        if self.threshold is not None:
            return self
        return replace(self, threshold=threshold)

    @property
    def upper(self) -> float:
        """The threshold; one half if neither user nor model gave one."""
        if self.threshold is None:
            return 0.5
        return self.threshold

    @property
    def lower(self) -> float:
        """The level above which an event lasts."""
        if self.low is None:
            return self.upper
        return self.low


@options
class ScoringOptions:
    """How events are compared.

    Attributes:
        score_rate: Hz at which events are read; 1 as in the official SzCORE evaluation.
    """

    score_rate: Annotated[float, Above(0)] = 1.0
