"""Paths that a folder holds more than once: the same recording in several formats, or a copied file."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gaze.scanpaths.scanpath import Reading, Scanpath

_PIXELS, _MS = 0.6, 1.0  # formats round positions and durations
_LEAST = 3  # fixations: shorter paths may be alike by chance
_TARGET = 5  # what a target's box is worth beside other things that a file knows: measures of search need it
_CELL = 2.0  # pixels of the cells in which last fixations are looked up


def find_repeats(readings: Sequence[Reading]) -> list[Mapping[int, int]]:
    """Which paths of each file another file of the folder holds, too.

    Paths are the same if all of their fixations are (to 0.6 px and 1 ms, which allows for what formats round). Of files with the same paths
    that one counts which knows most of them: the target's box above all, then durations, onsets, eyes. Paths of fewer than three fixations
    count as repeated only where all longer ones of their file are. Paths of one file are never compared with each other.

    Returns:
        For each reading: place of a repeated path → number of the reading that keeps it.
    """
    order = sorted(range(len(readings)), key=lambda number: -_knowledge(readings[number]))
    known: dict[tuple[int, int, int], list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
    result: list[Mapping[int, int]] = [{} for _ in readings]
    for number in order:
        scanpaths = readings[number].scanpaths
        keepers = {}
        for place, scanpath in enumerate(scanpaths):
            keeper = _keeper(scanpath, known)
            if keeper is not None:
                keepers[place] = keeper
        long = [place for place, scanpath in enumerate(scanpaths) if len(scanpath) >= _LEAST]
        whole = bool(long) and all(place in keepers for place in long)
        result[number] = {place: keeper for place, keeper in keepers.items() if whole or place in set(long)}
        for place, scanpath in enumerate(scanpaths):
            if len(scanpath) and place not in result[number]:
                known[_key(scanpath)].append((number, scanpath.timed_points))
    return result


def describe_repeats(repeats: Mapping[int, int], reading: Reading, names: Sequence[str]) -> str:
    """One sentence: how many of a file's paths stand elsewhere, and where."""
    keepers = Counter(repeats.values())
    where = " and ".join(names[number] for number in keepers)
    return f"{len(repeats)} of {len(reading.scanpaths)} paths are in {where}, too, and count once"


def _knowledge(reading: Reading) -> float:
    """How much a file says of its paths, mean over them."""
    total = 0
    for scanpath in reading.scanpaths:
        total += sum(getattr(scanpath, name) not in (None, "") for name in ("task", "split", "stimulus"))
        total += _TARGET * (scanpath.target_box is not None)
        total += scanpath.display.size is not None
        total += bool(np.isfinite(scanpath.duration).all()) + bool(np.isfinite(scanpath.onset).all())
        total += (scanpath.eye != "unknown") + (scanpath.provenance == "tracker")
    return total / max(len(reading.scanpaths), 1)


def _key(scanpath: Scanpath) -> tuple[int, int, int]:
    """How many fixations, and the cell of the last: searches often begin alike, in the middle of the screen."""
    x, y = np.floor(scanpath.points[-1] / _CELL).astype(int).tolist()
    return len(scanpath), x, y


def _keeper(
    scanpath: Scanpath, known: Mapping[tuple[int, int, int], Sequence[tuple[int, NDArray[np.float64]]]]
) -> int | None:
    """The reading that holds this path already."""
    if not len(scanpath):
        return None
    count, x, y = _key(scanpath)
    own = scanpath.timed_points
    for across in (-1, 0, 1):
        for down in (-1, 0, 1):
            for number, other in known.get((count, x + across, y + down), ()):
                difference = np.abs(own - other)
                # a duration that one of them does not know is no difference
                if (difference[:, :2] <= _PIXELS).all() and not (difference[:, 2] > _MS).any():
                    return number
    return None
