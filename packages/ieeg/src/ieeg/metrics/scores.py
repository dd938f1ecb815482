"""Scores of detections: windows, samples and events, the last two exactly as SzCORE (Dan et al., the framework of esl-epfl/timescoring).

Events are (onset, offset) pairs in seconds, (events, 2) float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Events = NDArray[np.float64]
GRID = 10  # Hz: SzCORE compares events on this grid


@dataclass(frozen=True)
class EventRules:
    """SzCORE's parameters, in seconds (`min_overlap` as a fraction of the extended reference event); lists of events are read at `rate` Hz."""

    tolerance_start: float = 30
    tolerance_end: float = 60
    min_overlap: float = 0
    max_event_duration: float = 300
    min_duration_between_events: float = 90
    rate: float = 1


@dataclass(frozen=True)
class Score:
    """Counts and ratios; an undefined ratio (no event to detect, or none detected) is NaN."""

    true: int  # number of reference events (or positive samples)
    tp: int
    fp: int
    hours: float

    @property
    def sensitivity(self) -> float:
        return _ratio(self.tp, self.true)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> float:
        # Undefined only where there was nothing to detect and nothing was reported.
        if not self.true + self.fp:
            return float("nan")
        return 2 * self.tp / (self.tp + self.fp + self.true)

    @property
    def false_per_day(self) -> float:
        return _ratio(self.fp, self.hours / 24)

    @property
    def false_per_hour(self) -> float:
        return self.false_per_day / 24

    def __add__(self, other: "Score") -> "Score":
        """Pools the counts of two recordings."""
        return Score(self.true + other.true, self.tp + other.tp, self.fp + other.fp, self.hours + other.hours)


def _ratio(part: float, whole: float) -> float:
    if not whole:
        return float("nan")
    return part / whole


def events_array(events: ArrayLike) -> Events:
    """Events as a sorted (n, 2) array.

    Raises:
        ValueError: not pairs, not finite, or an offset before its onset.
    """
    array = np.zeros((0, 2))
    if np.size(events):
        array = np.asarray(events, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(array).all() or (array[:, 1] < array[:, 0]).any():
        raise ValueError("events are pairs of seconds (onset, offset) with onset ≤ offset")
    return array[np.argsort(array[:, 0], kind="stable")]


def to_mask(events: ArrayLike, samples: int, rate: float) -> NDArray[np.bool_]:
    """The samples at `rate` Hz inside an event: from round(onset · rate) to round(offset · rate), the last excluded."""
    return _mask(np.round(events_array(events) * rate), samples)


def szcore_mask(events: ArrayLike, duration: float, rate: float = 1) -> NDArray[np.bool_]:
    """As `to_mask`, but times are truncated to whole samples, not rounded, as the official SzCORE evaluation does with tables of events."""
    return _mask(np.trunc(events_array(events) * rate), int(duration * rate))


def _mask(edges: NDArray[np.float64], samples: int) -> NDArray[np.bool_]:
    # The number of events that cover each sample: one more at an onset, one less at an offset. Events may overlap.
    steps = np.zeros(samples + 1, dtype=np.int64)
    for onset, offset in np.clip(edges, 0, samples).astype(np.int64):
        steps[onset] += 1
        steps[offset] -= 1
    return steps[:-1].cumsum() > 0


def to_events(mask: NDArray[np.bool_], rate: float) -> Events:
    """The runs of a mask, in seconds."""
    return _runs(mask) / rate


def _runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(first, last + 1) of each run of a mask."""
    # A run begins where the mask rises and ends where it falls; False on both sides closes runs at the edges.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def apply_rules(mask: NDArray[np.bool_], rate: float, rules: EventRules) -> Events:
    """The events of a mask, in seconds: those whose gap is shorter than the rule's are merged, then those longer than the rule's are split.

    Counted in samples: in seconds, 300.1 − 0.1 is more than 300, and splitting would leave an empty piece.
    """
    gap = rules.min_duration_between_events * rate
    longest = max(1, round(rules.max_event_duration * rate))
    merged: list[list[int]] = []
    for first, last in _runs(mask).tolist():
        if merged and first - merged[-1][1] < gap:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    pieces = []
    for first, last in merged:
        while last - first > longest:
            pieces.append((first, first + longest))
            first += longest
        pieces.append((first, last))
    return np.array(pieces, dtype=np.float64).reshape(-1, 2) / rate


@dataclass(frozen=True)
class EventScore:
    """Event-level result: the score, the events after the rules, and whether each of them counted."""

    score: Score
    reference: Events
    hypothesis: Events
    found: NDArray[np.bool_]  # of the reference events
    false: NDArray[np.bool_]  # of the hypothesis events


def score_events(
    reference: ArrayLike, hypothesis: ArrayLike, duration: float, *, rules: EventRules | None = None
) -> EventScore:
    """SzCORE's event scores of two lists of events; at the default rate as in the official evaluation.

    Args:
        reference, hypothesis: (onset, offset) in seconds.
        duration: of the recording, in seconds.
        rules: tolerances, durations, and the rate at which both are read.
    """
    rules = rules or EventRules()
    reference_mask = szcore_mask(reference, duration, rules.rate)
    hypothesis_mask = szcore_mask(hypothesis, duration, rules.rate)
    return score_event_masks(reference_mask, hypothesis_mask, rules.rate, rules)


def score_event_masks(
    reference: NDArray[np.bool_], hypothesis: NDArray[np.bool_], rate: float, rules: EventRules | None = None
) -> EventScore:
    """SzCORE's event scores of two masks of `rate` Hz.

    Both sides are merged and split by the rules and put on a grid of 10 Hz. A reference event, extended by the tolerances and clipped to the
    recording, is found if the hypothesis covers more than `min_overlap` of it; a hypothesis event is false if it is wholly outside the extended
    intervals of found events.

    Raises:
        ValueError: masks of different lengths.
    """
    if len(reference) != len(hypothesis):
        raise ValueError(f"the masks have different lengths: {len(reference)} and {len(hypothesis)}")
    rules = rules or EventRules()
    samples = round(len(reference) / rate * GRID)
    duration = samples / GRID
    true_events = apply_rules(reference, rate, rules)
    detected = apply_rules(hypothesis, rate, rules)
    # Running sums, so that the number of detected samples in an interval is one difference.
    covered = np.concatenate([[0], to_mask(detected, samples, GRID).cumsum()])
    allowed = np.zeros(samples, dtype=bool)
    is_found = np.zeros(len(true_events), dtype=bool)
    for i, (onset, offset) in enumerate(true_events):
        begin = max(0.0, onset - rules.tolerance_start)
        end = min(duration, offset + rules.tolerance_end)
        first, last = round(begin * GRID), round(end * GRID)
        overlap = (covered[last] - covered[first]) / GRID / (end - begin)
        # timescoring's tolerance: any overlap at all, not a rounding error
        is_found[i] = overlap > rules.min_overlap + 1e-6
        if is_found[i]:
            allowed[first:last] = True
    false = np.zeros(len(detected), dtype=bool)
    for i, (onset, offset) in enumerate(detected):
        false[i] = not allowed[round(onset * GRID) : round(offset * GRID)].any()
    score = Score(len(true_events), int(is_found.sum()), int(false.sum()), duration / 3600)
    return EventScore(score, true_events, detected, is_found, false)


def score_samples(reference: ArrayLike, hypothesis: ArrayLike, duration: float, *, rate: float = 1) -> Score:
    """SzCORE's sample scores: every sample of a grid of `rate` Hz by itself."""
    return score_sample_masks(szcore_mask(reference, duration, rate), szcore_mask(hypothesis, duration, rate), rate)


def score_sample_masks(reference: NDArray[np.bool_], hypothesis: NDArray[np.bool_], rate: float) -> Score:
    """SzCORE's sample scores of two masks of `rate` Hz."""
    true_positives = int((reference & hypothesis).sum())
    false_positives = int((hypothesis & ~reference).sum())
    return Score(int(reference.sum()), true_positives, false_positives, len(reference) / rate / 3600)


def cohen_kappa(tp: int, fp: int, tn: int, fn: int) -> float:
    """Cohen's kappa of two binary raters, ``(p_o − p_e) / (1 − p_e)``; NaN where both always give the same answer."""
    total = tp + fp + tn + fn
    if not total:
        return float("nan")
    observed = (tp + tn) / total
    expected = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    if expected >= 1:
        return float("nan")
    return (observed - expected) / (1 - expected)


def pooled(scores: Sequence[Score]) -> Score:
    """The counts of several recordings together."""
    return sum(scores, start=Score(0, 0, 0, 0.0))
