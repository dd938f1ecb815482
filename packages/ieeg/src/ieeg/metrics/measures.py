"""How good a detector is: windows, samples and events (as SzCORE), latency, time in warning, false alarms against sensitivity, calibration.

Everything is computed a subject, averaged over subjects with a bootstrap interval over them, and pooled.
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
    """A recording with its truth and what a detector said of it.

    Attributes:
        probability: one a segment of `seconds`, or None where the detector gave events only.
        events: detected (onset, offset), seconds; None: made of the probability.
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
        count = len(self.probability) if self.probability is not None else int(self.duration / self.seconds)
        low = np.arange(count)[:, None] * self.seconds
        onset, offset = self.seizures[:, 0], self.seizures[:, 1]
        return np.any((low <= offset) & (onset <= low + self.seconds), axis=1)


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
        tp, fp, tn, fn = (int(v) for v in self.windows)
        return {
            "window_kappa": cohen_kappa(tp, fp, tn, fn),
            "window_f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan,
            "sample_sensitivity": self.samples.sensitivity,
            "sample_precision": self.samples.precision,
            "sample_f1": self.samples.f1,
            "sample_false_per_day": self.samples.false_per_day,
            "event_sensitivity": self.events.sensitivity,
            "event_precision": self.events.precision,
            "event_f1": self.events.f1,
            "event_false_per_day": self.events.false_per_day,
            "event_false_per_hour": self.events.false_per_hour,
            "latency": float(np.median(self.latencies)) if self.latencies else math.nan,
            "time_in_warning": self.warned / self.seconds if self.seconds else math.nan,
        }


def count(judged: Judged, options: EventOptions, rules: EventRules | None = None) -> Counts:
    """The counts of one recording under one set of options."""
    found = judged.detected(options)
    truth = judged.segment_truth()
    if judged.events is None and judged.probability is not None:
        said = np.nan_to_num(judged.probability, nan=0.0) >= options.upper
    else:
        low = np.arange(len(truth))[:, None] * judged.seconds
        said = ((low < found[:, 1]) & (found[:, 0] < low + judged.seconds)).any(1)
    windows = np.array([(said & truth).sum(), (said & ~truth).sum(), (~said & ~truth).sum(), (~said & truth).sum()])
    latencies = []
    for onset, offset in judged.seizures:
        touching = found[(found[:, 0] < offset) & (found[:, 1] > onset)]
        if len(touching):
            latencies.append(float(max(touching[:, 0].min() - onset, 0.0)))
    return Counts(
        windows,
        score_samples(judged.seizures, found, judged.duration),
        score_events(judged.seizures, found, judged.duration, rules=rules).score,
        latencies,
        float((np.minimum(found[:, 1], judged.duration) - found[:, 0]).sum()),
        judged.duration,
    )


def by_subject(
    all_judged: Sequence[Judged], options: EventOptions, rules: EventRules | None = None
) -> dict[str, Counts]:
    """The counts of each subject's recordings together."""
    out: dict[str, Counts] = {}
    for each in all_judged:
        counts = count(each, options, rules)
        out[each.subject] = out[each.subject] + counts if each.subject in out else counts
    return dict(sorted(out.items()))


def total(counts: Sequence[Counts]) -> Counts:
    """Everything together."""
    first, *rest = counts
    for each in rest:
        first = first + each
    return first


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
        ValueError: nothing to judge.
    """
    if not all_judged:
        raise ValueError("nothing to judge")
    o = options or EventOptions()
    subjects = by_subject(all_judged, o, rules)
    each = {name: counts.measures() for name, counts in subjects.items()}
    counts = list(subjects.values())
    names = list(next(iter(each.values())))
    # the ratios of every subject once, so that a resample is an index
    table = np.array([[each[s][n] for n in names] for s in subjects])
    rng = np.random.default_rng(seed)
    summary = {}
    drawn = rng.integers(0, len(counts), (resamples, len(counts))) if len(counts) > 1 else None
    means = _nanmean(table)
    intervals = np.full((2, len(names)), np.nan)
    pooled_intervals = np.full((2, len(names)), np.nan)
    if drawn is not None:
        intervals = _quantiles(np.stack([_nanmean(table[rows]) for rows in drawn]))
        some = drawn[: max(200, resamples // 5)]
        pooled_intervals = _quantiles(
            np.array([list(total([counts[i] for i in rows]).measures().values()) for rows in some])
        )
    together = total(counts).measures()
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
        "seizures": int(sum(len(j.seizures) for j in all_judged)),
        "hours": sum(j.duration for j in all_judged) / 3600,
        "threshold": o.upper,
        "measures": summary,
        "per_subject": each,
    }
    if all(j.probability is not None for j in all_judged):
        result["curve"] = curve(all_judged, o, rules)
        result["calibration"] = calibration(all_judged)
    return result


def _nanmean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    valid = np.isfinite(table)
    number = valid.sum(0)
    return np.where(number, np.where(valid, table, 0).sum(0) / np.maximum(number, 1), np.nan)


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.full((2, values.shape[1]), np.nan)
    for j, column in enumerate(values.T):
        column = column[np.isfinite(column)]
        if len(column):
            out[:, j] = np.quantile(column, [0.025, 0.975])
    return out


def curve(
    all_judged: Sequence[Judged], options: EventOptions, rules: EventRules | None = None
) -> list[dict[str, float]]:
    """Pooled event sensitivity, false alarms an hour and time in warning over thresholds; the other options stay."""
    points = []
    for threshold in sorted({*THRESHOLDS, options.upper}):  # the one in use, too: the marked point is the table's
        low = None if options.low is None else min(options.low, threshold)
        o = replace(options, threshold=threshold, low=low)
        counts = total([count(j, o, rules) for j in all_judged])
        measures = counts.measures()
        keys = ("event_sensitivity", "event_false_per_hour", "event_f1", "time_in_warning", "latency")
        points.append({"threshold": threshold, **{k: measures[k] for k in keys}})
    return points


def calibration(all_judged: Sequence[Judged], bins: int = 10) -> dict[str, Any]:
    """How often a seizure was there, by probability; expected calibration error and Brier score over segments."""
    p = np.concatenate([j.probability for j in all_judged if j.probability is not None]).astype(np.float64)
    y = np.concatenate([j.segment_truth() for j in all_judged if j.probability is not None])
    valid = np.isfinite(p)
    p, y = p[valid], y[valid]
    which = np.minimum((p * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    for b in range(bins):
        here = which == b
        if here.any():
            said, true = float(p[here].mean()), float(y[here].mean())
            rows.append(
                {"from": b / bins, "to": (b + 1) / bins, "segments": int(here.sum()), "said": said, "true": true}
            )
            error += here.mean() * abs(said - true)
    return {"bins": rows, "expected_calibration_error": error, "brier": float(np.mean((p - y) ** 2))}


def compare(
    first: Mapping[str, Counts], second: Mapping[str, Counts], *, seed: int = 0, permutations: int = 5000
) -> dict[str, Any]:
    """Paired test of two detectors on the same subjects: mean difference (second − first) a measure, and the two-sided p-value of swapping
    the two within subjects at random (all swaps where there are few).

    Raises:
        ValueError: not the same subjects.
    """
    if first.keys() != second.keys():
        raise ValueError(f"the detectors were judged on different subjects: {sorted(first.keys() ^ second.keys())}")
    a, b = ([counts[s].measures() for s in first] for counts in (first, second))
    rng = np.random.default_rng(seed)
    out = {}
    for name in a[0]:
        difference = np.array([y[name] - x[name] for x, y in zip(a, b, strict=True)])
        difference = difference[np.isfinite(difference)]
        n = len(difference)
        if not n:
            out[name] = {"difference": math.nan, "p": math.nan, "subjects": 0}
            continue
        if 2**n <= permutations:
            signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
            extra = 0
        else:
            signs, extra = rng.choice([-1, 1], (permutations, n)), 1
        observed = abs(difference.mean())
        hits = int((np.abs((signs * difference).mean(1)) >= observed - 1e-12).sum())
        out[name] = {
            "difference": float(difference.mean()),
            "p": (hits + extra) / (len(signs) + extra),
            "subjects": n,
        }
    return out
