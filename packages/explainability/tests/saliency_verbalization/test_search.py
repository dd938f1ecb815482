import numpy as np
import pytest

from explainability.saliency_verbalization.search import (
    SearchOptions,
    convolution_filters,
    coverage,
    search,
    span_filters,
)

VALUES = np.random.default_rng(0).normal(0.1, 1, 30)


def hits(found, flip=False):
    length = len(VALUES)
    listed = set()
    for hit in found:
        indices = tuple(sorted(length - 1 - i for i in hit.indices)) if flip else hit.indices
        listed.add((indices, round(hit.value, 9)))
    return listed


def test_counts_of_filters():
    assert len(convolution_filters(5)) == 20
    assert len(convolution_filters(7)) == 112
    assert span_filters(5).tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_scale_changes_nothing_and_reversal_mirrors():
    for metric, value in (("mean", 0.4), ("quantile", 0.5), ("variance", 0.5)):
        options = SearchOptions(metric=metric, value=value)
        result = search(VALUES, options)
        assert result.convolution
        assert hits(result.convolution) == hits(search(7 * VALUES, options).convolution)
        assert hits(result.convolution) == hits(search(VALUES[::-1].copy(), options).convolution, flip=True)


def test_negative_is_positive_of_the_opposite():
    negative, positive = search(VALUES, SearchOptions(sign="-")), search(-VALUES, SearchOptions(sign="+"))
    assert list(negative.convolution) == list(positive.convolution) != []
    assert negative.runs == positive.runs


def test_runs_print_what_they_cover():
    result = search(VALUES)
    for run in result.runs:
        assert run.coverage == pytest.approx(coverage(VALUES, range(run.first, run.last + 1)))
    assert [run.coverage for run in result.runs] == sorted((run.coverage for run in result.runs), reverse=True)
    positive = np.flatnonzero(VALUES > 0)
    assert sum(coverage(VALUES, [i]) for i in positive) == pytest.approx(1)


def test_nothing_positive_and_short_texts():
    assert not search(-np.abs(VALUES)).runs
    assert not search(-np.abs(VALUES)).convolution
    for length in range(5):
        result = search(np.ones(length))
        assert not result.convolution
    assert not search(np.array([])).runs


def test_spans_are_runs_and_among_the_convolutions():
    options = SearchOptions(value=1.0)
    result = search(np.abs(VALUES), options)
    gaps = hits(result.convolution)
    assert result.span
    for hit in result.span:
        assert hit.indices == tuple(range(hit.indices[0], hit.indices[-1] + 1))
        if len(hit.indices) == 3:
            assert (hit.indices, round(hit.value, 9)) in gaps


def test_what_is_refused():
    with pytest.raises(ValueError, match="1 not finite"):
        search(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="at least 3 tokens"):
        search(VALUES, SearchOptions(filter_length=2))
