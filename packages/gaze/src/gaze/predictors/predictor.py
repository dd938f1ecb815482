"""What every predictor of scanpaths can do, so that models and baselines are judged in the same way."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gaze.cohort.study import Trial
from gaze.scenes.scene import Scene


class Predictor(Protocol):
    """A distribution over paths of objects.

    Attributes:
        name: for tables.
    """

    name: str

    def step_probabilities(self, trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[NDArray[np.float64]]:
        """Teacher-forced: of each trial (steps + 1, objects + 1), given the fixations before; the last column is the stop.

        Rows sum to 1. The first step cannot stop.
        """
        ...

    def sample(
        self,
        scenes: Sequence[Scene],
        targets: Sequence[int | None],
        *,
        samples: int,
        seeds: Sequence[int],
        longest: int,
    ) -> list[list[list[int]]]:
        """Of each scene and target as many paths of object indices; the same under a seed, whatever the other scenes are."""
        ...


def log_likelihood(probabilities: NDArray[np.float64], objects: Sequence[int]) -> NDArray[np.float64]:
    """Natural log-probability of each fixation, and last of the stop: (steps + 1,)."""
    steps = np.append(np.asarray(objects, np.int64), probabilities.shape[1] - 1)
    with np.errstate(divide="ignore"):
        return np.log(probabilities[np.arange(len(steps)), steps])
