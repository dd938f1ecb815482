"""How long fixations last. OAT does not predict it: a distribution is fitted to training paths, by what a fixation does.

Kinds of fixations: the *first* of a path; on the searched *target*; *again* on the object that was looked at just before; *back* on one that was
left before; on a *new* object. Of each kind durations are log-normal, which people's are nearly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.fields import read_field
from gaze.cohort.study import Trial

KINDS = ("first", "target", "again", "back", "new")
_LEAST = 20  # fixations of a kind, below which it takes those of all kinds


@dataclass(frozen=True)
class LogNormal:
    """Of durations in ms: mean and standard deviation of their natural logarithm, and how many fixations say so."""

    mean: float
    deviation: float
    fixations: int


@dataclass(frozen=True)
class Durations:
    """A distribution of durations for each kind of fixation."""

    kinds: Mapping[str, LogNormal]

    def typical(self, path: Sequence[int], target: int | None) -> list[float]:
        """The median duration of each fixation's kind, in ms."""
        return [float(np.exp(self.kinds[kind].mean)) for kind in kinds_of(path, target)]

    def draw(self, path: Sequence[int], target: int | None, rng: np.random.Generator) -> list[float]:
        """A duration for each fixation, in ms; one does not depend on the other."""
        own = [self.kinds[kind] for kind in kinds_of(path, target)]
        spread = rng.standard_normal(len(own)) * [each.deviation for each in own]
        return np.exp([each.mean for each in own] + spread).tolist()

    def to_json(self) -> dict[str, dict[str, float]]:
        return {name: dict(kind.__dict__) for name, kind in self.kinds.items()}


def kinds_of(path: Sequence[int], target: int | None) -> list[str]:
    """What each fixation of a path of object indices does."""
    kinds = []
    for step, item in enumerate(path):
        if not step:
            kinds.append("first")
        elif item == target:
            kinds.append("target")
        elif item == path[step - 1]:
            kinds.append("again")
        elif item in path[:step]:
            kinds.append("back")
        else:
            kinds.append("new")
    return kinds


def fit_durations(trials: Sequence[Trial]) -> Durations | None:
    """Of people's fixations; None where their durations are not known. Fixations of 0 ms are left out."""
    logs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for trial in trials:
        for kind, duration in zip(kinds_of(trial.objects, trial.target), trial.scanpath.duration, strict=True):
            if duration > 0:
                logs[kind].append(float(np.log(duration)))
    everything = np.concatenate([np.array(values) for values in logs.values()])
    if len(everything) < _LEAST:
        return None
    return Durations({kind: _fit(np.array(values), everything) for kind, values in logs.items()})


def _fit(logs: NDArray[np.float64], everything: NDArray[np.float64]) -> LogNormal:
    enough = everything
    if len(logs) >= _LEAST:
        enough = logs
    return LogNormal(float(enough.mean()), float(enough.std()), len(enough))


def read_durations(config: Mapping[str, Any], where: str) -> Durations | None:
    """Of a model folder's config.json; None: its training paths had no durations.

    Raises:
        UserError: a field is missing or is not a number.
    """
    field = "preprocessing.durations"
    if read_field(config, field, dict, where=where, default=None) is None:
        return None
    kinds = {}
    for kind in KINDS:
        mean = read_field(config, f"{field}.{kind}.mean", float, where=where, low=-20, high=20)
        deviation = read_field(config, f"{field}.{kind}.deviation", float, where=where, low=0, high=20)
        kinds[kind] = LogNormal(mean, deviation, read_field(config, f"{field}.{kind}.fixations", int, where=where))
    return Durations(kinds)
