"""Measures of a detector: windows, samples and events (as SzCORE), latency, time in warning, false alarms against sensitivity, calibration.

Everything is computed per subject, averaged over subjects with a bootstrap interval over them, and pooled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ieeg.metrics.scores import EventRules, Score, cohen_kappa, score_events, score_samples
from ieeg.results.events import spans, to_events
from ieeg.results.options import EventOptions

RESAMPLES = 2000
THRESHOLDS = tuple(np.round(np.linspace(0.02, 0.98, 49), 3).tolist())


@dataclass(frozen=True)
class Judged:
    """A recording with its truth and a detector's results on it.

    Attributes:
        probability: one per segment of `seconds`, or None where the detector gave events only.
        events: detected (onset, offset), seconds; None: derived from the probability.
        seizures: marked (onset, offset), seconds.
    """

    subject: str
    name: str
    duration: float
    seconds: float
    seizures: NDArray[np.float64]
    probability: NDArray[np.float32] | None = None
    events: NDArray[np.float64] | None = None

    def detected(self, options: EventOptions) -> NDArray[np.float64]:
        """(onset, offset) of the detected events."""
        if self.events is not None:
            return self.events
        assert self.probability is not None
        return spans(to_events(self.probability, self.seconds, options))

    def segment_truth(self) -> NDArray[np.bool_]:
        """Whether each segment touches a seizure, ends included (the published label)."""
        if self.probability is not None:
            count = len(self.probability)
        else:
            count = int(self.duration / self.seconds)
        begin = np.arange(count)[:, None] * self.seconds
        onset, offset = self.seizures[:, 0], self.seizures[:, 1]
        return np.any((begin <= offset) & (onset <= begin + self.seconds), axis=1)


@dataclass(frozen=True)
class Counts:
    """Everything that adds up over recordings."""

    windows: NDArray[np.int64]  # tp, fp, tn, fn
    samples: Score
    events: Score
    latencies: list[float] = field(default_factory=list)  # seconds from onset to the first detection
    warned: float = 0.0  # seconds
    seconds: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.windows + other.windows,
            self.samples + other.samples,
            self.events + other.events,
            [*self.latencies, *other.latencies],
            self.warned + other.warned,
            self.seconds + other.seconds,
        )

    def measures(self) -> dict[str, float]:
        """Ratios; NaN where undefined."""
        tp, fp, tn, fn = self.windows.tolist()
        window_f1, latency, time_in_warning = math.nan, math.nan, math.nan
        if tp + fp + fn:
            window_f1 = 2 * tp / (2 * tp + fp + fn)
        if self.latencies:
            latency = float(np.median(self.latencies))
        if self.seconds:
            time_in_warning = self.warned / self.seconds
        return {
            "window_kappa": cohen_kappa(tp, fp, tn, fn),
            "window_f1": window_f1,
            "sample_sensitivity": self.samples.sensitivity,
            "sample_precision": self.samples.precision,
            "sample_f1": self.samples.f1,
            "sample_false_per_day": self.samples.false_per_day,
            "event_sensitivity": self.events.sensitivity,
            "event_precision": self.events.precision,
            "event_f1": self.events.f1,
            "event_false_per_day": self.events.false_per_day,
            "event_false_per_hour": self.events.false_per_hour,
            "latency": latency,
            "time_in_warning": time_in_warning,
        }


def count(judged: Judged, options: EventOptions, rules: EventRules | None = None) -> Counts:
    """The counts of one recording under one set of options."""
    events = judged.detected(options)
    onsets, offsets = events[:, 0], events[:, 1]
    truth = judged.segment_truth()
    # Windows are evaluated by the bare threshold, before smoothing and merging; without a probability, by the events.
    # A missing probability (a gap in the recording) counts as no seizure.
    if judged.events is None and judged.probability is not None:
        positive = np.nan_to_num(judged.probability, nan=0.0) >= options.upper
    else:
        begin = np.arange(len(truth))[:, None] * judged.seconds
        positive = ((begin < offsets) & (onsets < begin + judged.seconds)).any(1)
    true_positives, false_positives = (positive & truth).sum(), (positive & ~truth).sum()
    true_negatives, false_negatives = (~positive & ~truth).sum(), (~positive & truth).sum()
    latencies = []
    for onset, offset in judged.seizures:
        touching = onsets[(onsets < offset) & (offsets > onset)]
        if len(touching):
            latencies.append(float(max(touching.min() - onset, 0.0)))  # an early alarm has a latency of 0
    return Counts(
        np.array([true_positives, false_positives, true_negatives, false_negatives]),
        score_samples(judged.seizures, events, judged.duration),
        score_events(judged.seizures, events, judged.duration, rules=rules).score,
        latencies,
        float((np.minimum(offsets, judged.duration) - onsets).sum()),
        judged.duration,
    )


def by_subject(
    all_judged: Sequence[Judged], options: EventOptions, rules: EventRules | None = None
) -> dict[str, Counts]:
    """The counts of each subject's recordings together."""
    subjects: dict[str, Counts] = {}
    for judged in all_judged:
        counts = count(judged, options, rules)
        if judged.subject in subjects:
            counts = subjects[judged.subject] + counts
        subjects[judged.subject] = counts
    return dict(sorted(subjects.items()))


def total(counts: Sequence[Counts]) -> Counts:
    """The counts of all together."""
    together, *rest = counts
    for more in rest:
        together = together + more
    return together


def judge(
    all_judged: Sequence[Judged],
    options: EventOptions | None = None,
    *,
    rules: EventRules | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """All measures: per subject, their mean over subjects and the pooled value, both with bootstrap intervals; curve and calibration.

    Raises:
        ValueError: no recording.
    """
    if not all_judged:
        raise ValueError("there is no recording to evaluate")
    options = options or EventOptions()
    subjects = by_subject(all_judged, options, rules)
    counts = list(subjects.values())
    per_subject = {name: counts.measures() for name, counts in subjects.items()}
    # The ratios of every subject are computed once; a resample is then an index into the rows of a table.
    table = np.array([list(measures.values()) for measures in per_subject.values()])
    names = list(next(iter(per_subject.values())))
    intervals = np.full((2, len(names)), np.nan)
    pooled_intervals = np.full((2, len(names)), np.nan)
    if len(counts) > 1:  # subjects are resampled, not recordings: those of one subject resemble each other
        draws = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
        intervals = _quantiles(np.stack([_nanmean(table[rows]) for rows in draws]))
        # Pooling adds up the counts of every draw, which is slow: fewer draws.
        pooled_draws = []
        for rows in draws[: max(200, resamples // 5)]:
            resample = total([counts[i] for i in rows])
            pooled_draws.append(list(resample.measures().values()))
        pooled_intervals = _quantiles(np.array(pooled_draws))
    means = _nanmean(table)
    together = total(counts).measures()
    summary = {}
    for j, name in enumerate(names):
        summary[name] = {
            "mean": float(means[j]),
            "mean_interval": intervals[:, j].tolist(),
            "pooled": together[name],
            "pooled_interval": pooled_intervals[:, j].tolist(),
        }
    result: dict[str, Any] = {
        "recordings": len(all_judged),
        "subjects": len(subjects),
        "seizures": int(sum(len(judged.seizures) for judged in all_judged)),
        "hours": sum(judged.duration for judged in all_judged) / 3600,
        "threshold": options.upper,
        "measures": summary,
        "per_subject": per_subject,
    }
    if all(judged.probability is not None for judged in all_judged):
        result["curve"] = curve(all_judged, options, rules)
        result["calibration"] = calibration(all_judged)
    return result


def _nanmean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each column without its NaN; NaN, and no warning, where a column holds nothing else."""
    valid = np.isfinite(table)
    number = valid.sum(0)
    return np.where(number, np.where(valid, table, 0).sum(0) / np.maximum(number, 1), np.nan)


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2.5 % and 97.5 % quantiles of each column's finite values, (2, columns)."""
    out = np.full((2, values.shape[1]), np.nan)
    for j, column in enumerate(values.T):
        column = column[np.isfinite(column)]
        if len(column):
            out[:, j] = np.quantile(column, [0.025, 0.975])
    return out


def curve(
    all_judged: Sequence[Judged], options: EventOptions, rules: EventRules | None = None
) -> list[dict[str, float]]:
    """Pooled event sensitivity, false alarms per hour and time in warning over thresholds; the other options stay."""
    names = ("event_sensitivity", "event_false_per_hour", "event_f1", "time_in_warning", "latency")
    points = []
    # The threshold in use is among them, so that the point marked in the picture is the table's.
    for threshold in sorted({*THRESHOLDS, options.upper}):
        low = options.low
        if low is not None:  # an event's lower threshold must not be above its upper one
            low = min(low, threshold)
        varied = replace(options, threshold=threshold, low=low)
        measures = total([count(judged, varied, rules) for judged in all_judged]).measures()
        points.append({"threshold": threshold, **{name: measures[name] for name in names}})
    return points


def calibration(all_judged: Sequence[Judged], bins: int = 10) -> dict[str, Any]:
    """Observed frequency of seizures by predicted probability; expected calibration error and Brier score over segments."""
    probabilities, truths = [], []
    for judged in all_judged:
        if judged.probability is not None:
            probabilities.append(judged.probability)
            truths.append(judged.segment_truth())
    predicted, observed = np.concatenate(probabilities).astype(np.float64), np.concatenate(truths)
    valid = np.isfinite(predicted)
    predicted, observed = predicted[valid], observed[valid]
    bin_of = np.minimum((predicted * bins).astype(int), bins - 1)  # a probability of 1 belongs to the last bin
    rows = []
    error = 0.0
    for i in range(bins):
        in_bin = bin_of == i
        if not in_bin.any():
            continue
        mean, frequency = float(predicted[in_bin].mean()), float(observed[in_bin].mean())
        error += in_bin.mean() * abs(mean - frequency)
        edges = {"from": i / bins, "to": (i + 1) / bins}
        rows.append({**edges, "segments": int(in_bin.sum()), "said": mean, "true": frequency})
    brier = float(np.mean((predicted - observed) ** 2))
    return {"bins": rows, "expected_calibration_error": error, "brier": brier}


def compare(
    first: Mapping[str, Counts], second: Mapping[str, Counts], *, seed: int = 0, permutations: int = 5000
) -> dict[str, Any]:
    """Paired test of two detectors on the same subjects: mean difference (second − first) per measure, and the two-sided p-value of swapping
    the two within subjects at random (with few subjects, in all ways).

    Raises:
        ValueError: different subjects.
    """
    if first.keys() != second.keys():
        raise ValueError(f"the detectors have results for different subjects: {sorted(first.keys() ^ second.keys())}")
    first_measures = [first[subject].measures() for subject in first]
    second_measures = [second[subject].measures() for subject in first]
    rng = np.random.default_rng(seed)
    tests = {}
    for name in first_measures[0]:
        differences = []
        for before, after in zip(first_measures, second_measures, strict=True):
            differences.append(after[name] - before[name])
        difference = np.array(differences)
        difference = difference[np.isfinite(difference)]  # a subject without seizures has no sensitivity
        n = len(difference)
        if not n:
            tests[name] = {"difference": math.nan, "p": math.nan, "subjects": 0}
            continue
        if 2**n <= permutations:
            # every pattern of swaps once: the bits of 0 … 2ⁿ − 1, as signs
            signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
            observed_among = 0
        else:
            signs = rng.choice([-1, 1], (permutations, n))
            observed_among = 1  # the observed pattern is one of the possible ones: p is never 0
        observed = abs(difference.mean())
        as_extreme = int((np.abs((signs * difference).mean(1)) >= observed - 1e-12).sum())
        tests[name] = {
            "difference": float(difference.mean()),
            "p": (as_extreme + observed_among) / (len(signs) + observed_among),
            "subjects": n,
        }
    return tests
