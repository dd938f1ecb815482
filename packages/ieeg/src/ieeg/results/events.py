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
    values = np.asarray(probability, np.float64)
    if width == 1 or not len(values):
        return values
    kernel = np.ones(width)
    begin = (width - 1) // 2  # centres the kernel; for an even width, the longer half is in the past
    centred = slice(begin, begin + len(values))
    # Sum and number of the finite values: near the ends and beside NaN there are fewer.
    total = np.convolve(np.nan_to_num(values), kernel)[centred]
    count = np.convolve(np.isfinite(values).astype(float), kernel)[centred]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def to_events(
    probability: NDArray[np.floating], seconds: float, options: EventOptions | None = None
) -> list[SeizureEvent]:
    """The events of a trace of one probability per segment of `seconds`; NaN counts as no seizure."""
    rules = options or EventOptions()
    trace = np.nan_to_num(smoothed(probability, rules.smoothing), nan=-1.0)
    # Runs above the lower level: each begins where the mask rises and ends where it falls.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], trace >= rules.lower, [False]]).astype(np.int8)))
    events: list[SeizureEvent] = []
    for first, last in edges.reshape(-1, 2):
        peak = float(trace[first:last].max())
        if peak < rules.upper:  # hysteresis: it never reached the threshold
            continue
        event = SeizureEvent(float(first * seconds), float(last * seconds), peak)
        if events and event.onset - events[-1].offset < rules.merge_gap:
            before = events.pop()
            event = SeizureEvent(before.onset, event.offset, max(before.confidence, peak))
        events.append(event)
    # Only after merging: two short events next to each other may make one that is long enough.
    return [event for event in events if event.duration >= rules.min_duration]


def spans(events: Sequence[SeizureEvent]) -> NDArray[np.float64]:
    """(onset, offset) of events, (events, 2)."""
    pairs = [(event.onset, event.offset) for event in events]
    return np.array(pairs, np.float64).reshape(-1, 2)  # (0, 2) without events
