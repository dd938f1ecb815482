"""The samples that a tracker would have written for given fixations: still while they last, straight between them."""

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.scanpaths.scanpath import Scanpath


def need_times(scanpath: Scanpath, kind: str) -> None:
    """Raises `UserError` where onsets or durations, which that kind of file needs, are not known."""
    if not (np.isfinite(scanpath.onset).all() and np.isfinite(scanpath.duration).all()):
        raise UserError(
            f"{scanpath.name}: {kind} needs the onset and duration of each fixation",
            "write JSON lines or Parquet instead",
        )


def with_onsets(scanpath: Scanpath, gap: float = 30.0) -> Scanpath:
    """The same with onsets, where they are not known: fixations one after the other, `gap` ms between them."""
    if np.isfinite(scanpath.onset).all():
        return scanpath
    onset = scanpath.onset
    if len(scanpath):
        onset = np.concatenate([[0.0], np.cumsum(scanpath.duration + gap)[:-1]])
    return Scanpath(**{**scanpath.__dict__, "onset": onset})


def sampled(scanpath: Scanpath, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(times, 2): x and y at these times, in ms from the beginning of the trial; before and after the fixations as at their ends."""
    knots = np.stack([scanpath.onset, scanpath.onset + scanpath.duration], 1).ravel()
    knots = np.maximum.accumulate(knots)
    columns = [np.interp(times, knots, np.repeat(values, 2)) for values in (scanpath.x, scanpath.y)]
    return np.stack(columns, 1)
