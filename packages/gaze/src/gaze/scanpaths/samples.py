"""Raw samples: where each eye looked, many times a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.scanpaths.scanpath import Eye

SLOWEST, FASTEST = 5, 20_000  # samples per second of any eye tracker


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one recording.

    Attributes:
        time: in ms, (samples,).
        points: eye → (samples, 2), x and y in pixels, NaN where it was not seen.
        block: number of the recording block or trial of each sample, (samples,).
        notes: what the user should know.
        names: block → its subject, stimulus and trial, as far as the file names them.
    """

    time: NDArray[np.float64]
    points: dict[Eye, NDArray[np.float64]]
    block: NDArray[np.int64]
    notes: Sequence[str] = ()
    names: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time)

    def eyes(self) -> list[Eye]:
        """Those that were seen at all."""
        return [eye for eye, points in self.points.items() if np.isfinite(points).all(1).any()]

    def rate(self) -> float:
        """Samples per second, from the commonest interval.

        Raises:
            UserError: times do not grow.
        """
        steps = np.diff(self.time)
        steps = steps[steps > 0]
        if not len(steps):
            raise UserError("the times of the samples do not grow", "name the column of times: --columns onset=…")
        return 1000.0 / float(np.median(steps))
