"""Salient snippets of a text: windows slide over its token attributions and filters pick tokens out of them (Feldhus et al. 2023).

``mode="corrected"`` is the definition; ``mode="official"`` repeats what the published code does, its faults included (the last window of
a text is never visited, a run's coverage leaves out its last token, hits are in the order of their indices).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Sign = Literal["+", "-"] | None
Mode = Literal["corrected", "official"]


@dataclass(frozen=True)
class SearchOptions:
    """What counts as salient.

    Args:
        filter_length: tokens of a window.
        sign: what all chosen tokens must be: ``"+"`` (0 or more), ``"-"``, or None.
        metric: ``"mean"``: the threshold is the mean of the `value` · T greatest; ``"quantile"``: `value` standard deviations;
            ``"variance"``: `value` variances.
        value: see `metric`.
        top_k: hits of each search that enter a summary.
        summary_quantile: of the runs' coverages, from which a run is kept.
        mode: corrected or official.
    """

    filter_length: int = 5
    sign: Sign = "+"
    metric: Literal["mean", "quantile", "variance"] = "mean"
    value: float = 0.4
    top_k: int = 5
    summary_quantile: float = 0.75
    mode: Mode = "corrected"


@dataclass(frozen=True)
class Hit:
    """Tokens that a search found.

    Attributes:
        indices: of the tokens.
        value: their mean normalised attribution.
        coverage: their share of all positive attribution, at least 0.
    """

    indices: tuple[int, ...]
    value: float
    coverage: float


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of a summary, both ends included."""

    first: int
    last: int
    coverage: float


@dataclass(frozen=True)
class Search:
    """What was found in one text.

    Attributes:
        attributions: what was searched; of the opposite sign where ``"-"`` was asked for.
        normalised: divided by the absolute value of the greatest.
        threshold: that values must exceed.
        convolution: hits of filters with gaps.
        span: hits of filters without.
        top_tokens: single tokens with the greatest attributions.
        runs: of the summary, the most important first.
    """

    attributions: Floats
    normalised: Floats
    threshold: float
    convolution: Sequence[Hit]
    span: Sequence[Hit]
    top_tokens: Sequence[int]
    runs: Sequence[Run]


@cache
def convolution_filters(length: int) -> NDArray[np.int8]:
    """Every choice of 2 to length − 2 tokens of a window: 20 filters at 5, 112 at 7."""
    rows = []
    for count in range(2, length - 1):
        # in ascending order of the binary number that a filter spells
        for places in reversed(list(combinations(range(length), count))):
            row = np.zeros(length, np.int8)
            row[list(places)] = 1
            rows.append(row)
    return np.array(rows, np.int8).reshape(-1, length)


@cache
def span_filters(length: int) -> NDArray[np.int8]:
    """Runs of 3, 5, … tokens in the middle of a window."""
    rows = []
    for count in range(3, length + 1, 2):
        row = np.zeros(length, np.int8)
        start = (length - count) // 2
        row[start : start + count] = 1
        rows.append(row)
    return np.array(rows, np.int8).reshape(-1, length)


def normalise(attributions: Floats) -> Floats:
    """Divided by the absolute value of the greatest."""
    if not len(attributions):
        return attributions
    return attributions / abs(attributions.max())


def find_threshold(normalised: Floats, options: SearchOptions) -> float:
    """The value that hits must exceed.

    Raises:
        ValueError: no such metric.
    """
    if options.metric == "mean":
        count = max(int(options.value * len(normalised)), 1)
        return float(np.sort(normalised)[::-1][:count].mean())
    if options.metric == "quantile":
        return float(options.value * normalised.std())
    if options.metric == "variance":
        return float(options.value * normalised.var())
    raise ValueError(f"metric is 'mean', 'quantile' or 'variance', got {options.metric!r}")


def coverage(attributions: Floats, indices: Sequence[int]) -> float:
    """Share of these tokens in all positive attribution, at least 0; 0 where nothing is positive."""
    positive = attributions[attributions > 0].sum()
    if positive == 0:
        return 0.0
    return max(0.0, float(attributions[list(indices)].sum() / positive))


@dataclass(frozen=True)
class _Patterns:
    """What filters select, apart from where: two filters that are shifts of each other select the same tokens, a window apart.

    Attributes:
        first: offset of each filter's first token in the window.
        rank: of each filter's pattern (its offsets from its own first token) among all patterns in lexicographic order.
        offsets: tokens × patterns. Patterns with fewer tokens are padded with −1.
    """

    first: NDArray[np.int64]
    rank: NDArray[np.int64]
    offsets: NDArray[np.int64]


@cache
def _patterns(length: int, span: bool) -> _Patterns:
    filters = span_filters(length) if span else convolution_filters(length)
    first = filters.argmax(1)
    shifted = [tuple((np.flatnonzero(row) - start).tolist()) for row, start in zip(filters, first, strict=True)]
    patterns = sorted(set(shifted))
    offsets = np.full((length, len(patterns)), -1)
    for column, pattern in enumerate(patterns):
        offsets[: len(pattern), column] = pattern
    rank = np.array([patterns.index(pattern) for pattern in shifted], np.int64)
    return _Patterns(first, rank, offsets)


class Hits(Sequence[Hit]):
    """Hits of one search as columns: a long text has thousands, of which a summary reads five.

    Attributes:
        indices: tokens × hits, ascending; −1 after a hit's last token.
        values: mean normalised attribution of each hit.
        coverages: share of each hit in all positive attribution, at least 0.
    """

    def __init__(self, indices: NDArray[np.int64], values: Floats, coverages: Floats) -> None:
        self.indices, self.values, self.coverages = indices, values, coverages

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        chosen = self.indices[:, index]
        return Hit(tuple(chosen[chosen >= 0].tolist()), float(self.values[index]), float(self.coverages[index]))


def find_hits(
    normalised: Floats, attributions: Floats, threshold: float, options: SearchOptions, *, span: bool
) -> Sequence[Hit]:
    """Hits of the span or the convolution filters, each set of tokens once."""
    length = options.filter_length
    filters = span_filters(length) if span else convolution_filters(length)
    official = options.mode == "official"
    windows_count = len(normalised) - length + (0 if official else 1)
    if windows_count < 1 or not len(filters):
        return []
    windows = normalised[np.arange(windows_count)[:, None] + np.arange(length)]
    weights = filters.T.astype(float)
    values = windows @ weights / weights.sum(0)
    salient = values > threshold
    if options.sign == "+":
        salient &= (windows < 0).astype(float) @ weights == 0
    elif options.sign == "-":
        # only official searches come here: a token that a filter leaves out counts as 0, which is not below 0
        salient &= (windows >= 0).astype(float) @ weights == 0
        salient &= filters.all(1)
    window, number = np.nonzero(salient)
    patterns = _patterns(length, span)
    # one number per set of tokens, in the lexicographic order of their indices
    kinds = patterns.offsets.shape[1]
    keys, at = np.unique((window + patterns.first[number]) * kinds + patterns.rank[number], return_index=True)
    values = values[window[at], number[at]]
    first, rank = np.divmod(keys, kinds)
    offsets = patterns.offsets[:, rank]
    indices = np.where(offsets < 0, -1, first + offsets)
    # index −1 reads the 0 that is put behind the last token
    sums = np.append(attributions, 0)[indices].sum(0)
    positive = attributions[attributions > 0].sum()
    coverages = np.zeros(len(sums))
    if positive:
        coverages = np.maximum(sums / positive, 0)
    order = np.arange(len(keys))[::-1]
    if not official:
        # stable: hits of one coverage stay in the order of their indices
        order = np.argsort(-coverages, kind="stable")
    return Hits(indices[:, order], values[order], coverages[order])


def _half_open(attributions: Floats, indices: Sequence[int]) -> float:
    """The official coverage of a summary: the last token is left out, tokens in gaps are not."""
    return coverage(attributions, range(indices[0], indices[-1]))


def _join_runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal runs of consecutive numbers, both ends included."""
    runs: list[tuple[int, int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    return runs


def _summarise(
    attributions: Floats,
    convolution: Sequence[Hit],
    span: Sequence[Hit],
    top_tokens: Sequence[int],
    options: SearchOptions,
) -> list[Run]:
    official = options.mode == "official"
    salient = set(top_tokens)
    if official:
        # single tokens all have the coverage 0 there, so the first ones of the text are taken
        salient = set(range(min(options.top_k, len(attributions))))
    for hits in (convolution, span):
        ranked = hits
        if official:
            ranked = sorted(hits, key=lambda hit: -_half_open(attributions, hit.indices))
        for hit in ranked[: options.top_k]:
            salient.update(hit.indices)
    runs = []
    # plain numbers: a run has a few tokens, for which arrays are slow
    plain = attributions.tolist()
    positive = float(attributions[attributions > 0].sum())
    for first, last in _join_runs(sorted(salient)):
        share = 0.0
        if positive:
            share = max(0.0, sum(plain[first : last if official else last + 1]) / positive)
        runs.append(Run(first, last, share))
    if not runs:
        return []
    ascending = sorted([run.coverage for run in runs])
    # np.quantile's linear rule, at a tenth of its time for so few numbers
    least = np.interp(options.summary_quantile * (len(runs) - 1), range(len(runs)), ascending)
    return sorted((run for run in runs if run.coverage >= least), key=lambda run: (-run.coverage, run.first))


def search(attributions: Floats, options: SearchOptions | None = None) -> Search:
    """Searches one text. Attributions of 0 (padding, special tokens) are to be dropped before.

    Args:
        attributions: one per token. Positive factors change nothing.
        options: see there.

    Raises:
        ValueError: not one axis of finite numbers, a window of less than 3 tokens, or an unknown sign.
    """
    options = options or SearchOptions()
    values = np.asarray(attributions, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"needs finite attributions (tokens), got shape {values.shape}, {(~np.isfinite(values)).sum()} not finite"
        )
    if options.filter_length < 3:
        raise ValueError(f"a window has at least 3 tokens, got {options.filter_length}")
    if options.sign not in ("+", "-", None):
        raise ValueError(f"sign is '+', '-' or None, got {options.sign!r}")
    if options.mode == "corrected" and options.sign == "-":
        values = -values
        positive = SearchOptions(**{**vars(options), "sign": "+"})
        return search(values, positive)
    if not len(values):
        return Search(values, values, float("nan"), [], [], [], [])
    normalised = normalise(values)
    if options.mode == "official":
        normalised = normalised.astype(np.float32).astype(float)
    threshold = find_threshold(normalised, options)
    convolution = find_hits(normalised, values, threshold, options, span=False)
    span = find_hits(normalised, values, threshold, options, span=True)
    order = np.argsort(-values, kind="stable")
    top = [int(index) for index in order[: options.top_k]]
    if options.sign == "+":
        salient = [index for index in top if values[index] > 0]
    else:
        salient = top
    runs = _summarise(values, convolution, span, salient, options)
    if options.sign == "+" and not (values > 0).any():
        runs = []
    return Search(values, normalised, threshold, convolution, span, top, runs)
