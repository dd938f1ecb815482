"""How detections are judged: windows, samples and events, the last two exactly as SzCORE (Dan et al., the framework of esl-epfl/timescoring).

Events are (onset, offset) pairs in seconds, (events, 2) float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Events = NDArray[np.float64]


@dataclass(frozen=True)
class EventRules:
    """SzCORE's parameters, in seconds (`min_overlap` as a fraction of the extended reference event)."""

    tolerance_start: float = 30
    tolerance_end: float = 60
    min_overlap: float = 0
    max_event_duration: float = 300
    min_duration_between_events: float = 90


@dataclass(frozen=True)
class Score:
    """Counts and ratios; a ratio that is undefined (nothing to find, nothing found) is NaN."""

    true: int  # reference events (or positive samples)
    tp: int
    fp: int
    hours: float

    @property
    def sensitivity(self) -> float:
        return self.tp / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")

    @property
    def f1(self) -> float:
        # undefined only where there was nothing to find and nothing was reported
        return 2 * self.tp / (self.tp + self.fp + self.true) if self.true + self.fp else float("nan")

    @property
    def false_per_day(self) -> float:
        return self.fp / (self.hours / 24) if self.hours else float("nan")

    @property
    def false_per_hour(self) -> float:
        return self.false_per_day / 24

    def __add__(self, other: "Score") -> "Score":
        """Pools the counts of two recordings."""
        return Score(self.true + other.true, self.tp + other.tp, self.fp + other.fp, self.hours + other.hours)


def events_array(events: ArrayLike) -> Events:
    """Events as a sorted (n, 2) array.

    Raises:
        ValueError: not pairs, not finite, or an offset before its onset.
    """
    array = np.asarray(events, dtype=np.float64).reshape(-1, 2) if np.size(events) else np.zeros((0, 2))
    if not np.isfinite(array).all() or (array[:, 1] < array[:, 0]).any():
        raise ValueError("events are pairs of seconds (onset, offset) with onset ≤ offset")
    return array[np.argsort(array[:, 0], kind="stable")]


def to_mask(events: ArrayLike, samples: int, rate: float) -> NDArray[np.bool_]:
    """The samples at `rate` Hz that lie inside an event: from round(onset · rate) to round(offset · rate), the last excluded."""
    edges = np.zeros(samples + 1, dtype=np.int64)
    for onset, offset in np.clip(np.round(events_array(events) * rate).astype(np.int64), 0, samples):
        edges[onset] += 1
        edges[offset] -= 1
    return edges[:-1].cumsum() > 0


def to_events(mask: NDArray[np.bool_], rate: float) -> Events:
    """The runs of a mask, in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2) / rate


def apply_rules(events: ArrayLike, rules: EventRules) -> Events:
    """Merges events whose gap is shorter than the rule's, then splits those that are longer than the rule's."""
    merged: list[list[float]] = []
    for onset, offset in events_array(events):
        if merged and onset - merged[-1][1] < rules.min_duration_between_events:
            merged[-1][1] = max(merged[-1][1], offset)
        else:
            merged.append([onset, offset])
    pieces = []
    for onset, offset in merged:
        while offset - onset > rules.max_event_duration:
            pieces.append((onset, onset + rules.max_event_duration))
            onset += rules.max_event_duration
        pieces.append((onset, offset))
    return np.array(pieces, dtype=np.float64).reshape(-1, 2)


@dataclass(frozen=True)
class EventScore:
    """Event-level result: the score, the events after the rules, and for each of them whether it counted."""

    score: Score
    reference: Events
    hypothesis: Events
    found: NDArray[np.bool_]  # of the reference events
    false: NDArray[np.bool_]  # of the hypothesis events


def score_events(
    reference: ArrayLike, hypothesis: ArrayLike, duration: float, *, rate: float = 10, rules: EventRules | None = None
) -> EventScore:
    """SzCORE's event scores.

    Both sides are put on a grid of `rate` Hz, merged and split by the rules. A reference event, extended by the tolerances and clipped to the
    recording, is found if the hypothesis covers more than `min_overlap` of it; a hypothesis event is false if it lies wholly outside the extended
    intervals of found events.

    Args:
        reference, hypothesis: (onset, offset) in seconds.
        duration: of the recording, in seconds.
        rate: of the grid, Hz.
        rules: tolerances and durations.
    """
    rules = rules or EventRules()
    samples = round(duration * rate)
    reference = apply_rules(to_events(to_mask(reference, samples, rate), rate), rules)
    hypothesis = apply_rules(to_events(to_mask(hypothesis, samples, rate), rate), rules)
    covered = np.concatenate([[0], to_mask(hypothesis, samples, rate).cumsum()])
    allowed = np.zeros(samples, dtype=bool)
    found = np.zeros(len(reference), dtype=bool)
    for i, (onset, offset) in enumerate(reference):
        begin = round(max(0.0, onset - rules.tolerance_start) * rate)
        end = round(min(duration, offset + rules.tolerance_end) * rate)
        found[i] = end > begin and (covered[end] - covered[begin]) / (end - begin) > rules.min_overlap + 1e-6
        if found[i]:
            allowed[begin:end] = True
    false = np.array([not allowed[round(a * rate) : round(b * rate)].any() for a, b in hypothesis], dtype=bool)
    score = Score(len(reference), int(found.sum()), int(false.sum()), duration / 3600)
    return EventScore(score, reference, hypothesis, found, false)


def score_samples(reference: ArrayLike, hypothesis: ArrayLike, duration: float, *, rate: float = 1) -> Score:
    """SzCORE's sample scores: every sample of a grid of `rate` Hz by itself."""
    samples = round(duration * rate)
    truth, guess = to_mask(reference, samples, rate), to_mask(hypothesis, samples, rate)
    return Score(int(truth.sum()), int((truth & guess).sum()), int((guess & ~truth).sum()), samples / rate / 3600)


def cohen_kappa(tp: int, fp: int, tn: int, fn: int) -> float:
    """Cohen's kappa of two binary raters, ``(p_o − p_e) / (1 − p_e)``; NaN where both always say the same."""
    total = tp + fp + tn + fn
    if not total:
        return float("nan")
    observed = (tp + tn) / total
    expected = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def pooled(scores: Sequence[Score]) -> Score:
    """The counts of several recordings together."""
    return sum(scores, start=Score(0, 0, 0, 0.0))
