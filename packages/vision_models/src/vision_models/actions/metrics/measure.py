"""All measures of a set of videos at once, with intervals by video, and the causes of false detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.statistics import Interval, PairedTest, intervals, paired_test
from vision_models.actions.annotations import Action
from vision_models.actions.metrics.precision import match
from vision_models.actions.metrics.recall import POINTS, TIOU, average_recall, first_hits
from vision_models.actions.model.targets import segment_iou
from vision_models.actions.results import Segment

AT = (1, 5, 10, 100)  # proposals of a video at which average recall is stated
CAUSES = ("duplicate", "wrong label", "badly placed", "confused", "background")
LENGTHS = ((0, 2), (2, 5), (5, 15), (15, 60), (60, np.inf))  # seconds
CROWDS = ((1, 1), (2, 4), (5, 9), (10, 10**9))  # actions of a video


@dataclass(frozen=True)
class Judged:
    """Truth and detections of a set of videos, as arrays.

    Attributes:
        names: of the videos, by number.
        truth: rows (video, start, end, class).
        found: rows (video, start, end, class, score).
        labels: of the classes.
    """

    names: tuple[str, ...]
    truth: NDArray[np.float64]
    found: NDArray[np.float64]
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls,
        truth: Mapping[str, Sequence[Action]],
        found: Mapping[str, Sequence[Segment]],
        labels: Sequence[str],
        *,
        agnostic: bool = False,
    ) -> Judged:
        """From actions and segments by video; `agnostic` takes all labels for one."""
        names = tuple(truth)
        numbers = {label: number for number, label in enumerate(labels)}
        actions, segments = [], []
        for place, name in enumerate(names):
            for start, end, label in truth[name]:
                actions.append((place, start, end, 0 if agnostic else numbers[label]))
            for start, end, label, score in found.get(name, ()):
                segments.append((place, start, end, 0 if agnostic else numbers.get(label, -1), score))
        rows = np.array(actions, np.float64).reshape(-1, 4)
        shown = ("action",) if agnostic else tuple(labels)
        return cls(names, rows, np.array(segments, np.float64).reshape(-1, 5), shown)


class PrecisionTable:
    """Mean average precision of any choice of the videos, with repeats: what is true of a video does not depend on the others.

    Args:
        judged: the videos.
        thresholds: tIoU.
    """

    def __init__(self, judged: Judged, thresholds: Sequence[float]) -> None:
        self.thresholds = tuple(thresholds)
        self.classes: list[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]] = []
        self.counts = np.zeros((len(judged.labels), len(judged.names)), np.int64)
        for label in range(len(judged.labels)):
            actions = judged.truth[judged.truth[:, 3] == label]
            np.add.at(self.counts[label], actions[:, 0].astype(int), 1)
            own = judged.found[judged.found[:, 3] == label]
            own = own[np.argsort(-own[:, 4], kind="stable")]
            true = match(actions[:, :3], own[:, :3], thresholds)
            self.classes.append((own[:, 0].astype(int), true, own[:, 4], np.zeros(len(own), np.int64)))

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(thresholds, classes): each video, or each (run, video), counts as often as its weight says; NaN for a class without an action."""
        ap = np.full((len(self.thresholds), len(self.classes)), np.nan)
        by_run = np.atleast_2d(weights)  # (runs, videos): of two runs each video is taken from one
        for label, (videos, true, _, run) in enumerate(self.classes):
            total = (self.counts[label] * by_run.sum(0)).sum()
            if not total:
                continue
            share = by_run[run, videos]
            hits = np.cumsum(true * share, 1)
            precision = hits / np.maximum(np.cumsum(share), 1e-12)
            envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            ap[:, label] = (true * share * envelope).sum(1) / total
        return ap

    def mean(self, weights: NDArray[np.float64]) -> dict[str, float]:
        """mAP by tIoU and their mean."""
        ap = self.average_precision(weights)
        known = ~np.isnan(ap).all(0)
        if not known.any():
            return {name: float("nan") for name in self._names()}
        means = ap[:, known].mean(1)
        return dict(zip(self._names(), [*means.tolist(), float(means.mean())], strict=True))

    def _names(self) -> list[str]:
        return [*(f"mAP@{threshold:g}" for threshold in self.thresholds), "mAP"]


class RecallTable:
    """Average recall of any choice of the videos, with repeats."""

    def __init__(self, judged: Judged, most: float = 100.0) -> None:
        self.most = most
        self.videos = np.unique(judged.truth[:, 0]).astype(int)
        self.counts = np.zeros(len(judged.names), np.int64)
        self.first, self.owner = [], []
        for video in self.videos:
            own = judged.found[judged.found[:, 0] == video]
            own = own[np.argsort(-own[:, 4], kind="stable")]
            self.counts[video] = len(own)
            hits = first_hits(judged.truth[judged.truth[:, 0] == video, 1:3], own[:, 1:3], TIOU)
            self.first.append(hits)
            self.owner += [video] * hits.shape[1]

    def mean(self, weights: NDArray[np.float64]) -> dict[str, float]:
        """AR@AN and AUC, where each video counts as often as its weight says."""
        names = [*(f"AR@{number}" for number in AT), "AUC"]
        owner = np.array(self.owner, int)
        by_action = weights[owner]
        video_weights = weights[self.videos]
        offered = (self.counts[self.videos] * video_weights).sum()
        if not by_action.sum():
            return dict.fromkeys(names, float("nan"))
        if not offered:
            return dict.fromkeys(names, 0.0)
        ratio = self.most * video_weights.sum() / offered
        counts = np.minimum((self.counts * ratio).astype(int), self.counts)
        total = (counts[self.videos] * video_weights).sum()
        share = np.arange(1, POINTS + 1) / POINTS * (self.most * video_weights.sum() / max(1, total))
        numbers = np.minimum((counts[:, None] * share).astype(int), counts[:, None])
        first = np.concatenate(self.first, 1)
        reached = first[:, :, None] <= numbers[owner]
        recall = np.einsum("tnp,n->p", reached, by_action) / by_action.sum() / len(TIOU)
        proposals = share * (total / video_weights.sum())
        values = [float(np.interp(number, proposals, recall)) for number in AT]
        return dict(zip(names, [*values, float(np.trapezoid(recall, proposals) / proposals[-1])], strict=True))


@dataclass(frozen=True)
class Measures:
    """What an evaluation says.

    Attributes:
        values: mAP@tIoU, mAP, AR@AN, AUC, and mAP without labels, as shares.
        intervals: of each, by video.
        by_class: label → mean average precision over tIoU; classes with an action.
        errors: false detections by cause, among the best that are as many as ten times the actions of a video, at tIoU 0.5.
        by_length, by_crowding: recall at tIoU 0.5 of actions by their length in seconds and by the actions of their video, with counts.
        videos, actions, detections: counts.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    by_class: Mapping[str, float]
    errors: Mapping[str, int]
    by_length: Sequence[tuple[str, float, int]]
    by_crowding: Sequence[tuple[str, float, int]]
    videos: int
    actions: int
    detections: int

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        ends = {name: [interval.low, interval.high] for name, interval in self.intervals.items()}
        rows = {"by_length": self.by_length, "by_crowding": self.by_crowding}
        return {
            **dict(self.values),
            "intervals": ends,
            "by_class": dict(self.by_class),
            "errors": dict(self.errors),
            **{name: [list(row) for row in each] for name, each in rows.items()},
            "videos": self.videos,
            "actions": self.actions,
            "detections": self.detections,
        }


def measure(
    judged: Judged, agnostic: Judged, thresholds: Sequence[float], *, resamples: int = 200, seed: int = 0
) -> Measures:
    """All measures.

    Args:
        judged: with labels.
        agnostic: the same with one label for all.
        thresholds: tIoU of mAP.
        resamples: of the bootstrap by video; 0: no intervals.
    """
    precision, any_label = PrecisionTable(judged, thresholds), PrecisionTable(agnostic, thresholds)
    recall = RecallTable(agnostic)
    count = len(judged.names)

    def values(indices: Any) -> dict[str, float]:
        weights = np.bincount(indices, minlength=count).astype(np.float64)
        both = precision.mean(weights) | recall.mean(weights)
        return both | {"mAP without labels": any_label.mean(weights)["mAP"]}

    everything = values(np.arange(count))
    ends = {}
    if resamples:
        ends = intervals(values, range(count), resamples=resamples, seed=seed)
    by_class = {}
    for label, value in zip(judged.labels, precision.average_precision(np.ones(count)).mean(0), strict=True):
        if not np.isnan(value):
            by_class[label] = float(value)
    lengths, crowds = _by_length(agnostic), _by_crowding(agnostic)
    return Measures(
        everything, ends, by_class, causes(judged), lengths, crowds, count, len(judged.truth), len(judged.found)
    )


def curve_of(agnostic: Judged) -> Any:
    """The curve of average recall, without labels."""
    return average_recall(agnostic.truth[:, :3], agnostic.found[:, [0, 1, 2, 4]], most=100)


def causes(judged: Judged, tiou: float = 0.5) -> dict[str, int]:
    """True and false detections by cause, among the best 10 · (actions) of all (after Alwassel et al. 2018).

    A false one is a duplicate of an action that a better one took, of the wrong label at a good place, badly placed with the right label
    (tIoU 0.1 to 0.5), both (confused), or in the background.
    """
    counts = {"true": 0} | dict.fromkeys(CAUSES, 0)
    if not len(judged.truth):
        return counts
    best = judged.found[np.argsort(-judged.found[:, 4], kind="stable")][: 10 * len(judged.truth)]
    true = np.zeros(len(best), bool)
    for label in np.unique(best[:, 3]):
        members = np.flatnonzero(best[:, 3] == label)
        actions = judged.truth[judged.truth[:, 3] == label]
        true[members] = match(actions[:, :3], best[members, :3], [tiou])[0]
    for row, right in zip(best, true, strict=True):
        counts["true" if right else _cause(row, judged.truth, tiou)] += 1
    return counts


def _cause(row: NDArray[np.float64], truth: NDArray[np.float64], tiou: float) -> str:
    actions = truth[truth[:, 0] == row[0]]
    overlaps = segment_iou(row[None, 1:3], actions[:, 1:3])[0]
    same = actions[:, 3] == row[3]
    own, other = overlaps[same].max(initial=0.0), overlaps[~same].max(initial=0.0)
    if own >= tiou:
        return "duplicate"
    if other >= tiou:
        return "wrong label"
    if own >= 0.1:
        return "badly placed"
    return "confused" if other >= 0.1 else "background"


def _recalled(agnostic: Judged) -> NDArray[np.bool_]:
    """Which actions any of a video's best hundred detections reaches at tIoU 0.5, whatever its label."""
    reached = np.zeros(len(agnostic.truth), bool)
    for video in range(len(agnostic.names)):
        members = np.flatnonzero(agnostic.truth[:, 0] == video)
        own = agnostic.found[agnostic.found[:, 0] == video]
        own = own[np.argsort(-own[:, 4], kind="stable")][:100]
        if len(members) and len(own):
            reached[members] = segment_iou(agnostic.truth[members, 1:3], own[:, 1:3]).max(1) >= 0.5
    return reached


def _by_length(agnostic: Judged) -> list[tuple[str, float, int]]:
    reached, lengths = _recalled(agnostic), agnostic.truth[:, 2] - agnostic.truth[:, 1]
    rows = []
    for low, high in LENGTHS:
        inside = (lengths > low) & (lengths <= high)
        if inside.any():
            name = f"{low:g} to {high:g} s" if np.isfinite(high) else f"over {low:g} s"
            rows.append((name, float(reached[inside].mean()), int(inside.sum())))
    return rows


def _by_crowding(agnostic: Judged) -> list[tuple[str, float, int]]:
    reached = _recalled(agnostic)
    per_video = np.bincount(agnostic.truth[:, 0].astype(int), minlength=len(agnostic.names))
    crowd = per_video[agnostic.truth[:, 0].astype(int)]
    rows = []
    for low, high in CROWDS:
        inside = (crowd >= low) & (crowd <= high)
        if inside.any():
            name = "1 action" if high == 1 else f"{low} to {high} actions" if high < 10**9 else f"{low} actions or more"
            rows.append((name, float(reached[inside].mean()), int(inside.sum())))
    return rows


def paired(
    first: Judged, second: Judged, thresholds: Sequence[float], *, resamples: int = 500, seed: int = 0
) -> PairedTest:
    """Two runs on the same videos: the difference of their mAP, by swapping their detections of whole videos."""
    joined = _joined(first, second, thresholds)
    count = len(first.names)

    def value(run_of: NDArray[Any], indices: Any) -> float:
        weights = np.zeros((2, count))
        np.add.at(weights, (run_of, indices), 1.0)
        return joined.mean(weights)["mAP"]

    zeros, ones = np.zeros(count, np.int64), np.ones(count, np.int64)
    return paired_test(value, zeros, ones, range(count), resamples=resamples, seed=seed)


def _joined(first: Judged, second: Judged, thresholds: Sequence[float]) -> PrecisionTable:
    """The detections of two runs in one table, so that each video's can be taken from either."""
    one, other = PrecisionTable(first, thresholds), PrecisionTable(second, thresholds)
    classes = []
    for (videos, true, scores, _), (videos_2, true_2, scores_2, _) in zip(one.classes, other.classes, strict=True):
        order = np.argsort(-np.concatenate([scores, scores_2]), kind="stable")
        run = np.concatenate([np.zeros(len(scores), np.int64), np.ones(len(scores_2), np.int64)])[order]
        both = np.concatenate([scores, scores_2])[order]
        classes.append(
            (np.concatenate([videos, videos_2])[order], np.concatenate([true, true_2], 1)[:, order], both, run)
        )
    one.classes = classes
    return one
