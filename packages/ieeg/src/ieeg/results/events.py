"""From probabilities to seizure events: smoothing, hysteresis, minimum length and merging."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ieeg.results.options import EventOptions


@dataclass(frozen=True)
class SeizureEvent:
    """A detected event, seconds from the first sample; `confidence` is the greatest (smoothed) probability in it."""

    onset: float
    offset: float
    confidence: float

    @property
    def duration(self) -> float:
        return self.offset - self.onset


def smoothed(probability: NDArray[np.floating], width: int) -> NDArray[np.float64]:
    """Centred moving average over `width` segments, shorter at the ends. NaN stays where all are NaN."""
    p = np.asarray(probability, np.float64)
    if width == 1 or not len(p):
        return p
    kernel = np.ones(width)
    valid = np.isfinite(p).astype(float)
    total, count = (np.convolve(v, kernel)[(width - 1) // 2 :][: len(p)] for v in (np.nan_to_num(p), valid))
    return np.divide(total, count, out=np.full(len(p), np.nan), where=count > 0)


def to_events(
    probability: NDArray[np.floating], seconds: float, options: EventOptions | None = None
) -> list[SeizureEvent]:
    """The events of a trace of one probability a segment of `seconds`; NaN counts as no seizure."""
    o = options or EventOptions()
    p = np.nan_to_num(smoothed(probability, o.smoothing), nan=-1.0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], p >= o.lower, [False]]).astype(np.int8)))
    found: list[SeizureEvent] = []
    for a, b in edges.reshape(-1, 2):
        peak = float(p[a:b].max())
        if peak < o.upper:
            continue
        event = SeizureEvent(float(a * seconds), float(b * seconds), peak)
        if found and event.onset - found[-1].offset < o.merge_gap:
            event = SeizureEvent(found[-1].onset, event.offset, max(found[-1].confidence, peak))
            found.pop()
        found.append(event)
    return [e for e in found if e.duration >= o.min_duration]


def spans(events: Sequence[SeizureEvent]) -> NDArray[np.float64]:
    """(onset, offset) of events, (events, 2)."""
    return np.array([(e.onset, e.offset) for e in events], np.float64).reshape(-1, 2)
