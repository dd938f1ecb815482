"""How somebody searched: found it or not, how long, and how often objects were new, seen before, or looked at again at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

BEHAVIOUR = ("correct", "length", "search", "refix", "revisit")


@dataclass(frozen=True)
class Behaviour:
    """Of one path. With the path grouped into runs of equal objects: search + refix + revisit = 1.

    Attributes:
        correct: 1.0 if the last fixation is on the target.
        length: number of fixations.
        search: runs on an object that is new, per fixation.
        refix: fixations that stay on an object, per fixation.
        revisit: runs on an object that was left before, per fixation.
    """

    correct: float
    length: float
    search: float
    refix: float
    revisit: float


def behaviour_of(path: Sequence[int], target: int | None) -> Behaviour:
    """Of a path of object indices.

    Args:
        path: at least one fixation.
        target: index of the searched object; None: it is not in the scene, and no path is correct.

    Raises:
        ValueError: an empty path.
    """
    if not path:
        raise ValueError("a path without fixations has no behaviour")
    runs = [(item, len(list(run))) for item, run in groupby(path)]
    known: set[int] = set()
    search = 0
    for item, _ in runs:
        search += item not in known
        known.add(item)
    count = len(path)
    return Behaviour(
        correct=float(path[-1] == target),
        length=float(count),
        search=search / count,
        refix=sum(length - 1 for _, length in runs) / count,
        revisit=(len(runs) - search) / count,
    )


@dataclass(frozen=True)
class Delta:
    """How far a model's behaviour is from people's.

    Attributes:
        value: mean of ``|model - people| / people`` over the behaviours that people show; NaN without one.
        left_out: behaviours whose mean over people is 0, which nothing can be compared with.
    """

    value: float
    left_out: Sequence[str]


def delta(model: Sequence[Behaviour], people: Sequence[Behaviour]) -> Delta:
    """Compares means over paths: 0 is equal behaviour."""
    errors, left_out = [], []
    for name in BEHAVIOUR:
        expected = fmean(getattr(behaviour, name) for behaviour in people)
        predicted = fmean(getattr(behaviour, name) for behaviour in model)
        if expected == 0:
            left_out.append(name)
        else:
            errors.append(abs(predicted - expected) / expected)
    return Delta(fmean(errors) if errors else float("nan"), left_out)
